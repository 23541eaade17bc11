"""Further test sets, such as noisy ones, go through all stages beside dev and test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from console import ctcsd
from test_processes import arguments

from ctcsd.data import noise
from ctcsd.posteriors import PosteriorReader


def test_a_noisy_test_set_is_decoded_and_scored(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise, "SECONDS", 20)
    data = small_corpus
    run, lang, more = tmp_path / "exp" / "skd" / "seed1", data / "lang_char", "data.more_tests=[test_noise5]"
    done = ctcsd(*arguments(data, run, "train.epochs=1"))
    assert done.returncode == 0, done.stderr
    for command, said in (
        (["noisy", "--data", data, "--snr", 5], "cuts_test_noise5.jsonl.gz: 20 cuts"),
        (["features", "--data", data, "--jobs", 1, more], "features of test_noise5: 20 cuts"),
        (arguments(data, run, "train.epochs=1", more), "up to date"),
        (
            ["posteriors", "--run", run, "--data", data, "--lang", lang, more],
            "posteriors of test_noise5: 20 utterances",
        ),
        (["search", "--run", run, "--lang", lang, "--method", "greedy", more], "greedy on test_noise5 student: 20"),
        (["score", "--run", run, "--data", data, "--method", "greedy", more], "test_noise5 student greedy: WER"),
        (["table", tmp_path / "exp"], "test_noise5 WER"),
    ):
        done = ctcsd(*command)
        assert done.returncode == 0 and said in done.stdout, done.stdout + done.stderr
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert {row["split"] for row in rows} == {"dev", "test", "test_noise5"}
    clean, noisy = (PosteriorReader(run / "posteriors" / f"{split}-student") for split in ("test", "test_noise5"))
    assert all((a != b).any() for (_, a), (_, b) in zip(clean, noisy, strict=True)), "it is heard"
