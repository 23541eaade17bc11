"""What watches a training: bad steps, divergence, memory, pre-flight, cuts that cannot be read."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from console import ctcsd
from hypothesis import given
from hypothesis import strategies as st
from lhotse import CutSet, NumpyFilesWriter
from lhotse.cut import Cut
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from tiny import tiny_model

from ctcsd.config import TrainConfig, method_config
from ctcsd.data.batches import Batch
from ctcsd.errors import UserError
from ctcsd.train.bad_steps import IN_A_ROW, clip, not_finite, skip_where
from ctcsd.train.divergence import PATIENCE, RECENT, Divergence, LossBound
from ctcsd.train.fit import build, fit
from ctcsd.train.guards import StepGuard
from ctcsd.train.later import Later
from ctcsd.train.memory import advice, out_of_memory
from ctcsd.train.optim import lr_factor, make_optimizer
from ctcsd.train.unreadable import Unreadable

TINY = ["model.layers=2", "student_layers=1", "model.dim=32", "model.heads=2", "model.subsampling_channels=4"]
TINY += ["data.max_duration=20", "train.epochs=1"]
CURVES = {
    " ".join(line.split()[:2]): np.array(line.split()[2:], dtype=float)
    for line in (Path(__file__).parent / "curves.txt").read_text().splitlines()
}


def train(corpus: Path, run: Path, *overrides: str, method: str = "skd") -> subprocess.CompletedProcess[str]:
    return ctcsd(
        "train", "-m", method, "--data", corpus, "--lang", corpus / "lang_char", "--run", run, *TINY, *overrides
    )


def changed_corpus(corpus: Path, folder: Path, change) -> Path:
    """The corpus with some training cuts changed: `change(number, cut)` gives the cut back."""
    shutil.copytree(corpus, folder, ignore=shutil.ignore_patterns("*.lca"))
    path = folder / "fbank80" / "cuts_train.jsonl.gz"
    cuts = CutSet.from_file(corpus / "fbank80" / "cuts_train.jsonl.gz")
    CutSet.from_cuts(change(number, cut) for number, cut in enumerate(cuts)).to_file(path)
    return folder


def poison(cut: Cut, folder: Path) -> Cut:
    """The cut with a NaN among its features."""
    features = cut.load_features()
    features[3, 5] = np.nan
    with NumpyFilesWriter(folder) as writer:
        key = writer.write(cut.id, features)
    stored = copy.copy(cut.features)
    stored.storage_type, stored.storage_path, stored.storage_key = writer.name, str(writer.storage_path), key
    poisoned = copy.copy(cut)
    poisoned.features, poisoned.custom = stored, None
    return poisoned


# --- loss or gradient not finite


@pytest.mark.parametrize(("loss", "gradient"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_a_bad_step_changes_neither_parameters_nor_the_optimizers_state(loss: float, gradient: float) -> None:
    model = tiny_model()
    optimizer, _ = make_optimizer(model, TrainConfig(), 10)

    def step(loss: float, gradient: float) -> None:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        model.heads["student"].bias.grad[0] = gradient
        skip_where(optimizer, not_finite(torch.tensor(loss), clip(model.parameters(), 2.0)))
        optimizer.step()

    step(1.0, 1.0)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    step(loss, gradient)
    torch.testing.assert_close((model.state_dict(), optimizer.state_dict()), before, rtol=0.0, atol=0.0)
    step(1.0, 1.0)
    assert not any(value.equal(before[0][name]) for name, value in model.named_parameters()), "a good one counts again"


def test_a_training_skips_what_is_poisoned_and_lists_it(small_corpus: Path, tmp_path: Path) -> None:
    data = changed_corpus(small_corpus, tmp_path / "data", lambda n, cut: poison(cut, tmp_path) if n == 7 else cut)
    done = train(data, tmp_path / "run", "train.epochs=2", "data.max_seconds=2.95")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "run" / "train.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "run" / "bad_batches.jsonl").read_text().splitlines()]
    assert record["bad_steps"] == len(lines) == 2, "once in each epoch"
    poisoned = list(CutSet.from_file(data / "fbank80" / "cuts_train.jsonl.gz"))[7].id
    for number, line in enumerate(lines, start=1):
        assert poisoned in line["cut_ids"] and line["epoch"] == number
        assert line["shape"][0] == len(line["cut_ids"]) and line["shape"][2] == 80
        assert line["loss"] == line["ctc_student"] == line["ctc_teacher"] == "nan"
        assert line["features"]["not_finite"] == 1 and line["features"]["min"] < 0 < line["features"]["max"] + 20
    assert all(value.isfinite().all() for value in load_file(tmp_path / "run" / "model.safetensors").values())
    assert f"step {lines[0]['step']} skipped: the loss is not finite" in done.stdout
    assert "loss nan" not in done.stdout, "the mean of the epoch is that of the good steps"
    rows = [line.split("\t") for line in (tmp_path / "run" / "left_out.tsv").read_text().splitlines()]
    assert rows[0] == ["id", "reason", "detail"]
    assert len(rows) - 1 == sum(record["left_out"].values()) > 0
    assert {row[1] for row in rows[1:]} == {"longer than data.max_seconds"}


def test_a_training_that_only_skips_ends(small_corpus: Path, tmp_path: Path) -> None:
    data = changed_corpus(small_corpus, tmp_path / "data", lambda n, cut: poison(cut, tmp_path))
    done = train(data, tmp_path / "run", "train.epochs=9")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f"not finite {IN_A_ROW} steps in a row" in done.stderr and "its features are not finite" in done.stderr


# --- the schedule


@given(st.integers(1, 3000), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_learning_rate_rises_to_its_peak_and_never_above(total: int, warmup: float, final: float) -> None:
    factors = [lr_factor(step, total, warmup, final) for step in range(total)]
    peak = factors.index(max(factors))
    assert factors[:peak] == sorted(factors[:peak]) and factors[peak:] == sorted(factors[peak:], reverse=True)
    assert min(factors[: peak + 1]) > 0.0 and max(factors) <= 1.0
    assert max(factors) == 1.0 or warmup * total > total - 1


# --- divergence


def dense(sampled: np.ndarray, seed: int = 0) -> np.ndarray:
    """A loss for every step from one of every tenth: its trend and noise as they were."""
    trend = np.convolve(np.pad(np.log(sampled), 5, mode="edge"), np.ones(11) / 11, "valid")
    noise = np.random.default_rng(seed).choice(np.log(sampled) - trend, 10 * len(sampled))
    return np.exp(np.interp(np.arange(10 * len(sampled)) / 10, np.arange(len(sampled)), trend) + noise)


def verdict(losses: np.ndarray) -> int | None:
    """The step at which the bound says stop."""
    bound = LossBound()
    return next((step for step, loss in enumerate(losses) if bound.update(float(loss))), None)


@pytest.mark.parametrize("name", CURVES)
def test_real_trainings_go_on(name: str) -> None:
    assert verdict(CURVES[name]) is None and verdict(dense(CURVES[name])) is None
    for at in (300, 1000, 1500):
        ramp = dense(CURVES[name]).copy()
        ramp[at:] *= 1.3  # a distillation term that sets in
        assert verdict(ramp) is None, at


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("at", [300, 1000, 1500])
def test_a_loss_that_runs_away_ends_the_training(name: str, at: int) -> None:
    losses = dense(CURVES[name])
    jump = losses.copy()
    jump[at:] *= 4
    found = verdict(jump)
    assert found is not None and at + PATIENCE - 1 <= found <= at + PATIENCE + RECENT
    slow = losses.copy()
    slow[at:] *= np.exp(np.arange(len(losses) - at) / 150)
    found = verdict(slow)
    assert found is not None and found < at + 400
    spike = losses.copy()
    spike[at : at + 5] *= 20
    assert verdict(spike) is None, "a few bad batches are none"


def test_weights_are_of_no_account_and_terms_have_bounds_of_their_own() -> None:
    watch = Divergence()
    for step, loss in enumerate(dense(CURVES["default skd"])[:1500]):
        late = {"ctc_student": 8.0 * loss} if step > 700 else {}  # a ramp from weight 0: the student's head is new
        assert watch.update({"ctc_teacher": loss, "kd": 0.01 if step < 700 else 5.0, **late}) is None
    resumed = Divergence()
    resumed.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    words = [one.update({"ctc_teacher": 50.0}) for _ in range(PATIENCE + RECENT) for one in (watch, resumed)]
    assert words[::2] == words[1::2] and "ctc_teacher has been far above" in str(words[-1])


def test_the_guard_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    batch = Batch(torch.zeros(1, 8, 80), torch.tensor([8]), None, None, [], ["a"])

    def run(guard: StepGuard) -> None:
        for step in range(400):
            if step in (100, 330):  # the second one is saved while the loss is high
                path = tmp_path / "checkpoints" / f"epoch{step}.ckpt"
                path.touch()
                if step == 330:
                    os.utime(path, (path.stat().st_mtime + 60,) * 2)
            loss = torch.tensor(1.0 if step < 300 else 9.0)
            outputs = {"bad": torch.tensor(0.0), "loss": loss, "norm": loss, "parts": {"ctc_student": loss}}
            guard.take(step, 1, batch, outputs)

    with pytest.raises(UserError, match=r"lower train.lr=0.001 .* last good checkpoint: .*/epoch100.ckpt;") as raised:
        run(StepGuard(tmp_path, TrainConfig()))
    assert "\n" not in str(raised.value)
    run(StepGuard(tmp_path, TrainConfig(guard=False)))


def test_a_step_that_waits_for_its_verdict_gets_it_before_a_checkpoint(tmp_path: Path) -> None:
    batch = Batch(torch.zeros(1, 8, 80), torch.tensor([8]), None, None, [], ["a"])
    nan = torch.tensor(float("nan"))

    def bad_steps(guard: StepGuard, count: int) -> dict:
        for step in range(count):
            guard.take(step, 1, batch, {"bad": torch.tensor(1.0), "loss": nan, "norm": nan, "parts": {}})
        return json.loads(json.dumps(guard.state_dict()))

    state = bad_steps(StepGuard(tmp_path, TrainConfig()), IN_A_ROW - 1)
    assert state["bad_steps"] == len((tmp_path / "bad_batches.jsonl").read_text().splitlines()) == IN_A_ROW - 1
    resumed, older = (StepGuard(tmp_path, TrainConfig()) for _ in range(2))
    resumed.load_state_dict(state)
    with pytest.raises(UserError, match=f"{IN_A_ROW} steps in a row"):
        bad_steps(resumed, 1)
    del state["in_a_row"]
    older.load_state_dict(state)
    assert bad_steps(older, 1)["in_a_row"] == 1


def test_numbers_arrive() -> None:
    assert Later(torch.tensor([1.0, float("inf")])).read() == [1.0, float("inf")]


# --- memory


def test_what_running_out_of_memory_is() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50)
    assert out_of_memory(raised.value)
    assert out_of_memory(MemoryError()) and out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not out_of_memory(RuntimeError("shapes differ")) and not out_of_memory(OSError("out of memory"))


def test_the_advice_fits() -> None:
    batch = Batch(torch.zeros(10, 1000, 80), torch.full((10,), 1000), None, None, [], ["a"] * 10)
    assert "100.0 s with padding, shape (10, 1000, 80) (80.0 s fitted): set data.max_duration=80" in advice(batch, 80.0)
    assert "nothing has fitted yet): set data.max_duration=50" in advice(batch, 0.0)
    assert "set data.max_seconds below 10.0" in advice(batch.select([0]), 80.0)
    assert "though 120.0 s fitted before" in advice(batch, 120.0)


# --- before the first epoch, and afterwards


def test_the_preflight_leaves_no_trace(small_corpus: Path, tmp_path: Path) -> None:
    said = {}
    for flag in ("--preflight", "--no-preflight"):
        done = train(small_corpus, tmp_path / flag, flag, "distill.frames=random:0.5", "model.dropout=0.1")
        assert done.returncode == 0, done.stderr
        said[flag] = done.stdout
    with_it, without = (load_file(tmp_path / flag / "model.safetensors") for flag in said)
    assert all(with_it[name].equal(without[name]) for name in without)
    assert "pre-flight: longest cuts (" in said["--preflight"] and "peak memory" in said["--preflight"]
    assert "pre-flight" not in said["--no-preflight"]


def test_processes_share_one_list_of_what_is_unreadable(tmp_path: Path) -> None:
    """Each counts what all have listed, now or before a restart, and once."""
    empty = Batch(torch.zeros(0, 8, 80), torch.zeros(0), None, None, [], [])

    def start() -> Unreadable:
        remedies = {"train": "run stage 1 again", "dev": "run stage 0 again"}
        return Unreadable(tmp_path / "unreadable.tsv", {"train": 100, "dev": 10}, 0.05, remedies)

    def lacking(*ids: str) -> Batch:
        return empty._replace(unreadable=[(cut_id, "no\nfile") for cut_id in ids])

    one, other = start(), start()
    one.note("train", lacking("a", "b", "c"))
    other.note("train", lacking("c", "d"))
    assert one.count == other.count == 4
    one, other = start(), start()
    for each in (one, other):
        each.note("train", empty)
        each.note("train", lacking("a", "d"))
    one.note("train", lacking("e"))
    with (tmp_path / "unreadable.tsv").open("a") as out:
        out.write("train\thalf a l")  # of a process that is writing
    with pytest.raises(UserError, match="6 of the 100 cuts of train could not be read"):
        other.note("train", lacking("f"))
    listed = (tmp_path / "unreadable.tsv").read_text().splitlines()
    assert sorted(listed[:5]) == [f"train\t{cut_id}\tno file" for cut_id in "abcde"], "each once"


class Vanish(Callback):
    """A file goes as the second epoch begins."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == 1:
            self.path.unlink()


@pytest.mark.parametrize("cuts", [2, 30])
def test_features_that_vanish_while_it_trains(small_corpus: Path, tmp_path: Path, cuts: int) -> None:
    stored = tmp_path / "some.lca"

    def change(number: int, cut: Cut) -> Cut:
        if number < cuts:
            shutil.copy(cut.features.storage_path, stored)
            cut.features.storage_path = str(stored)
        return cut

    data = changed_corpus(small_corpus, tmp_path / "data", change)
    overrides = [*TINY, "train.epochs=2", "train.preflight=false", "data.keep_mib=0"]
    module, corpus = build(method_config("skd", overrides=overrides), data, data / "lang_char")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="run stage 1 again$") if cuts > 2 else nullcontext():
        fit(module, corpus, tmp_path / "run", [Vanish(stored)])
    rows = [line.split("\t") for line in (tmp_path / "run" / "unreadable.tsv").read_text().splitlines()]
    assert all(row[0] == "train" and str(stored) in row[2] for row in rows)
    assert len({row[1] for row in rows}) == len(rows) and (len(rows) == 2 if cuts == 2 else len(rows) > 3)


def test_features_that_vanish_are_survived_up_to_a_share(small_corpus: Path, tmp_path: Path) -> None:
    def without(first: int, last: int):
        def change(number: int, cut: Cut) -> Cut:
            if first <= number < last:
                cut = copy.copy(cut)
                cut.features = copy.copy(cut.features)
                cut.features.storage_path = str(tmp_path / "gone")
            return cut

        return change

    data = changed_corpus(small_corpus, tmp_path / "some", without(3, 5))
    gone = [cut.id for cut in CutSet.from_file(data / "fbank80" / "cuts_train.jsonl.gz")][3:5]
    done = train(data, tmp_path / "run", "train.epochs=2")
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in (tmp_path / "run" / "unreadable.tsv").read_text().splitlines()]
    assert sorted(row[:2] for row in rows) == sorted(["train", cut_id] for cut_id in gone), "each once"
    assert json.loads((tmp_path / "run" / "train.json").read_text())["unreadable"] == 2
    assert "cannot be read and is left out" in done.stdout
    data = changed_corpus(small_corpus, tmp_path / "many", without(0, 30))
    done = train(data, tmp_path / "stopped")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "of the 60 cuts of train could not be read, more than data.max_bad=0.05" in done.stderr
