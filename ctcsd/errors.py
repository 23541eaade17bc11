"""Errors that are the user's to mend, as opposed to bugs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """a failure that is explained in one line (exit code 1)"""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn UserError and what the system refuses (full disk, permissions) into one line on stderr and exit code 1."""
    try:
        yield
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt:
        _say("interrupted")
        raise SystemExit(130) from None
    except OSError as error:
        message = _of_system(error)
    else:
        return
    _say(f"error: {message}")
    raise SystemExit(1)


def _of_system(error: OSError) -> str:
    what = os.strerror(error.errno) if error.errno else str(error)
    return f"{error.filename}: {what}" if error.filename else what


def _say(message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr)
