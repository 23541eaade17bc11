"""Every method beside a baseline, utterance by utterance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctcsd.errors import UserError
from ctcsd.files import is_number
from ctcsd.run_dir import RunDir
from ctcsd.score.files import read_jsonl
from ctcsd.score.significance import PairedDifference, paired_bootstrap
from ctcsd.score.tables import WARM, Row, label, markdown, student_rows, with_seeds

HEADER = ("method", "exit", "unit", "difference", "95 % interval", "probability of improvement")
COUNTS = ("word_errors", "words", "char_errors", "chars")
UNITS = {"WER": ("word_errors", "words"), "CER": ("char_errors", "chars")}


def paired_table(rows: Sequence[Row], baseline: str | None = None) -> str:
    """The error rates of each method's student (or only) exit minus the baseline's; empty where nothing compares.

    Args:
        rows: of one split; where they are of several search methods, the baseline's first one counts.
        baseline: a method; None: ctc, where it is among them.

    Raises:
        UserError: there is no such method, or the methods were not scored on the same utterances.
    """
    methods = list(dict.fromkeys(label(row) for row in rows))
    reference = _baseline(methods, baseline)
    if reference is None or len(methods) == 1:
        return ""
    decoder = next(row["decoder"] for row in rows if label(row) == reference)
    found = {name: [row for row in rows if label(row) == name and row["decoder"] == decoder] for name in methods}
    systems = {name: {row["seed"]: row for row in student_rows(runs)} for name, runs in found.items()}
    base = systems.pop(reference)
    exit = next(iter(base.values()))["exit"]
    lines = [line for name, runs in systems.items() if runs for line in _lines(name, runs, base)]
    return f"Difference to {reference} ({exit}, {decoder}):\n\n{markdown(HEADER, lines)}"


def compare(system: Sequence[Path], baseline: Sequence[Path]) -> dict[str, PairedDifference]:
    """WER and CER of a system beside a baseline, each given by the utterances- files of its seeds.

    Errors and reference lengths are summed over the seeds, so that the pairing stays per utterance.

    Raises:
        UserError: a file is missing or damaged, or is about other utterances than the first.
    """
    files = {path: _read(path) for path in [*system, *baseline]}
    references = {path: [(row["cut_id"], row["words"], row["chars"]) for row in rows] for path, rows in files.items()}
    for path in references:
        if references[path] != references[system[0]]:
            raise UserError(
                f"{path} and {system[0]} are about other utterances: decode and score both on the same ones"
            )

    def summed(paths: Sequence[Path], key: str) -> np.ndarray:
        return np.sum([[row[key] for row in files[path]] for path in paths], axis=0)

    return {
        unit: paired_bootstrap(summed(system, errors), summed(baseline, errors), summed(system, length))
        for unit, (errors, length) in UNITS.items()
    }


def _baseline(methods: Sequence[str], wanted: str | None) -> str | None:
    name = wanted or "ctc"
    found = next((method for method in (name, name + WARM) if method in methods), None)
    if wanted and not found:
        raise UserError(f"no baseline '{wanted}' among the methods: {', '.join(methods)}")
    return found


def _lines(name: str, runs: dict[int, Row], base: dict[int, Row]) -> list[tuple[str, ...]]:
    """A line per unit, over the seeds that both have."""
    seeds = [seed for seed in runs if seed in base]
    exit = next(iter(runs.values()))["exit"]
    if not seeds:
        return [(name, exit, unit, "-", "no common seed", "-") for unit in UNITS]
    found = compare([_utterances(runs[seed]) for seed in seeds], [_utterances(base[seed]) for seed in seeds])
    if next(iter(runs.values())).get("unit") == "phone":
        found = {"PER": found["WER"]}
    return [
        (
            with_seeds(name, len(seeds)),
            exit,
            unit,
            f"{d.difference:+.2f}",
            f"[{d.low:+.2f}, {d.high:+.2f}]",
            f"{d.improvement:.3f}",
        )
        for unit, d in found.items()
    ]


def _read(path: Path) -> list[dict[str, Any]]:
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("cut_id"), str) or not all(is_number(row.get(key)) for key in COUNTS):
            raise UserError(f"{path}: line {number} has not the errors of an utterance: run stage 5 again")
    if not rows:
        raise UserError(f"{path} is empty: run stage 5 again")
    return rows


def _utterances(row: Row) -> Path:
    return RunDir(Path(row["folder"])).utterances(row["decoder"], row["split"], row["exit"])
