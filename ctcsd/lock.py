"""One writer at a time: a lock that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctcsd.errors import UserError


@contextmanager
def locked(path: Path, message: str) -> Iterator[None]:
    """Hold the lock of a folder, or of a file that is made where it is missing.

    Raises:
        UserError: another process holds it; says `message`.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise UserError(message) from None
    finally:
        os.close(handle)
