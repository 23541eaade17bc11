"""The pictures of the alignment metrics, where matplotlib is (the training interpreter)."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from fakes import random_log_probs
from matplotlib.figure import Figure
from matplotlib.image import imread
from typer.testing import CliRunner

from ctcsd.cli import app
from ctcsd.posteriors import PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.score.agreement import agreement_of_run
from ctcsd.score.alignment import Alignment
from ctcsd.score.plot import SHARES, plot_alignment
from ctcsd.text.tokenizer import TokenTable

FOUND = Alignment(0.04, 100, 80, 30, 20, 6, 70, 25, 24, Counter({-1: 3, 0: 12, 2: 4, 40: 1}))


@pytest.fixture
def run(tmp_path: Path, table: TokenTable) -> RunDir:
    """A run with random posteriors at both exits."""
    run, rng = RunDir(tmp_path / "run"), np.random.default_rng(0)
    for exit in ("teacher", "student"):
        with PosteriorWriter(run.archive("dev", exit), table) as writer:
            writer.write("u0", random_log_probs(rng, 40, 5))
    return run


def test_the_bars_are_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(Figure, "suptitle", lambda figure, title: drawn.append((figure, title)))
    plot_alignment(tmp_path / "pair.png", FOUND, "pair")
    ((figure, title),) = drawn
    left, right = figure.axes
    at = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in left.patches}
    assert at == {-40: 15.0, 0: 60.0, 80: 20.0, 480: 5.0}, "what is farther off than twelve frames stands there"
    assert [bar.get_width() for bar in right.patches] == [FOUND.figures()[name] for name in SHARES]
    assert title == "pair"


@pytest.mark.parametrize("found", [FOUND, Alignment(0.04)], ids=["some", "nothing"])
def test_a_picture_is_written_whole_and_without_pyplot(
    tmp_path: Path, found: Alignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails
    plot_alignment(tmp_path / "pair.png", found, "pair")
    assert [path.name for path in tmp_path.iterdir()] == ["pair.png"]
    image = imread(tmp_path / "pair.png")
    assert image.shape[:2] == (450, 1100)
    assert image.std() > 0.05


def test_a_scored_run_has_its_picture(run: RunDir) -> None:
    assert agreement_of_run(run, "dev", ["student"], None)["student"]
    assert sorted(path.name for path in (run.path / "alignment").iterdir()) == [
        "dev-student-vs-teacher.json",
        "dev-student-vs-teacher.png",
    ]


def test_compare_writes_numbers_and_picture(run: RunDir, tmp_path: Path) -> None:
    archives = [str(run.archive("dev", exit)) for exit in ("teacher", "student")]
    out = tmp_path / "new" / "folder"
    for more, stem in ([], "dev-student-vs-dev-teacher"), (["--name", "pair"], "pair"):
        result = CliRunner().invoke(app, ["compare", *archives, "--out", str(out), *more])
        assert result.exit_code == 0, result.output
        assert (out / f"{stem}.png").is_file()
        held = json.loads((out / f"{stem}.json").read_text())
        assert held["frames"] == 40
        assert sum(held["offsets"].values()) == pytest.approx(held["spikes_matched"] * held["spikes"] / 100, abs=0.1)
