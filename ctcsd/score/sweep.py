"""A grid of search options on one archive of posteriors: which of them makes the fewest word errors on dev."""

from __future__ import annotations

import csv
import itertools
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from ctcsd.decode.cost import Cost
from ctcsd.decode.search import search
from ctcsd.errors import UserError, one_line_errors
from ctcsd.files import replacing, write_text
from ctcsd.posteriors import PosteriorReader
from ctcsd.score.units import units_of
from ctcsd.score.wer import wer
from ctcsd.text.normalize import scoring_rule

Setting = dict[str, str]  # option -> value, as written


class Point(NamedTuple):
    """A setting of the grid, and what it gave: percent, the real-time factor of one process, failed utterances."""

    setting: Setting
    wer: float
    cer: float
    rtf: float
    failed: int = 0  # these have empty hypotheses


def grid_of(axes: Sequence[str]) -> list[Setting]:
    """Every combination of `option=value,value,...` axes, the first axis slowest.

    Raises:
        UserError: an axis that is written otherwise, has no value, or stands twice.
    """
    values: dict[str, list[str]] = {}
    for axis in axes:
        name, equals, listed = axis.partition("=")
        found = [value for value in listed.split(",") if value]
        if not (name and equals and found):
            raise UserError(f"'{axis}' is no axis of a grid: write option=value,value, such as lm_scale=0.3,0.5,0.7")
        if name in values:
            raise UserError(f"the grid has two axes '{name}'")
        values[name] = found
    if not values:
        raise UserError("a sweep needs an axis: --grid option=value,value")
    return [dict(zip(values, chosen)) for chosen in itertools.product(*values.values())]


def sweep(
    archive: Path,
    lang_dir: Path,
    method: str,
    settings: Sequence[tuple[Setting, dict[str, Any]]],
    texts: Mapping[str, str],
    jobs: int,
    rule: str = "none",
    python: Path | None = None,
) -> list[Point]:
    """Search with every setting, `jobs` processes at a time; the first alone, since it may build a graph.

    Args:
        settings: (setting, the search's options with it).
        texts: cut id -> reference.
        rule: the text normalisation of reference and hypothesis, one of SCORING_RULES.
        python: the interpreter that searches; None: this one.

    Raises:
        UserError: as `search`, an unknown rule, or the archive is not of these cuts.
    """
    work = partial(evaluate, archive, lang_dir, method, texts=texts, rule=rule, python=python)
    points = [work(*settings[0])]
    bar = partial(tqdm, total=len(settings), initial=1, desc=method, unit="setting", leave=False, disable=None)
    if jobs <= 1 or len(settings) == 1:
        return points + [work(*one) for one in bar(settings[1:])]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        return points + list(bar(pool.map(work, *zip(*settings[1:]))))


def evaluate(
    archive: Path,
    lang_dir: Path,
    method: str,
    setting: Setting,
    options: dict[str, Any],
    texts: Mapping[str, str],
    rule: str = "none",
    python: Path | None = None,
) -> Point:
    """The error rates of one setting, those of phones where the search finds phones; `python` as in `sweep`."""
    if python is not None:
        asked = json.dumps([archive, lang_dir, method, setting, options, texts, rule], default=str)
        command = [str(python), "-m", __name__]
        done = subprocess.run(command, input=asked, stdout=subprocess.PIPE, text=True, encoding="utf-8", check=False)
        *said, answer = done.stdout.splitlines() or [""]
        print(*said, sep="\n", end="\n" * bool(said), flush=True)
        if done.returncode != 0:  # it has said why
            raise UserError("" if done.returncode == UserError.code else f"{python} ended with code {done.returncode}")
        return Point(*json.loads(answer))
    normalize = scoring_rule(rule)
    reader = PosteriorReader(archive, lang_dir)
    units, cost = units_of(method, options, lang_dir), Cost()
    hypotheses = search(reader, lang_dir, method, **options)
    cost.start()
    failed, found = 0, {}
    for h in hypotheses:
        found[h.cut_id] = h.text
        failed += h.failure is not None
    rtf = cost.figures(reader.seconds)["rtf"]
    if set(found) != set(texts):
        raise UserError(f"the archive {archive} is not of the cuts that are scored: run stage 4")
    pairs = [(normalize(units.reference(text)), normalize(found[cut_id])) for cut_id, text in texts.items()]
    words = wer((reference.split(), hypothesis.split()) for reference, hypothesis in pairs)
    chars = wer((units.parts(reference), units.parts(hypothesis)) for reference, hypothesis in pairs)
    return Point(setting, words.rate, chars.rate, rtf, failed)


def best_of(points: Sequence[Point]) -> Point:
    """The lowest WER; of equal ones the lower CER, then the first."""
    return min(points, key=lambda point: (point.wer, point.cer))


def write_best(path: Path, setting: Setting, points: Mapping[str, Point]) -> None:
    """The best setting, and the figures that it gave by split, as JSON."""
    figures = {split: {k: v for k, v in point._asdict().items() if k != "setting"} for split, point in points.items()}
    write_text(path, json.dumps({"setting": setting, **figures}, indent=2) + "\n")


def write_csv(path: Path, points: Sequence[Point]) -> None:
    """A line per setting."""
    with replacing(path) as partial_csv, partial_csv.open("w", encoding="utf-8", newline="") as out:
        table = csv.writer(out)
        table.writerow([*points[0].setting, "wer", "cer", "rtf", "failed"])
        for point in points:
            rates = [f"{point.wer:.2f}", f"{point.cer:.2f}", f"{point.rtf:.5f}"]
            table.writerow([*point.setting.values(), *rates, point.failed])


if __name__ == "__main__":  # what `evaluate` asks another interpreter
    with one_line_errors():
        work = json.load(sys.stdin)
        print(json.dumps(evaluate(Path(work[0]), Path(work[1]), *work[2:])))
