"""A secret that inputs carry, and the question whether an answer shows it."""

import logging
from typing import Final

import secret_scan

from mpp_authz import logs

#: Seeds carry it where a payer's or an operator's secret would be. The search may destroy it; it cannot make it.
SECRET: Final = "pl4nt3d-s3cr3t-0x5ca1ab1e-of-more-than-forty-characters"


#: All that a text may show it as.
_FORMS: Final = tuple(sorted(form.decode() for form in secret_scan.forms(SECRET)))


def not_shown(*texts: str) -> None:
    """Raises AssertionError where one of the texts shows the planted secret."""
    for text in texts:
        assert not open_in(text), "the planted secret is shown"


def open_in(*texts: str) -> bool:
    """Whether one of the texts, which anybody may see, shows it already: mutations carry it about."""
    return any(form in text for form in _FORMS for text in texts)


class Listener(logging.Handler):
    """Every log line from debug on, formatted as authz prints it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logs.Fields())
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


def listen() -> Listener:
    """Hear all that mpp_authz logs from now on; nothing of it is printed."""
    listener = Listener()
    logger = logging.getLogger("mpp_authz")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(listener)
    logger.propagate = False
    return listener
