"""The hypotheses of a split beside their references, and the errors of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctcsd.decode.hypothesis import read_hypotheses
from ctcsd.errors import UserError
from ctcsd.score.units import WORDS, Units
from ctcsd.score.wer import WerStats, utterance_errors
from ctcsd.text.reference import Reference

NO_HYPOTHESIS = "no hypothesis"


@dataclass(frozen=True)
class Utterance:
    """A reference and a hypothesis, both normalised, with their errors; `failure` says why a search found nothing.

    Where phones are scored, both are phones, and so are the `words` and `chars` that count.
    """

    cut_id: str
    reference: Reference
    hypothesis: str
    words: WerStats
    chars: WerStats
    failure: str | None = None

    def row(self) -> dict[str, Any]:
        """What a paired comparison needs, as JSON values."""
        row: dict[str, Any] = {
            "cut_id": self.cut_id,
            "word_errors": self.words.errors,
            "words": self.words.words,
            "char_errors": self.chars.errors,
            "chars": self.chars.words,
        }
        return {**row, "failure": self.failure} if self.failure else row


def score_utterances(
    path: Path, references: Mapping[str, Reference], normalize: Callable[[str], str], units: Units = WORDS
) -> list[Utterance]:
    """Every utterance of the references, by cut id; one that the hypotheses lack counts as deleted, and as failed.

    Raises:
        UserError: no hypotheses, or one without a reference.
    """
    found = {h.cut_id: h for h in read_hypotheses(path)}
    unknown = [cut_id for cut_id in found if cut_id not in references]
    if unknown or not found:
        what = f"{len(unknown)} cuts are not of the split, such as {unknown[0]}" if unknown else "no hypothesis"
        raise UserError(f"{path}: {what}: run stage 4")
    scored = []
    for cut_id, reference in sorted(references.items()):
        hypothesis = found.get(cut_id)
        said, heard = normalize(units.reference(reference.text)), normalize(hypothesis.text) if hypothesis else ""
        scored.append(
            Utterance(
                cut_id,
                reference._replace(text=said),
                heard,
                utterance_errors(said.split(), heard.split()),
                utterance_errors(units.parts(said), units.parts(heard)),
                hypothesis.failure if hypothesis else NO_HYPOTHESIS,
            )
        )
    return scored
