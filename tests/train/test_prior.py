"""The token priors of a run's exits: the mean posterior, each as new as its data."""

from __future__ import annotations

import hashlib
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest
from lhotse import CutSet
from lhotse.cut import Cut
from tiny import tiny_model

from ctcsd.config import Config, save_config
from ctcsd.data import features
from ctcsd.data.features import id_hash, load_cuts
from ctcsd.posteriors import PosteriorReader
from ctcsd.run_dir import RunDir
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import save_model
from ctcsd.train.infer import prior_run, write_posteriors

TRAIN = "fbank80/cuts_train.jsonl.gz"


def test_a_sample_of_a_cut_set_is_read_without_the_others_in_memory(
    small_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = sorted(load_cuts(small_corpus / TRAIN, stage=1), key=lambda cut: hashlib.sha1(cut.id.encode()).digest())
    read: list[weakref.ref] = []
    in_memory = []

    def watched(cut: Cut) -> bytes:
        read.append(weakref.ref(cut))
        in_memory.append(sum(one() is not None for one in read))
        return id_hash(cut)

    monkeypatch.setattr(features, "id_hash", watched)
    sample = load_cuts(small_corpus / TRAIN, stage=1, sample=10)
    assert list(sample) == wanted[:10] and len(read) == len(wanted) == 60
    assert max(in_memory) <= 12
    assert list(load_cuts(small_corpus / TRAIN, stage=1, sample=500)) == wanted


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
