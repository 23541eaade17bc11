"""Stage 4b with variants of a search method, each in a folder of its own, and what each of them cost."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from fakes import random_log_probs

from ctcsd.config import Config, load_config
from ctcsd.decode.run import search_run
from ctcsd.errors import UserError
from ctcsd.files import read_json
from ctcsd.posteriors import PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.score.report import results_report
from ctcsd.score.run import score_run
from ctcsd.text.reference import Reference
from ctcsd.text.tokenizer import TokenTable

VARIANT = "greedy+prior_scale=0.9"


@pytest.fixture
def run(tmp_path: Path, table: TokenTable) -> RunDir:
    """A run whose archives hold ten utterances each, and a prior that favours the last token."""
    made = RunDir(tmp_path / "exp" / "run")
    rng = np.random.default_rng(0)
    for split in ("dev", "test"):
        with PosteriorWriter(made.archive(split, "student"), table) as writer:
            for number in range(10):
                writer.write(f"u{number}", random_log_probs(rng, 30, len(table)))
    with open(tmp_path / "prior.npy", "wb") as out:
        np.save(out, np.array([0.5, 0.3, 0.1, 0.09, 0.01], dtype=np.float32))
    record = {"corpus": "toy", "method": "ctc", "seed": 1, "parameters": {"student": 1}}
    (made.path / "train.json").write_text(json.dumps({**record, "seconds": 1.0, "peak_memory_mib": 1, "revision": "x"}))
    return made


def config(tmp_path: Path, *overrides: str) -> Config:
    return load_config([], [f"decode.prior={tmp_path / 'prior.npy'}", *overrides])


def test_each_has_its_options_its_folder_and_its_cost(run: RunDir, tmp_path: Path, lang_dir: Path) -> None:
    cfg = config(tmp_path, f"decode.methods=[greedy,{VARIANT}]")
    search_run(run.path, lang_dir, cfg, ["student"], cfg.decode.methods)
    found = {method: run.hypotheses(method, "test", "student").read_text() for method in cfg.decode.methods}
    assert found["greedy"] != found[VARIANT]
    for method in cfg.decode.methods:
        cost = read_json(run.search_cost(method, "test", "student"))
        assert cost["rtf"] == pytest.approx(cost["search_seconds"] / (10 * 30 * 0.04), rel=0.05, abs=1e-4)
        assert 5 < cost["search_peak_mib"] < 10_000
    spoken = {"test": {f"u{number}": Reference("a b c") for number in range(10)}}
    plain, variant = score_run(run, spoken, cfg.decode.methods, ["student"])
    assert (plain["options"], variant["options"]["prior_scale"]) == ({}, 0.9)
    assert plain["rtf"] >= 0 and variant["search_peak_mib"] > 5
    text, _ = results_report(tmp_path / "exp")
    assert VARIANT in text and "RTF" in text and "search memory" in text


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("greedy+beem=3", r"greedy\+beem=3: .*beem"),
        ("greedy+prior_scale=much", r"greedy\+prior_scale=much: "),
        ("gredy+prior_scale=1", "no search method 'gredy'"),
        ("greedy+prior=a/b.npy", "cannot name a folder"),
    ],
)
def test_wrong_ones_are_one_line(run: RunDir, tmp_path: Path, lang_dir: Path, method: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        search_run(run.path, lang_dir, config(tmp_path), ["student"], [method])


def test_a_refused_search_leaves_what_was_found_before(run: RunDir, tmp_path: Path, lang_dir: Path) -> None:
    search_run(run.path, lang_dir, config(tmp_path, "decode.prior_scale=0.5"), ["student"], ["greedy"])
    with pytest.raises(UserError, match="no prior can be read"):
        search_run(
            run.path, lang_dir, load_config([], ["decode.prior_scale=0.5", "decode.prior=x"]), ["student"], ["greedy"]
        )
    assert run.hypotheses_marker("greedy", "dev", "student").is_file()


def test_options_that_are_not_set_are_handed_over_too(
    run: RunDir, tmp_path: Path, lang_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the other interpreter would take the run's own configuration, which may name some."""
    commands = []
    monkeypatch.setattr(
        "ctcsd.decode.run.subprocess.run", lambda command, check: commands.append(command) or CompletedProcess([], 0)
    )
    search_run(run.path, lang_dir, Config(), ["student"], ["k2-hlg"], k2_python=Path("/k2/python"))
    given = [part for part in commands[0] if part.startswith("decode.")]
    assert "decode.lm_scale=null" in given
    cfg = load_config([], ["decode.lm_scale=0.9", "decode.prior=x", *given])
    assert {**vars(cfg.decode), "methods": None} == {**vars(Config().decode), "methods": None}
