"""Figures of the students against each other, and over a setting of their methods."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from scipy.stats import pearsonr, spearmanr
from typer.testing import CliRunner

from ctcsd.cli import app
from ctcsd.errors import UserError
from ctcsd.score.relation import Relation, places_of, relation


def row(method: str, seed: int, exit: str = "student", split: str = "dev", **figures: float) -> dict[str, object]:
    run = {"method": method, "seed": seed, "folder": f"exp/{method}/seed{seed}"}
    run |= {"parameters": 1, "train_seconds": 1.0, "peak_memory_mib": 1, "trained_at": "r", "utterances": 1, "words": 1}
    return {**run, "exit": exit, "split": split, "decoder": "greedy", "wer": 50.0, **figures}


ROWS = [
    row("a", 1, cer=20.0, agreement=90.0),
    row("a", 1, "teacher", cer=10.0, agreement=90.0),
    row("a", 2, cer=22.0, agreement=92.0),
    row("b", 1, cer=30.0, agreement=80.0),
    row("c", 1, cer=40.0),
    row("t", 1, "teacher", cer=15.0, agreement=95.0),
]


def test_a_point_is_a_student_and_a_method_with_one_exit_is_its_own() -> None:
    found = relation(ROWS, "agreement", "cer")
    assert found.points == {"a": [(90.0, 20.0), (92.0, 22.0)], "b": [(80.0, 30.0)], "t": [(95.0, 15.0)]}
    assert "a, 2 seeds: agreement 91.00, cer 21.00" in found.describe()


def test_over_a_setting_the_given_values_are_the_places() -> None:
    found = relation(ROWS, "ratio", "cer", {"c": 1.0, "a": 0.5})
    assert found.points == {"c": [(1.0, 40.0)], "a": [(0.5, 20.0), (0.5, 22.0)]}
    assert found.correlations() is None


def test_other_runs_of_a_method_are_no_seeds_of_it() -> None:
    warm = {**row("a", 1, cer=5.0, agreement=99.0), "init_from": "there", "folder": "exp/warm/a/seed1"}
    assert relation([*ROWS, warm], "agreement", "cer").points["a (warm)"] == [(99.0, 5.0)]
    both = relation([*ROWS, warm], "ratio", "cer", {"a": 0.0, "a (warm)": 1.0})
    assert both.points == {"a": [(0.0, 20.0), (0.0, 22.0)], "a (warm)": [(1.0, 5.0)]}
    assert relation([warm], "ratio", "cer", {"a": 0.5}).points == {"a": [(0.5, 5.0)]}
    with pytest.raises(UserError, match="exp/a/seed1 and exp/other/a/seed1 are both a with seed 1"):
        relation([*ROWS, {**ROWS[0], "folder": "exp/other/a/seed1"}], "agreement", "cer")


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=9))
def test_correlations_are_scipys(places: list[tuple[int, int]]) -> None:
    found = Relation("x", "y", {str(i): [(x - 1.0, y), (x + 1.0, y)] for i, (x, y) in enumerate(places)}).correlations()
    x, y = np.array(places, dtype=float).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert found is None
    else:
        assert found == pytest.approx((pearsonr(x, y).statistic, spearmanr(x, y).statistic))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: relation(ROWS, "x", "cer", {"d": 1.0}), "no results of d; there are: a, b, c, t"),
        (lambda: relation(ROWS, "speed", "cer"), "no result has both speed and cer"),
        (lambda: places_of(["a"]), "'a' is not VALUE:METHOD"),
        (lambda: places_of(["half:a"]), "'half:a' is not VALUE:METHOD"),
        (lambda: places_of([]), "name the methods of the curve"),
        (lambda: places_of(["1:"]), "name the methods of the curve"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()  # type: ignore[operator]


def test_command_draws_both_kinds(tmp_path: Path) -> None:
    run = tmp_path / "exp" / "a" / "seed1"
    run.mkdir(parents=True)
    rows = [*ROWS, row("a", 1, split="test", cer=99.0, agreement=99.0)]
    (run / "results.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    over = ["--over", "ratio", "--at", "0:a", "--at", "0.5:x+frames=partial:0.5"]
    command = ["relate", str(tmp_path / "exp"), "--y", "cer", "--out", str(tmp_path / "r.png")]
    found = CliRunner().invoke(app, [*command, "--x", "agreement", "--y", "agreement"], catch_exceptions=False)
    assert found.exit_code == 0 and "Spearman's rho -1.00" in found.output
    scatter = imread(tmp_path / "r.png")
    assert [each["y"] for each in json.loads((tmp_path / "r.json").read_text())] == ["cer", "agreement"]
    for refused in (over, over[2:]):
        with pytest.raises(UserError, match="no results of x|--at wants --over"):
            CliRunner().invoke(app, [*command, *refused], catch_exceptions=False)
    over[-1] = "1:b"
    assert CliRunner().invoke(app, [*command, *over], catch_exceptions=False).exit_code == 0
    assert json.loads((tmp_path / "r.json").read_text())[0]["points"] == {"a": [[0, 20], [0, 22]], "b": [[1, 30]]}
    assert not np.array_equal(scatter[:100, :100], imread(tmp_path / "r.png")[:100, :100])
