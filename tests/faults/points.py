"""Every named moment at which a fault can strike, with a sentence each. Pure data; nobody sleeps to hit one.

A moment inside authz is announced by the double layer of `instrument`, one outside by the harness's own node,
upstream and clients. `<part>.<what>.<before|after>`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

#: Inside authz: between Check and the end of the answer, in the order in which a paid request meets them.
AUTHZ: Final[Mapping[str, str]] = MappingProxyType(
    {
        "check.received": "a Check with a credential arrived, and nothing was done for it",
        "verify.before": "a new credential is about to be judged",
        "verify.after": "it was judged, and nothing was claimed",
        "settle.before": "the method is about to settle",
        "ledger.settling.before": "the row that claims the payment is about to be written",
        "ledger.settling.after": "the claim is durable, and nothing was sent",
        "ledger.envelope.before": "a sponsored payment was co-signed, and that is about to be stored",
        "ledger.envelope.after": "the co-signed transaction is stored, and was not sent",
        "settle.after": "the method says what became of it, and the row does not know yet",
        "ledger.settled.before": "that the money is ours is about to be written",
        "ledger.settled.after": "that the money is ours was written, and nothing was let through",
        "ledger.unknown.before": "that nobody knows the outcome is about to be written",
        "ledger.unknown.after": "that nobody knows the outcome was written",
        "lookup.before": "the chain is about to be asked what became of an open payment",
        "lookup.after": "the chain was asked, and the row does not know yet",
        "resend.before": "the same transaction is about to be sent again",
        "resend.after": "it was sent again",
        "ledger.spent.before": "an old credit is about to be taken by a new credential: two rows, one write",
        "ledger.spent.after": "the credit was taken, and nothing was let through",
        "ledger.delivering.before": "an attempt is about to begin",
        "ledger.delivering.after": "the attempt is written, and its Check is not answered",
        "check.answering": "the verdict on a credential is known, and Envoy did not hear it",
        "outcome.arrived": "Envoy's report on a paid request arrived, and was not read",
        "ledger.delivered.before": "that the answer went out is about to be written",
        "ledger.delivered.after": "that the answer went out was written",
        "ledger.credit.before": "that the payer is owed the request is about to be written",
        "ledger.credit.after": "that the payer is owed the request was written",
        "outcomes.read.before": "an Envoy's outcome file is about to be read",
        "outcomes.read.after": "it was read, and nothing was concluded from it",
        "sweep.round": "a round of the sweeper begins",
        "authz.starting": "an authz starts after another one's end, and has not opened its ledger",
    }
)

#: At the chain's node, for each call that authz (or another payee) makes: before the chain has it, and after,
#: before the answer goes back.
RPC: Final[Mapping[str, str]] = MappingProxyType(
    {
        "rpc.send.before": "a transaction is on its way to the chain",
        "rpc.send.after": "the chain has included it, and nobody heard of it",
        "rpc.receipt.before": "a receipt is asked for",
        "rpc.receipt.after": "the receipt is on its way back",
        "rpc.block.before": "a block is asked for",
        "rpc.call.before": "the node is asked for a balance or a simulation",
    }
)

UPSTREAM: Final[Mapping[str, str]] = MappingProxyType(
    {
        "upstream.hit": "the whole request is with the upstream, and it answered nothing",
        "upstream.headers": "its headers went out, and no byte of the body",
        "upstream.half": "half of its body went out",
        "upstream.finished": "its whole answer went out",
    }
)

CLIENT: Final[Mapping[str, str]] = MappingProxyType(
    {
        "client.sent": "a client sent a request with a credential",
        "client.headers": "a client has the headers of an answer to a credential",
    }
)

ALL: Final[Mapping[str, str]] = MappingProxyType({**AUTHZ, **RPC, **UPSTREAM, **CLIENT})

#: Where a payee that is a stranger to us, such as mppx's own proxy, can be observed as well.
OUTSIDE: Final[Mapping[str, str]] = MappingProxyType({**RPC, **UPSTREAM, **CLIENT})

#: What the node calls RPC methods.
RPC_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "eth_sendRawTransactionSync": "send",
        "eth_sendRawTransaction": "send",
        "eth_getTransactionReceipt": "receipt",
        "eth_getBlockByNumber": "block",
        "eth_call": "call",
        "tempo_simulateV1": "call",
    }
)
