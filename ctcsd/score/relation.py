"""How one figure of the students goes with another, or with a setting of their method, over the runs of a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from ctcsd.errors import UserError
from ctcsd.score.tables import WARM, Row, check_one_table, label, student_rows, with_seeds

Points = dict[str, list[tuple[float, float]]]  # method -> (x, y) of each seed


@dataclass(frozen=True)
class Relation:
    """Two figures of the same students; the correlations are over the methods' means: seeds do not count twice."""

    x: str
    y: str
    points: Points

    def correlations(self) -> tuple[float, float] | None:
        """Pearson's r and Spearman's rho; None with fewer than three methods, or where a figure is the same for all."""
        means = np.array([np.mean(runs, axis=0) for runs in self.points.values()])
        if len(means) < 3 or (means == means[0]).all(axis=0).any():
            return None
        x, y = means.T
        return float(np.corrcoef(x, y)[0, 1]), float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])

    def describe(self) -> str:
        """A line per method, and one about the correlation."""
        lines = []
        for name, runs in self.points.items():
            x, y = map(fmean, zip(*runs))
            lines.append(f"{with_seeds(name, len(runs))}: {self.x} {x:.2f}, {self.y} {y:.2f}")
        found = self.correlations()
        if found:
            lines.append(
                f"over {len(self.points)} methods: Pearson's r {found[0]:+.2f}, Spearman's rho {found[1]:+.2f}"
            )
        return "\n".join(lines)

    def figures(self) -> dict[str, Any]:
        """What the picture shows, for JSON."""
        found = self.correlations()
        return {
            "x": self.x,
            "y": self.y,
            "points": self.points,
            **({"pearson": found[0], "spearman": found[1]} if found else {}),
        }


def relation(rows: Sequence[Row], x: str, y: str, places: Mapping[str, float] | None = None) -> Relation:
    """One point per student and seed.

    Args:
        rows: of one split and search method.
        x, y: columns of the rows.
        places: method, as in tables or without their `(warm)` -> its place on the x axis, which `x` then only names;
            None: all methods that have both columns.

    Raises:
        UserError: a method has no rows, no row has both columns, or rows that fit no common table.
    """
    check_one_table(rows)
    known: dict[str, list[Row]] = {}
    for row in rows:
        known.setdefault(label(row), []).append(row)
    wanted = {method: known.get(method) or known.get(method + WARM, []) for method in places or known}
    missing = [method for method, found in wanted.items() if not found]
    if missing:
        raise UserError(f"no results of {', '.join(missing)}; there are: {', '.join(known)}")
    points: Points = {}
    for method, found in wanted.items():
        placed = [{**row, x: places[method]} if places else row for row in student_rows(found)]
        runs = [(row[x], row[y]) for row in placed if _has(row, x, y)]
        if runs:
            points[method] = runs
    if not points:
        raise UserError(f"no result has both {x} and {y}")
    return Relation(x, y, points)


def places_of(texts: Sequence[str]) -> dict[str, float]:
    """Method -> number, of `NUMBER:METHOD` texts.

    Raises:
        UserError: there are none, or one is written otherwise.
    """
    places = {}
    for text in texts:
        value, _, method = text.partition(":")
        try:
            places[method] = float(value)
        except ValueError:
            raise UserError(f"'{text}' is not VALUE:METHOD, such as 0.5:skd_masked") from None
    if not places or "" in places:
        raise UserError("name the methods of the curve and their values, such as 0:skd 1:skd_masked")
    return places


def _has(row: Row, *columns: str) -> bool:
    return all(isinstance(row.get(column), (int, float)) for column in columns)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0, equal values sharing the mean of theirs."""
    return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])
