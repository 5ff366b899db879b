"""How log lines look: a fixed event, then its fields. `log.info("pricing loaded", extra={"routes": 3})`."""

import logging
import traceback
from types import TracebackType
from typing import Final

_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Fields(logging.Formatter):
    """`time LEVEL logger event key=value …`; the values are those of `extra`, in the order they were given."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = (f"{key}={value!r}" for key, value in record.__dict__.items() if key not in _STANDARD)
        return " ".join((super().formatMessage(record), *fields))

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Where an error came from and of which kind it is. Never its words: those of a library may be what the
        payer sent (pydantic's are), and credentials are in no log."""
        lines = []
        error = ei[1]
        while error is not None:
            lines += [*traceback.format_tb(error.__traceback__), f"{type(error).__qualname__}\n"]
            error = error.__cause__ or error.__context__
        return "".join(lines).rstrip("\n")


def to_stderr(level: str) -> None:
    """Log to standard error from now on, with this least level."""
    handler = logging.StreamHandler()
    handler.setFormatter(Fields())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every URL, and an RPC URL may hold a key
