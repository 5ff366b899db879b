"""Offers become challenges, and an echoed challenge is held against the request it came with. Pure but for the
nonce; knows no store, no chain. Minting touches neither.
"""

import base64
import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address, ip_network
from typing import Any, Final

from mpp_authz import challenge
from mpp_authz.challenge import Bound, Challenge, Keyring
from mpp_authz.ledger import Binding
from mpp_authz.methods import Method
from mpp_authz.pricing import Network, Offer, RoutePrice, Transport

_AUTHORIZATION: Final = "authorization"


@dataclass(frozen=True, slots=True)
class Request:
    """What authz knows of one HTTP request. Header values are as Envoy gives them: duplicates joined by commas."""

    route: str | None  # route key
    http_method: str
    host: str  # lower case, no port
    scheme: str
    peer: str  # address of the direct peer
    path: str  # as Envoy normalised it, without the query
    query: str  # raw, without "?"
    authorization: str | None = field(default=None, repr=False)
    payment_authorization: str | None = field(default=None, repr=False)
    accept_payment: str | None = None
    idempotency_key: str | None = field(default=None, repr=False)
    forwarded_proto: str | None = None
    body: bytes | None = field(default=None, repr=False)  # None: the route does not bind it
    data_plane: str = ""
    id: str = ""  # Envoy's, made anew for every request

    def target(self, *, bind_query: bool) -> str:
        """What a challenge binds of it: an empty query is none, and no path holds a question mark."""
        return f"{self.path}?{self.query}" if bind_query else self.path

    @property
    def digest(self) -> str | None:
        """`sha-256=<base64>`, as the SDKs write it (the draft's form has colons)."""
        if self.body is None:
            return None
        return "sha-256=" + base64.b64encode(hashlib.sha256(self.body).digest()).decode("ascii")


# --- minting -------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=65_536)
def _request_text(method: Method, offer: Offer, network: Network) -> str:
    """Canonical bytes of an offer's request: the same for every challenge of an offer."""
    return challenge.canonical(method.request(offer, network))


def mint(
    request: Request,
    key: str,
    price: RoutePrice,
    offers: Sequence[tuple[Offer, Method, Network]],
    keyring: Keyring,
    now_ms: int,
) -> tuple[Challenge, ...]:
    """One challenge for each offer, in order, all good for exactly this request."""
    expires = challenge.timestamp(now_ms + price.expires_in * 1000)
    target = keyring.target_hash(request.target(bind_query=price.bind_query))
    header = None if price.credential_header.lower() == _AUTHORIZATION else price.credential_header
    return tuple(
        keyring.mint(
            realm=price.realm or request.host,
            method=offer.method,
            intent=offer.intent,
            request=_request_text(method, offer, network),
            expires=expires,
            digest=request.digest,
            header=header,
            opaque=Bound(
                challenge.nonce(), now_ms, request.http_method, key, target, network.name, offer.name
            ).encode(),
        )
        for offer, method, network in offers
    )


# --- an echo against its request -----------------------------------------------------------------------


def binding(echo: Challenge, bound: Bound) -> Binding:
    """What a challenge is good for: the key under which a credit is kept."""
    return Binding(bound.route, bound.http_method, bound.target_hash, echo.digest or "")


def mismatch(request: Request, paid_for: Binding, keyring: Keyring) -> str | None:
    """Why a payment for `paid_for` does not open this request; None: it does.

    Realm, HTTP method, route key, path and query make a credential useless anywhere else, also at the same price:
    who paid for one id of `/users/{id}` paid for no other.
    """
    if paid_for.route != request.route:
        return "it was issued for another route"
    if paid_for.http_method != request.http_method:
        return f"it was issued for {paid_for.http_method}, this is {request.http_method}"
    if paid_for.target_hash not in target_hashes(request, paid_for.target_hash, keyring):
        return "it was issued for another path or query"
    # A route that no longer binds bodies has none to compare: the payer keeps what was quoted.
    digest = request.digest
    if paid_for.digest and digest is not None and paid_for.digest != digest:
        return "it was issued for another request body"
    return None


def target_hashes(request: Request, paid_for: str, keyring: Keyring) -> tuple[str, ...]:
    """This request's target as challenges may say it, whichever key signed them: with its query or without, as the
    one does that says `paid_for`. What was quoted without the query is good for every query."""
    bare = keyring.target_hashes(request.target(bind_query=False))
    return bare if paid_for in bare else keyring.target_hashes(request.target(bind_query=True))


def foreign(request: Request, price: RoutePrice, echo: Challenge) -> str | None:
    """Why a challenge of ours was not issued for this place; None: it was."""
    if echo.realm != (price.realm or request.host):
        return "it was issued for another realm"
    return None


def elsewhere(request: Request, price: RoutePrice, echo: Challenge) -> str | None:
    """Why a payment that was taken is not for this place; None: it is. A realm that somebody set after the payment
    takes nothing from the payer: the host that was paid at stays good."""
    return None if echo.realm in (price.realm, request.host) else "it was issued for another realm"


def read(echo: Challenge) -> tuple[Bound, Mapping[str, Any]]:
    """What a challenge of ours says: what it is bound to, and its decoded request.

    Raises:
        ValueError: its id is right and yet it is none of this gateway's: somebody shares the key.
    """
    try:
        expires_at(echo)
        bound, request = Bound.decode(echo.opaque or ""), challenge.read_request(echo)
    except (KeyError, TypeError) as error:
        raise ValueError("not a challenge of this gateway") from error
    if not all(isinstance(request.get(name), str) for name in ("amount", "currency", "recipient")):
        raise ValueError("not a request of this gateway")  # a row could not say what was paid
    return bound, request


def chain_id(request: Mapping[str, Any]) -> int | None:
    """The chain a signed request names; None: its method has none, or names it otherwise."""
    details = request.get("methodDetails")
    found = details.get("chainId") if isinstance(details, Mapping) else None
    return found if isinstance(found, int) else None


def expires_at(echo: Challenge) -> float:
    """Unix seconds after which a challenge of ours is void."""
    return datetime.fromisoformat(echo.expires or "1970-01-01T00:00:00Z").timestamp()


# --- headers -------------------------------------------------------------------------------------------


class BadCredentials(ValueError):
    """Not exactly one Payment credential: the request is refused before anything is looked at."""


def token(request: Request) -> str | None:
    """The one Payment credential of a request; None: it carries none.

    Raises:
        BadCredentials: two or more Payment credentials ("SHOULD 400", draft-httpauth-payment-00), or one beside
            another scheme in `Authorization`.
    """
    parts = _parts(request.authorization)
    payments = [part for part in parts if _is_payment(part)]
    if payments and len(parts) > len(payments):
        raise BadCredentials(
            "Authorization holds a Payment credential beside another scheme. "
            "Send the Payment credential alone, or in Payment-Authorization where the challenge names that header."
        )
    payments += _parts(request.payment_authorization)
    if len(payments) > 1:
        raise BadCredentials(f"Send exactly one Payment credential; this request has {len(payments)}.")
    if not payments:
        return None
    # In Payment-Authorization, a value without the scheme is read as what it is: a malformed credential.
    return payments[0][len("payment") :].strip(_OWS) if _is_payment(payments[0]) else ""


#: What HTTP calls white space (RFC 9110, OWS), and Envoy, which chooses the lane and takes credentials off. Python
#: knows more: what only we would find a credential in would reach the upstream.
_OWS: Final = " \t"


def _parts(value: str | None) -> list[str]:
    return [part.strip(_OWS) for part in (value or "").split(",") if part.strip(_OWS)]


def _is_payment(part: str) -> bool:
    return part[:7].lower() == "payment" and part[7:8] in (" ", "\t")


# --- transport -----------------------------------------------------------------------------------------


def secure(request: Request, transport: Transport) -> bool:
    """Whether a challenge may be issued here: over https, or on loopback, or where the operator says so.

    "Challenges MUST NOT be issued over a connection that is not secured" (draft-httpauth-payment-00, TLS).
    """
    if transport.insecure_http or request.scheme == "https":
        return True
    try:
        peer = ip_address(request.peer)
    except ValueError:
        return False  # a pipe, or nothing: not loopback as far as we can tell
    if peer.is_loopback:
        return True
    trusted = any(peer in ip_network(cidr) for cidr in transport.terminated_by)
    return trusted and (request.forwarded_proto or "").lower() == "https"
