"""Damage to files as disks, transfers and hands do it: one to three changes of bytes, or of the lines of a text."""

from __future__ import annotations

import random
from collections.abc import Callable, MutableSequence


def damaged(content: bytes, draw: random.Random, text: bool = False) -> tuple[bytes, str]:
    """Another content, and what was done to it; of a text, half of the time, whole lines suffer."""
    changed, done = content, []
    while changed == content:
        done = []
        for _ in range(draw.choice((1, 1, 2, 3))):
            if text and draw.random() < 0.5:
                lines = changed.split(b"\n")
                done.append("lines: " + _change(lines, draw, lambda: b"x 1"))
                changed = b"\n".join(lines)
            else:
                data = bytearray(changed)
                done.append(
                    _flip(data, draw) if draw.random() < 0.4 else _change(data, draw, lambda: draw.randrange(256))
                )
                changed = bytes(data)
    return changed, ", ".join(done)


def _flip(data: bytearray, draw: random.Random) -> str:
    """A bit at random; half of the time one of the first 256 bytes, where formats keep their headers."""
    if not data:
        return "nothing to flip"
    at = draw.randrange(min(len(data), 256) if draw.random() < 0.5 else len(data))
    data[at] ^= 1 << draw.randrange(8)
    return f"flip {at}"


def _change(parts: MutableSequence, draw: random.Random, new: Callable[[], object]) -> str:
    """Truncate, delete, duplicate, swap, insert or overwrite a few of the parts."""
    size = len(parts)
    start = draw.randrange(size + 1)
    end = min(size, start + draw.choice((1, 1, 2, 8, 64)))
    how = draw.choice(("truncate", "delete", "duplicate", "swap", "insert", "overwrite"))
    if how == "truncate":
        del parts[start:]
    elif how == "delete":
        del parts[start:end]
    elif how == "duplicate":
        parts[start:start] = parts[start:end]
    elif how == "insert":
        parts.insert(start, new())
    elif how == "overwrite":
        parts[start:end] = type(parts)(new() for _ in range(end - start))  # type: ignore[call-arg]
    elif size > 1:
        other = draw.randrange(size)
        start = min(start, size - 1)
        parts[start], parts[other] = parts[other], parts[start]
    return f"{how} {start}"
