"""A grid of search options: what is tried, what is best, what is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from console import ctcsd
from lhotse import CutSet, MonoCut, SupervisionSegment
from matplotlib.image import imread

from ctcsd.config import Config, save_config
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.score.plot import plot_sweep
from ctcsd.score.sweep import Point, best_of, grid_of, sweep, write_csv
from ctcsd.text.tokenizer import TokenTable


def test_a_grid_is_every_combination() -> None:
    assert grid_of(["a=1,2", "b=x,y"]) == [
        {"a": "1", "b": "x"},
        {"a": "1", "b": "y"},
        {"a": "2", "b": "x"},
        {"a": "2", "b": "y"},
    ]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ([], "needs an axis"),
        (["lm_scale"], "no axis of a grid"),
        (["lm_scale=,"], "no axis of a grid"),
        (["a=1", "a=2"], "two axes 'a'"),
    ],
)
def test_bad_grids(axes: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        grid_of(axes)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_sweep_over_priors(make_archive, lang_dir: Path, tmp_path: Path, jobs: int) -> None:
    """Where the blank is a little too probable, dividing the prior out brings the words back; too much adds others."""
    log_probs = np.log(np.array([[0.5, 0.02, 0.4, 0.04, 0.04], [0.9, 0.02, 0.02, 0.05, 0.01]], np.float32))
    reader = make_archive([("u", log_probs)])
    prior = tmp_path / "prior.npy"
    np.save(prior, np.array([0.7, 0.1, 0.1, 0.05, 0.05], np.float32))
    settings = [
        ({"prior_scale": scale}, {"prior": str(prior), "prior_scale": float(scale)}) for scale in ("0", "0.5", "3")
    ]
    points = sweep(reader.path, lang_dir, "greedy", settings, {"u": "a"}, jobs)
    assert [point.wer for point in points] == [100.0, 0.0, 100.0]
    assert best_of(points).setting == {"prior_scale": "0.5"}
    write_csv(tmp_path / "sweep.csv", points)
    rows = list(csv.DictReader((tmp_path / "sweep.csv").open(encoding="utf-8")))
    assert [(row["prior_scale"], row["wer"]) for row in rows] == [("0", "100.00"), ("0.5", "0.00"), ("3", "100.00")]
    with pytest.raises(UserError, match="not of the cuts"):
        sweep(reader.path, lang_dir, "greedy", settings[:1], {"v": "a"}, 1)


def test_the_command(lang_dir: Path, table: TokenTable, tmp_path: Path) -> None:
    """What is best on dev is applied to test, whatever is best there."""
    run, data = RunDir(tmp_path / "run"), tmp_path / "data"
    cfg = Config()
    cfg.model.exits = {"student": 1}
    run.path.mkdir()
    save_config(cfg, run.path / "config.yaml")
    log_probs = np.log(np.array([[0.5, 0.02, 0.4, 0.04, 0.04], [0.9, 0.02, 0.02, 0.05, 0.01]], np.float32))
    np.save(tmp_path / "prior.npy", np.array([0.7, 0.1, 0.1, 0.05, 0.05], np.float32))
    (data / "fbank80").mkdir(parents=True)
    for split, text in (("dev", "a"), ("test", "a c b")):
        with PosteriorWriter(run.archive(split, "student"), table) as writer:
            writer.write("u", log_probs)
        spoken = SupervisionSegment("u", "u", 0.0, 1.0, text=text)
        CutSet.from_cuts([MonoCut("u", 0.0, 1.0, 0, [spoken])]).to_file(data / "fbank80" / f"cuts_{split}.jsonl.gz")
    places = ["--run", run.path, "--data", data, "--lang", lang_dir]
    grid = ["--grid", "prior_scale=0,0.5", f"decode.prior={tmp_path / 'prior.npy'}"]
    done = ctcsd("sweep", *places, "--method", "greedy", *grid)
    assert done.returncode == 0, done.stderr
    best, dev, test = done.stdout.splitlines()
    assert best == "best of 2 on dev: decode.per_method.greedy.prior_scale=0.5"
    assert dev == "dev: WER 0.00  CER 0.00" and test.startswith("test: WER 66.67  CER 66.67  real-time factor ")
    rows = list(csv.DictReader((run.decoded("greedy") / "sweep-student.csv").open(encoding="utf-8")))
    assert [(row["prior_scale"], row["wer"]) for row in rows] == [("0", "100.00"), ("0.5", "0.00")]
    assert imread(run.decoded("greedy") / "sweep-student.png").std() > 0.02
    kept = json.loads((run.decoded("greedy") / "sweep-student.json").read_text())
    assert kept["setting"] == {"decode.per_method.greedy.prior_scale": "0.5"}
    assert (kept["dev"]["wer"], kept["dev"]["failed"], kept["test"]["failed"]) == (0.0, 0, 0)
    assert kept["test"]["wer"] == pytest.approx(200 / 3) == kept["test"]["cer"] and kept["test"]["rtf"] > 0
    with PosteriorWriter(run.archive("test", "student"), table) as writer:
        writer.write("u", np.full_like(log_probs, np.nan))
    done = ctcsd("sweep", *places, "--method", "greedy", *grid)
    assert done.returncode == 3 and "test: WER 100.00" in done.stdout
    assert done.stderr.startswith("error: 1 of test could not be decoded") and done.stderr.count("\n") == 1
    done = ctcsd("sweep", *places, "--method", "greedy", "--grid", "beam=3,5")
    assert done.returncode == 1 and "takes no option 'beam'" in done.stderr and done.stderr.count("\n") == 1


def test_ties_go_to_the_lower_cer_and_then_to_the_first() -> None:
    points = [Point({"a": "1"}, 10.0, 5.0, 0.0), Point({"a": "2"}, 10.0, 4.0, 0.0), Point({"a": "3"}, 10.0, 4.0, 0.0)]
    assert best_of(points) is points[1]


@pytest.mark.parametrize("axes", [["x=1,2,3"], ["y=a,b", "x=1,2,3"], ["z=p,q", "y=a,b", "x=1,2"]])
def test_a_picture_of_one_two_or_three_axes(tmp_path: Path, axes: list[str]) -> None:
    points = [Point(setting, 10.0 + n, 5.0, 0.01) for n, setting in enumerate(grid_of(axes))]
    plot_sweep(tmp_path / "sweep.png", points, "beam")
    assert imread(tmp_path / "sweep.png").std() > 0.02
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.png"]
