"""The token priors of a run's exits: the mean posterior, each as new as its data."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet
from tiny import tiny_model

from ctcsd.config import Config, save_config
from ctcsd.data.features import load_cuts
from ctcsd.posteriors import PosteriorReader
from ctcsd.run_dir import RunDir
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import save_model
from ctcsd.train.infer import prior_run, write_posteriors

TRAIN = "fbank80/cuts_train.jsonl.gz"


def test_each_exit_has_the_prior_of_the_data_as_it_is(
    small_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, lang, run = tmp_path / "data", small_corpus / "lang_char", RunDir(tmp_path / "run")
    shutil.copytree(small_corpus, data)
    table = TokenTable.load(lang)
    model = tiny_model(vocab_size=len(table)).eval()
    run.path.mkdir()
    save_config(Config(model=model.cfg), run.path / "config.yaml")
    save_model(model, run.path, table.fingerprint)

    def priors(*exits: str) -> dict[str, np.ndarray]:
        prior_run(run.path, data, lang, Config(), exits)
        return {exit: np.load(run.prior(exit)) for exit in ("student", "teacher")}

    first = priors("student", "teacher")
    assert priors("student", "teacher").keys() == first.keys() and capsys.readouterr().out.count("up to date") == 2
    some = CutSet.from_cuts(list(load_cuts(data / TRAIN, stage=1))[:20])
    some.to_file(data / TRAIN)
    assert np.array_equal(priors("student")["teacher"], first["teacher"])
    second = priors("student", "teacher")
    rows: dict[str, list[np.ndarray]] = {"student": [], "teacher": []}
    write_posteriors(model, some, {exit: tmp_path / exit for exit in rows}, table)
    for exit in rows:
        found = np.concatenate([np.exp(p) for _, p in PosteriorReader(tmp_path / exit)]).mean(0)
        assert not np.array_equal(second[exit], first[exit])
        np.testing.assert_allclose(second[exit], found, atol=2e-4)
