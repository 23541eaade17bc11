"""The result of a search, and its file: one JSON object per line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ctcsd.errors import UserError
from ctcsd.files import read_json_lines, replacing

NOTES = ("failure", "fallback")  # stand in the file where there is something to say


class Candidate(NamedTuple):
    """A hypothesis of an n-best list.

    am: ln p of the posteriors; lm: ln p(words), unscaled; total: what the list is sorted by, am + lm_scale * lm and
    what else the method adds for words.
    """

    text: str
    am: float
    lm: float
    total: float


class Found(NamedTuple):
    """What a search method finds in one utterance; `words` is None where the tokens spell the text."""

    tokens: list[int]
    frames: list[int]
    score: float
    words: list[str] | None = None
    failure: str | None = None
    fallback: str | None = None
    nbest: Sequence[Candidate] = ()


NOTHING = Found([], [], 0.0)


def unique_texts(candidates: Iterable[Candidate], most: int) -> list[Candidate]:
    """The first `most` candidates of different text; 0: all."""
    found: dict[str, Candidate] = {}
    for candidate in candidates:
        found.setdefault(candidate.text, candidate)
    return list(found.values())[: most or None]


@dataclass(frozen=True)
class Hypothesis:
    """What was recognised in a cut.

    text: words; score: natural log of the path's probability; tokens: ids without blanks; frames: the frame (0 is
    the first) in which each token starts; failure: why the search found nothing, where it failed; fallback: how it
    was found, where the search had to look again; nbest: the best first, where the method makes a list.
    """

    cut_id: str
    text: str
    score: float
    tokens: list[int]
    frames: list[int]
    failure: str | None = None
    fallback: str | None = None
    nbest: Sequence[Candidate] = ()


def write_hypotheses(path: Path, hypotheses: Iterable[Hypothesis]) -> int:
    """Write the file, whole or not at all, without the n-best lists; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as out:
        for hypothesis in hypotheses:
            row = dataclasses.asdict(hypothesis)
            del row["nbest"]
            for name in NOTES:
                if row[name] is None:
                    del row[name]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def write_nbest(path: Path, hypotheses: Iterable[Hypothesis]) -> Iterator[Hypothesis]:
    """Pass hypotheses on and write their n-best lists, `{"id": ..., "nbest": [{"text", "am", "lm", "total"}, ...]}`.

    A line per hypothesis, the best candidate first; where there is no list, the hypothesis is its only one. The file
    is there once the last hypothesis has passed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as out:
        for hypothesis in hypotheses:
            found = hypothesis.nbest or [Candidate(hypothesis.text, hypothesis.score, 0.0, hypothesis.score)]
            row = {"id": hypothesis.cut_id, "nbest": [candidate._asdict() for candidate in found]}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            yield hypothesis


def read_hypotheses(path: Path) -> Iterator[Hypothesis]:
    """Read what `write_hypotheses` wrote.

    Raises:
        UserError: no such file, or a line in it that is no hypothesis or that of a cut which stands twice.
    """
    if not path.is_file():
        raise UserError(f"no hypotheses at {path}: run stage 4")
    seen: set[str] = set()
    for number, row in enumerate(read_json_lines(path), start=1):
        if not _is_hypothesis(row) or row["cut_id"] in seen:
            raise UserError(f"{path}: line {number} is not the hypothesis of another cut")
        seen.add(row["cut_id"])
        yield Hypothesis(**row)


def _is_hypothesis(row: dict[str, Any]) -> bool:
    numbers = [row.get("tokens"), row.get("frames")]
    return (
        row.keys() - set(NOTES) == {"cut_id", "text", "score", "tokens", "frames"}
        and isinstance(row["cut_id"], str)
        and isinstance(row["text"], str)
        and isinstance(row["score"], (int, float))
        and all(isinstance(row.get(name), (str, type(None))) for name in NOTES)
        and all(isinstance(ids, list) and all(type(i) is int and i >= 0 for i in ids) for ids in numbers)
        and len(row["tokens"]) == len(row["frames"])
    )
