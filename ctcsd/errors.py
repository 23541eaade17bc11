"""Errors that are the user's to mend, as opposed to bugs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """a failure that is explained in one line (exit code 1), whatever characters it quotes from a file

    Without a message: a process that was asked to do the work has said why.
    """

    code = 1

    def __str__(self) -> str:
        return _printable(super().__str__())


class WrongUse(UserError):
    """Options or arguments that a command does not take."""

    code = 2


class SomeFailed(UserError):
    """All is done but for some utterances, which the line names or points to."""

    code = 3


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn UserError and what the system refuses (disk, memory, permissions) into one line on stderr, and exit."""
    code = 1
    try:
        yield
    except UserError as error:
        message, code = str(error), error.code
    except KeyboardInterrupt:
        _say("interrupted")
        raise SystemExit(130) from None
    except OSError as error:
        message = _of_system(error)
    except MemoryError:
        message = "out of memory"
    else:
        return
    if message:
        _say(f"error: {message}")
    raise SystemExit(code)


def first_line(error: Exception) -> str:
    """The first line of what an error says, or else its class."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _of_system(error: OSError) -> str:
    what = os.strerror(error.errno) if error.errno else str(error)
    return f"{error.filename}: {what}" if error.filename else what


def _say(message: str) -> None:
    print(" ".join(_printable(message).split()), file=sys.stderr)


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
