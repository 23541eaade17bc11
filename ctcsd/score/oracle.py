"""The oracle of n-best lists: how well a perfect choice from them would do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctcsd.errors import UserError
from ctcsd.files import read_json_lines
from ctcsd.score.utterances import Utterance
from ctcsd.score.wer import total, utterance_errors


def oracle_figures(path: Path, utterances: Sequence[Utterance], normalize: Callable[[str], str]) -> dict[str, Any]:
    """The result row's `oracle_wer`, in percent, and `nbest`, the mean number of candidates; empty without the file.

    An utterance whose list is missing or empty has its hypothesis as the only candidate.

    Raises:
        UserError: a line that is no n-best list, or the list of a cut that is not scored.
    """
    if not path.is_file():
        return {}
    lists = _read(path)
    unknown = lists.keys() - {u.cut_id for u in utterances}
    if unknown:
        raise UserError(f"{path}: {min(unknown)} is not among the cuts that are scored: run stage 4 again")
    best = []
    for utterance in utterances:
        candidates = map(normalize, lists.get(utterance.cut_id) or [utterance.hypothesis])
        words = utterance.reference.text.split()
        best.append(min((utterance_errors(words, text.split()) for text in candidates), key=lambda e: e.errors))
    size = sum(len(texts) for texts in lists.values()) / len(utterances)
    return {"oracle_wer": round(total(best).rate, 2), "nbest": round(size, 1)}


def _read(path: Path) -> Mapping[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            texts = [candidate["text"] for candidate in row["nbest"]]
            if row["id"] in lists or not all(isinstance(text, str) for text in (row["id"], *texts)):
                raise TypeError
        except (KeyError, TypeError):
            raise UserError(f"{path}: line {number} is no n-best list, or of a cut that has one") from None
        lists[row["id"]] = texts
    return lists
