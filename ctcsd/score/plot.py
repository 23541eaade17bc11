"""Pictures: the alignment of teacher and student, a sweep of search options, one figure of students against another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from ctcsd.errors import UserError
from ctcsd.score.alignment import Alignment

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ctcsd.score.relation import Relation
    from ctcsd.score.sweep import Point

EDGE = 12  # frames; spikes that are farther off are shown there
SHARES = {
    "agreement": "agreement",
    "agreement_nonblank": "agreement where\nteacher not blank",
    "nonblank_to_blank": "student blank where\nteacher not blank",
    "teacher_blank_share": "teacher blank",
    "student_blank_share": "student blank",
    "spikes_matched": "teacher's spikes\nmatched",
    "spikes_within_one_frame": "matched spikes\nwithin one frame",
}


def plot_alignment(path: Path, found: Alignment, title: str) -> None:
    """A PNG: the offsets of the matched spikes in milliseconds, and the accuracies and shares in percent.

    Raises:
        UserError: matplotlib is not installed.
    """
    with picture(path, (11, 4.5)) as figure:
        left, right = figure.subplots(1, 2)
        figure.suptitle(title)
        _offsets(left, found)
        _shares(right, found)


def plot_sweep(path: Path, points: Sequence[Point], title: str) -> None:
    """A PNG of WER over a grid: a heat map over the last two axes, at the best of the others; or a line.

    Raises:
        UserError: matplotlib is not installed.
    """
    names = list(points[0].setting)[-2:]
    best: dict[tuple[str, ...], float] = {}
    for point in points:
        at = tuple(point.setting[name] for name in names)
        best[at] = min(best.get(at, math.inf), point.wer)
    columns = list(dict.fromkeys(at[-1] for at in best))
    with picture(path, (1.5 + 0.9 * len(columns), 4.5)) as figure:
        axes = figure.subplots()
        axes.set_title(f"{title}: WER in %")
        axes.set_xlabel(names[-1])
        if len(names) == 1:
            axes.plot(columns, list(best.values()), marker="o")
            return
        rows = list(dict.fromkeys(at[0] for at in best))
        rates = [[best[row, column] for column in columns] for row in rows]
        axes.imshow(rates, cmap="viridis_r", aspect="auto")
        axes.set_xticks(range(len(columns)), columns)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_ylabel(names[0])
        for y, line in enumerate(rates):
            for x, rate in enumerate(line):
                axes.text(x, y, f"{rate:.1f}", ha="center", va="center", color="white")


def plot_relations(path: Path, found: Sequence[Relation], curve: bool) -> None:
    """A PNG with a panel per relation: a point per seed, in a colour per method or on a line through the means.

    Raises:
        UserError: matplotlib is not installed.
    """
    methods = list(dict.fromkeys(name for relation in found for name in relation.points))
    with picture(path, (6.0 * len(found), 4.2 if curve else 4.2 + 0.2 * len(methods))) as figure:
        for axes, relation in zip(figure.subplots(1, len(found), squeeze=False)[0], found):
            axes.set_xlabel(relation.x)
            axes.set_ylabel(relation.y)
            if curve:
                means = sorted(tuple(map(fmean, zip(*runs))) for runs in relation.points.values())
                axes.plot(*zip(*means), color="C0")
            for name, runs in relation.points.items():
                number = methods.index(name)
                look = {"color": "C0"} if curve else {"color": f"C{number % 10}", "marker": "osD^v"[number // 10 % 5]}
                axes.scatter(*zip(*runs), s=24, label=name, **look)
        if not curve:
            handles, labels = axes.get_legend_handles_labels()
            figure.legend(handles, labels, loc="outside lower left", fontsize="small")


@contextmanager
def picture(path: Path, inches: tuple[float, float]) -> Iterator[Figure]:
    """A figure that is written as PNG at the end, beside its target first."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(f"{path.name} needs matplotlib, which is not installed: pip install matplotlib") from None
    figure = Figure(figsize=inches, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    yield figure
    partial = path.with_name(f".{path.name}.partial")
    canvas.print_png(partial)
    partial.replace(path)


def _offsets(axes: Axes, found: Alignment) -> None:
    shown: Counter[int] = Counter()
    for offset, count in found.offsets.items():
        shown[max(-EDGE, min(EDGE, offset))] += count
    shift = 1000.0 * found.frame_shift
    axes.bar([shift * offset for offset in shown], [100.0 * n / found.matched for n in shown.values()], 0.9 * shift)
    axes.set_xlim(-(EDGE + 1) * shift, (EDGE + 1) * shift)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_xlabel("student minus teacher in ms (outermost bars: and beyond)")
    axes.set_ylabel("matched spikes in %")
    axes.set_title(
        f"{found.matched} matched spikes: mean {found.mean_offset_ms:+.1f} ms, "
        f"absolute {found.mean_absolute_offset_ms:.1f} ms",
        fontsize="medium",
    )


def _shares(axes: Axes, found: Alignment) -> None:
    figures = found.figures()
    bars = axes.barh(list(SHARES.values()), [figures[name] for name in SHARES])
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.invert_yaxis()
    axes.set_xlim(0.0, 112.0)
    axes.set_xlabel("%")
    axes.set_title(f"{found.frames} frames, {found.spikes} spikes of the teacher", fontsize="medium")
