"""Leaving without a gap: an authz that was asked to end serves until its successor listens on the same socket.

    SIGTERM -> we say LEAVING -> whoever keeps us starts another -> it renames its socket over ours -> we drain

Knows no gRPC. Used where somebody keeps us (`mpp-gateway run`); a pod is replaced as a whole.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

#: A line on standard error, whatever the log level is: the one word we have with whoever keeps us.
LEAVING: Final = "mpp-gateway authz: leaving, serves until its successor does"

_POLL_SECONDS: Final = 0.02


def announce() -> None:
    """Say that we want to leave."""
    sys.stderr.write(LEAVING + "\n")
    sys.stderr.flush()


async def taken_over(socket: Path, inode: int, limit: float, at_once: asyncio.Event) -> bool:
    """Whether another process listens on `socket` by now, which was ours with that inode.

    Waits for it, at most `limit` seconds. False, too, when somebody is in a hurry, or when our parent is gone:
    then nobody will start a successor.
    """
    parent = os.getppid()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not at_once.is_set() and os.getppid() == parent and loop.time() < deadline:
        try:
            if os.stat(socket).st_ino != inode:
                return True
        except FileNotFoundError:
            return False  # the folder is being taken away
        await asyncio.sleep(_POLL_SECONDS)
    return False
