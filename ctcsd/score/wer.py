"""Word and character error over a corpus, from kaldialign's alignments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import kaldialign


class WerStats(NamedTuple):
    """Counts over a corpus; `words` are those of the reference."""

    errors: int
    ins: int
    dels: int
    subs: int
    words: int

    @property
    def rate(self) -> float:
        """Errors per reference word in percent; infinite where there is no word but an insertion."""
        if self.words == 0:
            return 0.0 if self.errors == 0 else float("inf")
        return 100.0 * self.errors / self.words


def wer(pairs: Iterable[tuple[Sequence[str], Sequence[str]]]) -> WerStats:
    """Errors of (reference, hypothesis) pairs, summed over the corpus and never averaged per utterance.

    Each side is a sequence of words, or of characters for CER (see `characters`); a plain string is refused, for
    it would silently be counted by characters.
    """
    return total(utterance_errors(reference, hypothesis) for reference, hypothesis in pairs)


def total(counts: Iterable[WerStats]) -> WerStats:
    """The counts of many utterances together."""
    return WerStats(*map(sum, zip(WerStats(0, 0, 0, 0, 0), *counts)))


def sentence_error_rate(counts: Sequence[WerStats]) -> float:
    """Utterances with an error, in percent of all."""
    return 100.0 * sum(c.errors > 0 for c in counts) / max(len(counts), 1)


def utterance_errors(reference: Sequence[str], hypothesis: Sequence[str]) -> WerStats:
    """The counts of one utterance."""
    if isinstance(reference, str) or isinstance(hypothesis, str):
        raise TypeError("pass lists of words (text.split()) or of characters (characters(text)), not a string")
    counts = kaldialign.edit_distance(list(reference), list(hypothesis))
    return WerStats(counts["total"], counts["ins"], counts["del"], counts["sub"], len(reference))


def characters(text: str) -> list[str]:
    """The characters of a text without its spaces, the units of CER."""
    return [c for c in text if not c.isspace()]
