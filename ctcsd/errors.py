"""Errors that are the user's to mend, as opposed to bugs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """a failure that is explained in one line (exit code 1), whatever characters it quotes from a file"""

    def __str__(self) -> str:
        return _printable(super().__str__())


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn UserError and what the system refuses (disk, memory, permissions) into one line on stderr, exit code 1."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt:
        _say("interrupted")
        raise SystemExit(130) from None
    except OSError as error:
        message = _of_system(error)
    except MemoryError:
        message = "out of memory"
    else:
        return
    _say(f"error: {message}")
    raise SystemExit(1)


def _of_system(error: OSError) -> str:
    what = os.strerror(error.errno) if error.errno else str(error)
    return f"{error.filename}: {what}" if error.filename else what


def _say(message: str) -> None:
    print(" ".join(_printable(message).split()), file=sys.stderr)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
