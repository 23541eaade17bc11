"""Read `queen.1c`, the one data file of the game Flight of the Amazon Queen: which text is spoken in which clip.

All integers are big-endian, all texts latin-1. A table names the entries; entries ending in `.SB` are MP3 speech,
`.DOG` are dialogues, `.CUT` are cut scenes and `QUEEN2.JAS` holds what Joe, the hero, says about the things he looks
at. A line of text has a clip-name prefix of seven characters; commands cut the line into segments, and segment k is
spoken in the clip `PREFIX + hex(k) + .SB`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ctcsd.errors import UserError

TABLE_COUNT, TABLE_START, ENTRY_BYTES = 13, 15, 21
CHUNK_BASE = 20  # offsets inside .DOG and .CUT entries count from here
LEVEL_BYTES, LEVELS_START = 96, 32
JOE_FIRST_DESCRIPTION = 41
JOE_EXTRA_LINES = range(1187, 1227)  # these descriptions are numbered from 1 again
COMMAND = re.compile(r"\*(?:XY.{11}|..)", re.DOTALL)


@dataclass(frozen=True)
class Clip:
    """One spoken segment: its clip without `.SB`, its text, who speaks, where the MP3 lies (bytes), and its source."""

    name: str
    text: str
    speaker: str
    offset: int
    size: int
    source: str  # DOG, CUT or JAS


Entries = dict[str, tuple[int, int]]
Line = tuple[str, str, str, str]  # prefix, text, speaker, source


def clips(data: bytes) -> Iterator[Clip]:
    """Every clip whose text is known, in the order of the texts. Raises UserError where `data` is no whole queen.1c."""
    entries = read_table(data)
    for prefix, text, speaker, source in _lines(data, entries):
        for number, segment in enumerate(segments(text), start=1):
            name = f"{prefix}{number:X}"
            where = entries.get(f"{name}.SB")
            if segment and where:
                yield Clip(name, segment, speaker, *where, source)


def read_table(data: bytes) -> Entries:
    """Entry name -> (offset, size) in bytes. Raises UserError where the table or an entry reaches past the end."""
    try:
        (count,) = struct.unpack_from(">H", data, TABLE_COUNT)
        entries = {}
        for index in range(count):
            raw, _, offset, size = struct.unpack_from(">12sBII", data, TABLE_START + ENTRY_BYTES * index)
            name = raw.split(b"\0")[0].decode("latin-1").upper()
            if not name or offset + size > len(data):
                raise UserError(
                    f"queen.1c: entry {index} ({name or 'no name'}) does not lie inside the file: damaged or cut off"
                )
            entries[name] = (offset, size)
    except struct.error as error:
        raise UserError(f"queen.1c: the table of entries is cut off ({len(data)} bytes)") from error
    return entries


def segments(text: str) -> list[str]:
    """The pieces of a line between its commands; empty pieces stay, because they consume a number."""
    return [piece.strip() for piece in COMMAND.split(text)]


def _lines(data: bytes, entries: Entries) -> Iterator[Line]:
    seen: set[str] = set()
    for name, (offset, size) in entries.items():
        chunk = data[offset : offset + size]
        stem, _, kind = name.rpartition(".")
        try:
            if kind == "DOG":
                found = list(_dialogue(stem, chunk))
            elif kind == "CUT":
                found = list(_cut_scene(stem, chunk))
            elif name == "QUEEN2.JAS":
                found = list(_descriptions(chunk))
            else:
                continue
        except (struct.error, IndexError) as error:
            raise UserError(f"queen.1c: {name} is damaged: {error}") from error
        for line in found:
            if line[0] not in seen:  # LARIS.DOG uses an id twice; the first text is the one spoken
                seen.add(line[0])
                yield line


def _dialogue(stem: str, chunk: bytes) -> Iterator[Line]:
    levels, key, joe_lines, person_lines = (_int16(chunk, at) for at in (0, 4, 6, 8))
    person = re.sub(r"\d+", "", stem).lower()
    joe_start = LEVELS_START + LEVEL_BYTES * abs(levels)
    for count, start, letter, speaker in (
        (joe_lines, joe_start, "J", "joe"),
        (person_lines, _uint16(chunk, 22), "P", person),
    ):
        at = start
        for index in range(count):
            number = _uint16(chunk, at + 2)
            text = _string(chunk, at + 4)
            greeting = letter == "J" and index == 0 and number == 0
            prefix = f"{key:2d}SSSSJ" if greeting else f"{key:2d}{number:4x}{letter}"
            yield _zeros(prefix), text, speaker, "DOG"
            at = _align(at + 5 + len(text), 4)
    at = _uint16(chunk, 26)
    for letter, speaker in (("P", person), ("J", "joe")):
        text = _string(chunk, at)
        yield _zeros(f"{key:2d}XXXX{letter}"), text, speaker, "DOG"
        at = _align(at + 1 + len(text), 2)


def _cut_scene(stem: str, chunk: bytes) -> Iterator[Line]:
    count = abs(_int16(chunk, 2))
    at = _uint16(chunk, 8)
    for index in range(count + 1):  # string 0 is not spoken
        text = _string(chunk, at)
        if index and text not in ("", "*") and not text.startswith("#"):
            yield f"{stem.ljust(5, '_')}{index:02d}", text, "scene", "CUT"
        at = _align(at + 1 + len(text), 2) if text else at + 1


def _descriptions(chunk: bytes) -> Iterator[Line]:
    for index, text in enumerate(chunk.decode("latin-1").split("\r\n")):
        number = index - JOE_EXTRA_LINES.start + 1 if index in JOE_EXTRA_LINES else index + JOE_FIRST_DESCRIPTION
        yield f"JOE{number:04d}", text, "joe", "JAS"


def _int16(chunk: bytes, at: int) -> int:
    return int(struct.unpack_from(">h", chunk, CHUNK_BASE + at)[0])


def _uint16(chunk: bytes, at: int) -> int:
    return int(struct.unpack_from(">H", chunk, CHUNK_BASE + at)[0])


def _string(chunk: bytes, at: int) -> str:
    """A length byte and as many characters; `at` counts from the chunk's base."""
    begin = CHUNK_BASE + at + 1
    end = begin + chunk[begin - 1]
    if end > len(chunk):
        raise IndexError("a text reaches past the end of its entry")
    return chunk[begin:end].decode("latin-1")


def _align(at: int, step: int) -> int:
    return -(-at // step) * step


def _zeros(prefix: str) -> str:
    return prefix.replace(" ", "0").upper()
