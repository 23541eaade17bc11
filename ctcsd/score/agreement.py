"""How far a run's student agrees with its teachers: the fields of a result row, and a file per pair."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctcsd.posteriors import PosteriorReader
from ctcsd.run_dir import RunDir
from ctcsd.score.alignment import Alignment, compare_archives
from ctcsd.score.plot import plot_alignment


def agreement_of_run(run: RunDir, split: str, reference: RunDir | None) -> dict[str, Any]:
    """Compare the student exit with the run's own exit `teacher` and with a separate teacher, where each has archives.

    Writes `alignment/<split>-student-vs-<teacher>` (.json, and .png where matplotlib is installed) into the run.

    Args:
        reference: the run of the separate teacher, of which the highest exit counts.

    Returns:
        the figures of `ctcsd.score.alignment.Alignment`, those beside `reference` with the prefix `ref_`.
    """
    row: dict[str, Any] = {}
    student = run.archive(split, "student")
    for prefix, name, teacher in _teachers(run, split, reference):
        if student.is_dir() and teacher.is_dir():
            found = compare_archives(PosteriorReader(teacher), PosteriorReader(student))
            stem = f"{split}-student-vs-{name}"
            write_alignment(run.path / "alignment", stem, found)
            if importlib.util.find_spec("matplotlib"):  # the k2 interpreter has none
                plot_alignment(run.path / "alignment" / f"{stem}.png", found, stem)
            row.update({prefix + key: value for key, value in found.figures().items()})
    return row


def write_alignment(folder: Path, stem: str, found: Alignment) -> None:
    """Figures, counts and the histogram of offsets as `folder/stem.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{stem}.json.partial"
    partial.write_text(json.dumps(found.to_dict(), indent=1) + "\n", encoding="utf-8")
    partial.replace(folder / f"{stem}.json")


def _teachers(run: RunDir, split: str, reference: RunDir | None) -> Iterator[tuple[str, str, Path]]:
    """(prefix of the fields, name, archive) of each teacher."""
    yield "", "teacher", run.archive(split, "teacher")
    if reference is not None:
        record = reference.train_record()
        exit = max(record["parameters"], key=record["parameters"].__getitem__)
        yield "ref_", f"{record['method']}-{exit}", reference.archive(split, exit)
