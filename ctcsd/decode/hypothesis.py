"""The result of a search, and its file: one JSON object per line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ctcsd.errors import UserError


class Found(NamedTuple):
    """What a search method finds in one utterance; `words` is None where the tokens spell the text."""

    tokens: list[int]
    frames: list[int]
    score: float
    words: list[str] | None = None
    failure: str | None = None


NOTHING = Found([], [], 0.0)


@dataclass(frozen=True)
class Hypothesis:
    """What was recognised in a cut.

    text: words; score: natural log of the path's probability; tokens: ids without blanks; frames: the frame (0 is
    the first) in which each token starts; failure: why the search found nothing, where it failed.
    """

    cut_id: str
    text: str
    score: float
    tokens: list[int]
    frames: list[int]
    failure: str | None = None


def write_hypotheses(path: Path, hypotheses: Iterable[Hypothesis]) -> int:
    """Write beside the target and rename at the end; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    count = 0
    with partial.open("w", encoding="utf-8") as out:
        for hypothesis in hypotheses:
            row = dataclasses.asdict(hypothesis)
            if hypothesis.failure is None:
                del row["failure"]
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    partial.rename(path)
    return count


def read_hypotheses(path: Path) -> Iterator[Hypothesis]:
    """Read what `write_hypotheses` wrote; raises UserError naming a broken line."""
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    yield Hypothesis(**json.loads(line))
                except (ValueError, TypeError):
                    raise UserError(f"{path}: line {number} is not a hypothesis") from None
    except OSError:
        raise UserError(f"no hypotheses at {path}: run stage 4") from None
