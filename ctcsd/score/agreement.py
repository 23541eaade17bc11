"""How far a run's exits agree with their teachers: the fields of the result rows, and a file per pair."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ctcsd.errors import UserError
from ctcsd.files import write_text
from ctcsd.posteriors import PosteriorReader, frames_in
from ctcsd.run_dir import RunDir
from ctcsd.score.alignment import Alignment, compare_archives
from ctcsd.score.plot import plot_alignment


def agreement_of_run(
    run: RunDir, split: str, exits: Iterable[str], reference: RunDir | None
) -> dict[str, dict[str, Any]]:
    """Compare the exits `student` and `teacher` with each other, and each exit with a separate teacher.

    Writes `alignment/<split>-<exit>-vs-<teacher>` (.json, and .png where matplotlib is installed) into the run, for
    those that have archives.

    Args:
        reference: the run of the separate teacher, of which the highest exit counts.

    Returns:
        exit -> the figures of `ctcsd.score.alignment.Alignment`: of its own encoder's pair in the rows of both, those
        beside `reference` with the prefix `ref_`.
    """
    own = _figures(run, split, "student", "teacher", run.archive(split, "teacher"))
    rows = {exit: dict(own) if exit in ("student", "teacher") else {} for exit in exits}
    if reference is not None:
        record = reference.train_record()
        highest = max(record["parameters"], key=record["parameters"].__getitem__)
        name, teacher = f"{record['method']}-{highest}", reference.archive(split, highest)
        for exit, row in rows.items():
            try:
                found = _figures(run, split, exit, name, teacher)
            except UserError as error:  # other cuts or tokens: it taught somebody else
                print(f"{split}-{exit}-vs-{name} is left out: {error}", flush=True)
                continue
            row.update({f"ref_{key}": value for key, value in found.items()})
    return rows


def write_alignment(folder: Path, stem: str, found: Alignment) -> None:
    """Figures, counts and the histogram of offsets as `folder/stem.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{stem}.json", json.dumps(found.to_dict(), indent=1) + "\n")


def _figures(run: RunDir, split: str, exit: str, name: str, archive: Path) -> dict[str, float]:
    """Of an exit beside a teacher of that name and archive; none where there is nothing to compare."""
    stem = f"{split}-{exit}-vs-{name}"
    if not (archive.is_dir() and run.archive(split, exit).is_dir()):
        return {}
    teacher, student = PosteriorReader(archive), PosteriorReader(run.archive(split, exit))
    shorter, longer = sorted((teacher.frame_shift, student.frame_shift))
    if not frames_in(longer, shorter):
        print(f"{stem} is left out: no frames of {shorter:g} s make one of {longer:g} s", flush=True)
        return {}
    found = compare_archives(teacher, student)
    write_alignment(run.path / "alignment", stem, found)
    if importlib.util.find_spec("matplotlib"):  # the k2 interpreter has none
        plot_alignment(run.path / "alignment" / f"{stem}.png", found, stem)
    return found.figures()
