"""What texts in our YAML look like. Each pattern is matched as a whole, and is written for RE2 as well as for
Python: the CRD carries the same."""

from typing import Final

from mpp_operator import money

DURATION: Final = r"([0-9]{1,5}(h|m|s|ms)){1,4}"  # Gateway API's (GEP-2257)
INSTANT: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})"
LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
HOST: Final = rf"{LABEL}(\.{LABEL})*"
OBJECT_NAME: Final = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?"
SECRET_KEY: Final = r"[-._a-zA-Z0-9]{1,253}"  # noqa: S105 -- a pattern
HEADER_NAME: Final = r"[A-Za-z0-9!#$&'*+.^_|~-]{1,128}"
HEADER_VALUE: Final = r"[\t\x20-\x7e]*"
USERNAME: Final = r"[\x21-\x39\x3b-\x7e]{1,256}"  # a colon ends the user name of HTTP Basic
CURRENCY: Final = r"[A-Za-z0-9._-]{1,64}"
ADDRESS: Final = r"0x[0-9a-fA-F]{40}"
BASE_PATH: Final = r"/|(/[A-Za-z0-9._~-]+)+"
_SEGMENT: Final = r"([A-Za-z0-9._~!$&'()+,;=@-][A-Za-z0-9._~!$&'()+,;=:@-]*|\{[A-Za-z0-9_-]+\}|:[A-Za-z0-9_-]+|\*)"
PATH: Final = rf"/|/\*\*|(/{_SEGMENT})+(/|/\*\*)?"
DOT_SEGMENT: Final = r"(.*/)?\.\.?(/.*)?"
DOTTED_URL: Final = rf"https?://[^/]*/{DOT_SEGMENT}"
#: Under a host's root and under every basePath these are the gateway's own.
RESERVED: Final = r"/(openapi\.json|llms\.txt|(services|discover)(\.[^/]*)?|-)(/.*)?"
#: These stay the gateway's own also where a service does without discovery.
ALWAYS_RESERVED: Final = r"/-(/.*)?"
_URL_LABEL: Final = r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_URL_HOST: Final = rf"({_URL_LABEL}(\.{_URL_LABEL})*|\[[0-9a-fA-F:.]+\])"
_PORT: Final = (
    r"([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"  # to 65535
)
URL: Final = rf"https?://{_URL_HOST}(:{_PORT})?(/[A-Za-z0-9._~!$&'()*+,;=:@-]+)*/?"
LINE: Final = r"[^\x00-\x1f]+"
VERSION: Final = r"[\x21-\x7e]+"
CATEGORY: Final = r"[a-z0-9]+(-[a-z0-9]+)*"
OPERATION_ID: Final = r"[A-Za-z0-9._-]+"
_URI_CHARACTER: Final = r"([A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})"
LINK: Final = rf"https?://{_URL_HOST}(:{_PORT})?([/?]{_URI_CHARACTER}*)?(#{_URI_CHARACTER}*)?"  # RFC 3986
ORIGIN: Final = r"\*|https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?"
#: Headers that are not the author's to set: they steer the connection, Envoy, or what the upstream believes of
#: a payment. Compared in lower case.
FORBIDDEN_HEADER: Final = (
    r"host|connection|keep-alive|proxy-connection|proxy-authenticate|proxy-authorization|te|trailer"
    r"|transfer-encoding|upgrade|content-length|payment-.*|x-mpp-.*|x-envoy-.*"
)
DECIMAL: Final = money.DECIMAL.pattern
BASE_UNITS: Final = money.BASE_UNITS.pattern
