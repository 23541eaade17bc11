"""Reading and writing files: each error is one line that names the file; what is written is whole or not there."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctcsd.errors import UserError


def lines_of(path: Path, encoding: str = "utf-8") -> Iterator[str]:
    """The lines of a text file, without their ends; a name ending in `.gz` says that it is compressed.

    Raises:
        UserError: no such file, a damaged .gz, or bytes that are no text in this encoding.
    """
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as lines:
            for line in lines:
                number += 1
                yield line.decode(encoding).rstrip("\r\n")
    except UnicodeDecodeError:
        raise UserError(f"{path}: line {number} is not text in {encoding.upper()}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise UserError(f"{path}: damaged after line {number}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a text file, one per line.

    Raises:
        UserError: as `lines_of`, or a line that is no JSON object.
    """
    for number, line in enumerate(lines_of(path), start=1):
        yield json_object(line, f"{path}: line {number}")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object that a file holds; raises UserError as `lines_of`, or where it holds anything else."""
    return json_object("\n".join(lines_of(path)), str(path))


def json_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object that a text is; raises UserError, which names it by `where`, for any other text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{where} is not a JSON object")
    return found


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number that one can reckon with: not NaN, infinity, or an integer without bounds."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e15


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """The name of a hidden file to write; it becomes `path` when the block ends, and is removed where that fails.

    Raises:
        UserError: the system refuses (full disk, no permission): `path` is as it was before.
    """
    partial = path.with_name(f".partial.{path.name}")  # endings say what is in a file, so they stay
    try:
        with writing(path):
            yield partial
            with open(partial, "rb") as written:
                os.fsync(written.fileno())
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all; raises UserError as `replacing`."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write a file, or the files of a folder, into a UserError that names `path`."""
    try:
        yield
    except OSError as error:  # of a full disk it names no file, or both that it copies
        named = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if named and not any(name.startswith(str(path.parent)) for name in named):
            raise
        raise UserError(f"cannot write {path}: {error.strerror or error}") from None


def read_symbols(path: Path) -> list[str]:
    """The symbols, by id, of a table in Kaldi's and k2's format: `SYMBOL ID` per line, ids 0, 1, 2 and so on.

    Raises:
        UserError: as `lines_of`, or a line that is not the next symbol.
    """
    symbols: list[str] = []
    for number, line in enumerate(lines_of(path), start=1):
        if not line:
            continue
        symbol, _, index = line.rpartition(" ")
        if symbol.split() != [symbol] or index != str(len(symbols)):
            raise UserError(f"{path}: line {number} should read 'SYMBOL {len(symbols)}'")
        symbols.append(symbol)
    return symbols


def symbol_lines(symbols: Iterable[str]) -> str:
    """The content of such a table."""
    return "".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols))
