"""Where the errors are: by speaker, by the length of the reference in words, and by seconds."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ctcsd.files import replacing
from ctcsd.score.utterances import Utterance
from ctcsd.score.wer import sentence_error_rate, total

HEADER = ("by", "group", "utterances", "words", "ins", "dels", "subs", "WER", "CER", "SER")
Group = tuple[int, str]  # the place in its list, and the name


def write_breakdown(path: Path, utterances: Sequence[Utterance]) -> None:
    """A tab-separated line per speaker and per range of lengths, rates in percent; what is unknown is left out."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out, delimiter="\t", lineterminator="\n")
        table.writerow(HEADER)
        for by, group_of in (("speaker", _speaker), ("words", _words), ("seconds", _seconds)):
            table.writerows((by, *line) for line in _lines(utterances, group_of))


def _lines(utterances: Sequence[Utterance], group_of: Callable[[Utterance], Group | None]) -> Iterator[tuple]:
    groups: dict[Group, list[Utterance]] = {}
    for utterance in utterances:
        group = group_of(utterance)
        if group is not None:
            groups.setdefault(group, []).append(utterance)
    for (_, name), members in sorted(groups.items()):
        words, chars = total(u.words for u in members), total(u.chars for u in members)
        rates = (words.rate, chars.rate, sentence_error_rate([u.words for u in members]))
        counts = (len(members), words.words, words.ins, words.dels, words.subs)
        yield (name, *counts, *(f"{rate:.2f}" for rate in rates))


def _speaker(utterance: Utterance) -> Group | None:
    return (0, utterance.reference.speaker) if utterance.reference.speaker else None


def _words(utterance: Utterance) -> Group:
    """0, 1, 2-3, 4-7, 8-15 and so on."""
    low = _power_of_two(utterance.words.words)
    return low, str(low) if low < 2 else f"{low}-{2 * low - 1}"


def _seconds(utterance: Utterance) -> Group | None:
    """0-1, 1-2, 2-4, 4-8 and so on; the upper limit belongs to the next."""
    if not utterance.reference.seconds:
        return None
    low = _power_of_two(int(utterance.reference.seconds))
    return low, f"{low}-{2 * low or 1}"


def _power_of_two(n: int) -> int:
    """The greatest one that is not above n; 0 for 0."""
    return 1 << n.bit_length() - 1 if n else 0
