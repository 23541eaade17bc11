"""Methods that need another run: a separate teacher, live or stored, a start from it, no transcript at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from lhotse import CutSet
from safetensors.torch import load_file

from ctcsd.config import method_config
from ctcsd.errors import UserError
from ctcsd.train.run import fit_run

TINY = ["student_layers=1", "model.dim=32", "model.heads=2", "model.subsampling_channels=4", "data.max_duration=30"]
TINY += ["train.epochs=2", "train.precision=32"]


def train(corpus: Path, exp: Path, method: str, *overrides: str, name: str = "") -> Path:
    """One run below exp, as ./run.sh lays them out."""
    base = corpus / "corpus.yaml"
    base.write_text("model: {layers: 2}")
    run = exp / (name or method) / "seed1"
    fit_run(method_config(method, [base], [*TINY, *overrides]), corpus, corpus / "lang_char", run)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


@pytest.fixture(scope="module")
def exp(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of runs with a trained teacher."""
    folder = tmp_path_factory.mktemp("exp")
    train(small_corpus, folder, "ctc_teacher")
    return folder


def test_a_method_says_what_it_depends_on(small_corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="kd_full depends on ctc_teacher, which is not trained at"):
        train(small_corpus, tmp_path, "kd_full")


def test_a_stored_teacher_teaches_as_the_live_one(small_corpus: Path, exp: Path, capsys) -> None:
    live = weights(train(small_corpus, exp, "kd_full"))
    stored = weights(train(small_corpus, exp, "kd_full", "distill.teacher=archive", name="kd_stored"))
    top = weights(train(small_corpus, exp, "kd_full", "distill.teacher=archive", "distill.top_k=2", name="kd_top"))
    for key, value in live.items():
        torch.testing.assert_close(stored[key], value, atol=2e-3, rtol=0.0)
    assert not all(top[key].allclose(value, atol=1e-6) for key, value in live.items())
    assert (exp / "ctc_teacher" / "seed1" / "posteriors" / "train-teacher-top2").is_dir()
    capsys.readouterr()
    train(small_corpus, exp, "kd_full", "distill.teacher=archive", name="kd_stored")
    assert "up to date" in capsys.readouterr().out


def test_label_free_training_never_looks_at_the_text(small_corpus: Path, exp: Path, tmp_path: Path) -> None:
    clean = weights(train(small_corpus, exp, "kd_label_free"))
    poisoned = tmp_path / "data"
    (poisoned / "fbank80").mkdir(parents=True)
    (poisoned / "lang_char").symlink_to(small_corpus / "lang_char")
    source = small_corpus / "fbank80"
    (poisoned / "fbank80" / "cuts_dev.jsonl.gz").symlink_to(source / "cuts_dev.jsonl.gz")
    cuts = list(CutSet.from_file(source / "cuts_train.jsonl.gz"))
    for number, cut in enumerate(cuts):
        cut.supervisions[0].text = None if number % 2 else "\u2620 poison \u2620" * 50
    CutSet.from_cuts(cuts).to_file(poisoned / "fbank80" / "cuts_train.jsonl.gz")
    without = weights(train(poisoned, exp, "kd_label_free", name="kd_poisoned"))
    assert all(without[key].equal(clean[key]) for key in clean)


def test_layer_pruning_starts_from_the_lower_layers(small_corpus: Path, exp: Path, capsys) -> None:
    teacher = weights(exp / "ctc_teacher" / "seed1")
    student = weights(train(small_corpus, exp, "layer_prune", "train.lr=1e-9", "init_from=/elsewhere"))
    assert "ctc_teacher/seed1, on which it depends, and not from init_from=/elsewhere" in capsys.readouterr().out
    assert not any(key.startswith("layers.1.") for key in student)
    for key, value in student.items():
        if not key.startswith("heads."):
            torch.testing.assert_close(value, teacher[key], atol=1e-6, rtol=0.0)
    assert not student["heads.student.weight"].allclose(teacher["heads.teacher.weight"], atol=1e-3)


def test_a_warm_start_is_kept_in_the_record(small_corpus: Path, exp: Path) -> None:
    start = exp / "ctc_teacher" / "seed1"
    run = train(small_corpus, exp, "interctc", f"init_from={start}", "train.lr=1e-9", name="warm")
    assert json.loads((run / "train.json").read_text())["init_from"] == str(start)
    warm, teacher = weights(run), weights(start)
    torch.testing.assert_close(warm["layers.1.ff1.up.weight"], teacher["layers.1.ff1.up.weight"], atol=1e-6, rtol=0.0)
    with pytest.raises(UserError, match="has model.dim=32, this one 64"):
        train(small_corpus, exp, "interctc", f"init_from={start}", "model.dim=64", name="other")


@pytest.mark.parametrize(("epochs", "passes", "said"), [(2, 1, False), (1, 1, True)])
def test_two_views_count_as_two_epochs(
    small_corpus: Path, exp: Path, capsys, epochs: int, passes: int, said: bool
) -> None:
    run = train(small_corpus, exp, "skd_cr", f"train.epochs={epochs}", name=f"skd_cr{epochs}")
    assert json.loads((run / "train.json").read_text())["epochs"] == passes
    assert ("train.epochs=1, but with 2 views the work is that of 2" in capsys.readouterr().out) == said


@pytest.mark.parametrize(
    ("method", "overrides", "message"),
    [
        ("cr_ctc", ["augment.views=1"], "needs two views: set augment.views=2"),
        ("kd_full", ["distill.teacher=archive", "distill.archive=/nowhere"], "no posteriors archive at /nowhere"),
        ("kd_full", ["weights.lambda=2"], "weights.lambda must lie between 0 and 1"),
        ("ctc", ["init_from=/nowhere"], "no trained model at /nowhere"),
        ("kd_prior", ["train.accumulate=2"], "takes the prior of whole batches: set train.accumulate=1"),
        ("ctc+train.lrr=1", [], "did you mean 'train.lr'"),
        ("nosuch+train.lr=1", [], "no method 'nosuch'"),
    ],
)
def test_what_does_not_fit_together(
    small_corpus: Path, exp: Path, method: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(small_corpus, exp, method, *overrides, name="bad")
