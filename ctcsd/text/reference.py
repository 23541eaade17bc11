"""What a recogniser should have heard. Runs on Python 3.9."""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """The transcript of a cut, who speaks it (empty: unknown) and how long it takes in seconds (0: unknown)."""

    text: str
    speaker: str = ""
    seconds: float = 0.0
