"""Text files, plain or gzipped, and symbol tables: every error is one line that names the file and the line."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

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
        if not symbol or index != str(len(symbols)):
            raise UserError(f"{path}: line {number} should read 'SYMBOL {len(symbols)}'")
        symbols.append(symbol)
    return symbols


def symbol_lines(symbols: Iterable[str]) -> str:
    """The content of such a table."""
    return "".join(f"{symbol} {i}\n" for i, symbol in enumerate(symbols))
