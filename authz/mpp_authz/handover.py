"""Leaving without a gap: an authz that was asked to end serves until its successor listens on the same socket.

    SIGTERM -> we say LEAVING -> whoever keeps us starts another -> it renames its socket over ours -> we drain

Knows no gRPC. Used where somebody keeps us (`mpp-gateway run`); a pod is replaced as a whole.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import Final

#: A line on standard error, whatever the log level is: the one word we have with whoever keeps us.
LEAVING: Final = "mpp-gateway authz: leaving, serves until its successor does"

#: Another one: said every few seconds, so that whoever waits for us to serve goes on waiting.
OPENING: Final = "mpp-gateway authz: opening the ledger takes long"

_POLL_SECONDS: Final = 0.02


class Keeper:
    """Whoever started us, and starts another when we say that we want to leave."""

    def __init__(self) -> None:
        self._pid = os.getppid()

    def gone(self) -> bool:
        """Whether it has died: nobody will start a successor."""
        return os.getppid() != self._pid

    def tell(self, word: str = LEAVING) -> None:
        """Say that we want to leave, or another of our words."""
        with contextlib.suppress(OSError):  # it is gone, and the pipe is closed
            os.write(sys.stderr.fileno(), f"{word}\n".encode())

    async def took_over(self, socket: Path, inode: int, limit: float, at_once: asyncio.Event) -> bool:
        """Whether another process listens on `socket` by now, which was ours with that inode.

        Waits for it, at most `limit` seconds. False, too, when somebody is in a hurry, or when nobody keeps us.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit
        while not at_once.is_set() and not self.gone() and loop.time() < deadline:
            try:
                if os.stat(socket).st_ino != inode:
                    return True
            except FileNotFoundError:
                return False  # the folder is being taken away
            await asyncio.sleep(_POLL_SECONDS)
        return False
