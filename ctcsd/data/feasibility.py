"""Whether a CTC path exists for an utterance at all."""

from __future__ import annotations

from collections.abc import Sequence


def ctc_feasible(num_frames: int, tokens: Sequence[int]) -> bool:
    """True where num_frames >= U + number of adjacent equal tokens (each such pair needs a blank between).

    num_frames counts encoder frames, that is after subsampling.
    """
    repeats = sum(a == b for a, b in zip(tokens, tokens[1:]))
    return num_frames >= len(tokens) + repeats
