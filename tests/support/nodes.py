"""A node whose chain is a list: a double, for what a real node does not do when asked (lag, lie, refuse a range).

    with nodes.serving() as node:
        node.mine(3); node.pay("0x01", recipient, 50)
        node.refuses_more_than = 10

It speaks JSON-RPC over HTTP on loopback, and knows the few calls an audit makes.
"""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from mpp.methods.tempo import attribution
from mpp.methods.tempo.intents import TRANSFER_TOPIC, TRANSFER_WITH_MEMO_TOPIC

CHAIN_ID: Final = 7
TOKEN: Final = "0x20c0" + "00" * 18
RECIPIENT: Final = "0x" + "aa" * 20
PAYER: Final = "0x" + "bb" * 20
REALM: Final = "api.example.com"
#: Block n is made at GENESIS + n seconds.
GENESIS: Final = 1_700_000_000


@dataclass(slots=True)
class Node:
    """Blocks, logs, and bad habits. `finalized` None: the node knows no such tag."""

    url: str = ""
    head: int = 0
    finalized: int | None = None
    logs: list[dict[str, Any]] = field(default_factory=list)
    reverted: dict[str, int] = field(default_factory=dict)  # references, and their blocks
    refuses_more_than: int | None = None  # blocks in one question
    most_logs: int | None = None  # in one answer
    forks_at: int | None = None  # from there on its blocks are others
    hides: set[str] = field(default_factory=set)  # transactions it leaves out of eth_getLogs
    fails: dict[str, int] = field(default_factory=dict)  # so many times each method is answered 503
    says: dict[str, Any] = field(default_factory=dict)  # answers of these methods, whatever is true
    before: dict[str, Callable[[], None]] = field(
        default_factory=dict
    )  # called once, before a method's first answer
    seen: list[tuple[str, Any]] = field(default_factory=list)

    def mine(self, count: int = 1) -> None:
        self.head += count

    def pay(
        self,
        reference: str,
        amount: int,
        *,
        challenge: str | None = None,
        realm: str = REALM,
        recipient: str = RECIPIENT,
        payer: str = PAYER,
        token: str = TOKEN,
        new_block: bool = True,
    ) -> None:
        """A transfer, in a block of its own unless told; two logs where it has a memo."""
        if new_block:
            self.mine()
        indexed = ["0x" + payer[2:].zfill(64), "0x" + recipient[2:].zfill(64)]
        topics = [[TRANSFER_TOPIC, *indexed]]
        if challenge is not None:
            topics.append([TRANSFER_WITH_MEMO_TOPIC, *indexed, attribution.encode(challenge, realm)])
        for entry in topics:
            self.logs.append(
                {
                    "address": token,
                    "topics": entry,
                    "data": f"0x{amount:064x}",
                    "blockNumber": hex(self.head),
                    "transactionHash": hashed(reference),
                    "logIndex": hex(len(self.logs)),
                    "removed": False,
                }
            )

    # --- answering -------------------------------------------------------------------------------------

    def answer(self, method: str, parameters: list[Any]) -> Any:
        self.before.pop(method, lambda: None)()
        if method in self.says:
            return self.says[method]
        match method:
            case "eth_chainId":
                return hex(CHAIN_ID)
            case "eth_blockNumber":
                return hex(self.head)
            case "eth_getBlockByNumber":
                return self._block(parameters[0])
            case "eth_getTransactionReceipt":
                return self._receipt(parameters[0])
            case "eth_getLogs":
                return self._logs(parameters[0])
        raise Refusal(-32601, "no such method")

    def _block(self, name: str) -> Any:
        if name == "finalized" and self.finalized is None:
            raise Refusal(-39001, "unknown block")
        number = self.finalized if name == "finalized" else int(name, 16)
        assert number is not None
        if number > self.head:
            return None
        branch = "f" if self.forks_at is not None and number >= self.forks_at else "0"
        return {
            "number": hex(number),
            "timestamp": hex(GENESIS + number),
            "hash": "0x" + branch + f"{number:063x}",
        }

    def _receipt(self, reference: str) -> Any:
        logs = [log for log in self.logs if log["transactionHash"] == reference]
        if reference in self.reverted:
            return {"transactionHash": reference, "status": "0x0", "blockNumber": hex(self.reverted[reference])}
        if not logs:
            return None
        return {
            "transactionHash": reference,
            "status": "0x1",
            "blockNumber": logs[0]["blockNumber"],
            "logs": logs,
        }

    def _logs(self, question: dict[str, Any]) -> Any:
        first, last = int(question["fromBlock"], 16), int(question["toBlock"], 16)
        if self.refuses_more_than is not None and last - first + 1 > self.refuses_more_than:
            raise Refusal(-32005, "block range is too wide")
        found = [
            log
            for log in self.logs
            if first <= int(log["blockNumber"], 16) <= last
            and log["address"] in question["address"]
            and log["topics"][0] in question["topics"][0]
            and log["topics"][2] in question["topics"][2]
            and log["transactionHash"] not in self.hides
        ]
        if self.most_logs is not None and len(found) > self.most_logs:
            raise Refusal(-32005, "query returned too many results")
        return found

    def count(self, method: str) -> int:
        return sum(name == method for name, _ in self.seen)


class Refusal(Exception):
    """The node's own error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def hashed(name: str) -> str:
    """A transaction hash for a short name of hex digits."""
    return "0x" + name.removeprefix("0x").zfill(64)


@contextlib.contextmanager
def serving(node: Node | None = None) -> Iterator[Node]:
    """Serve a node, a fresh one unless given, on a free port for as long as the block lasts."""
    served = node or Node()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one packet, or each answer waits for an acknowledgement

        def do_POST(self) -> None:
            call = json.loads(self.rfile.read(int(self.headers["content-length"])))
            method, parameters = call["method"], call["params"]
            served.seen.append((method, parameters))
            status, document = 200, {"jsonrpc": "2.0", "id": call["id"]}
            if served.fails.get(method, 0) > 0:
                served.fails[method] -= 1
                status = 503
            else:
                try:
                    document["result"] = served.answer(method, parameters)
                except Refusal as refusal:
                    document["error"] = {"code": refusal.code, "message": str(refusal)}
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
