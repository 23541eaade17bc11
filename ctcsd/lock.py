"""One writer at a time: a lock that the system lets go of when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ctcsd.errors import UserError


@contextmanager
def locked(path: Path, message: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder, or of a file that is made where it is missing.

    Where another process holds it, print `message` and wait for it, or else

    Raises:
        UserError: says `message`.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not wait:
                raise UserError(message) from None
            print(f"{message}: waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def in_turn(data_dir: Path) -> Iterator[None]:
    """Hold a data folder while a stage makes something in it: a second process waits, and finds it made."""
    data_dir.mkdir(parents=True, exist_ok=True)
    with locked(data_dir / ".lock", f"another process prepares {data_dir}", wait=True):
        yield
