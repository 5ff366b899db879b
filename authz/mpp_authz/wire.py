"""The names that Envoy's configuration and authz agree on. Knows no protobuf; imports nothing.

The operator writes these names into Envoy's configuration, authz reads them from Checks and access log
entries. Each has one owner: this module.
"""

from typing import Final

# --- Envoy -> authz: a Check ---------------------------------------------------------------------------

#: Context extension of a priced route: its route key. authz never matches a path again.
ROUTE_CONTEXT: Final = "route"

#: gRPC initial metadata of every Check: the instance id of the Envoy that asks (its `node.id`).
DATA_PLANE_METADATA: Final = "x-mpp-data-plane"

#: The one name of all filters that matter only where authz is asked, its own two (a lane for requests that carry a
#: Payment credential, one for the others) among them. Per-route settings are keyed by it; a free route switches
#: them off by it.
PRICED_FILTERS: Final = "mpp.priced"

#: What a proxy that ends TLS for us said in X-Forwarded-Proto. Envoy sets it for peers of `terminatedBy` only,
#: drops a client's own, and tells no upstream.
FORWARDED_PROTO: Final = "mpp-forwarded-proto"

#: An `authorization` value that carries a Payment credential, also behind another scheme: Envoy joins two
#: Authorization lines with a comma. The one predicate for choosing the lane and for stripping.
CREDENTIAL_PATTERN: Final = r"(?i)^(.*,)?[ \t]*payment[ \t].*$"
#: Its companion: this header is a Payment credential whatever it holds.
CREDENTIAL_HEADER: Final = "payment-authorization"

# --- authz -> Envoy: the answer ------------------------------------------------------------------------

#: Set on our own 402 and removed on the way out: what tells it from an upstream's 402.
CHALLENGE_MARKER: Final = "x-mpp-challenge"
#: Only on 2xx; Envoy takes it off every other answer (draft-httpauth-payment-00, Receipts).
RECEIPT_HEADER: Final = "payment-receipt"
#: Ours: only on answers that delivered nothing. Its value is the challenge id; presenting the same
#: credential again costs nothing. Envoy takes it off 1xx, 2xx and 304.
CREDIT_HEADER: Final = "payment-credit"
#: What a 503 says while none of a route's offers can be made, as when a sponsor has no money. `mpp-gateway run`
#: knows by it that authz answers.
NO_OFFER: Final = "No way to pay for this is available now."
#: Told to the upstream on paid requests, removed from clients' requests on every route.
FACT_PREFIX: Final = "x-mpp-"

# --- Envoy -> authz: what was delivered ----------------------------------------------------------------

#: Dynamic metadata of a paid request, set by authz, read by the access logs.
METADATA_NAMESPACE: Final = "envoy.filters.http.ext_authz"
PAYMENT_METADATA: Final = "payment_id"
ATTEMPT_METADATA: Final = "attempt"  # a decimal string, so that no log prints it as a float
#: What `CREDIT_HEADER` would say; absent on the last attempt. For answers that Envoy makes anew.
CREDIT_METADATA: Final = "credit"

#: `log_name` of the gRPC access log.
ACCESS_LOG_NAME: Final = "mpp-outcomes"

#: One JSON line of the outcome file, the second witness. A value Envoy does not know is `null` or "-".
#: `began` is the milliseconds until the upstream's first byte, absent when there was none; `finished` those from
#: its first to its last, absent when it never ended.
OUTCOME_FORMAT: Final = {
    "payment": f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:{PAYMENT_METADATA})%",
    "attempt": f"%DYNAMIC_METADATA({METADATA_NAMESPACE}:{ATTEMPT_METADATA})%",
    "status": "%RESPONSE_CODE%",
    "flags": "%RESPONSE_FLAGS%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "began": "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:ms)%",
    "finished": "%COMMON_DURATION(US_RX_BEG:US_RX_END:ms)%",
}
#: The outcome file of a live Envoy, and its name once that Envoy is gone and will write no more.
OUTCOME_LIVE_SUFFIX: Final = ".log"
OUTCOME_ENDED_SUFFIX: Final = ".ended"
#: Between an Envoy's id and the number of a part that was put aside because the file grew long.
OUTCOME_PART: Final = ".part-"
