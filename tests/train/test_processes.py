"""Training in several processes is the training in one: the same losses, dev errors and model, one writer, no hang."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from console import REPOSITORY, ctcsd
from lhotse import CutSet
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from ctcsd.config import AugmentConfig, TrainConfig
from ctcsd.data.batches import Batch, in_order
from ctcsd.data.features import load_cuts
from ctcsd.distill import Objective
from ctcsd.distill.teacher import make_teacher
from ctcsd.errors import UserError
from ctcsd.train.accumulate import Accumulator
from ctcsd.train.processes import check_hardware
from ctcsd.train.resume import TimedCheckpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "distill"))
from tiny import EXITS, tiny_model  # noqa: E402

WEIGHTS = {"ctc_student": 0.4, "ctc_teacher": 0.3, "kd": 0.6}
FRAMES = torch.tensor([80, 41, 66, 80, 57])


def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    targets = torch.randint(1, 5, (5, 5), generator=generator)
    features = torch.randn(5, 80, 80, generator=generator)
    return Batch(features, FRAMES, targets, torch.tensor([3, 1, 4, 2, 5]), ["t"] * 5, list("abcde"))


class Together:
    """Threads that add up their tensors, each at the same time as the others."""

    def __init__(self, count: int) -> None:
        self.tensors: list[Tensor] = [torch.zeros(())] * count
        self.barrier = threading.Barrier(count, timeout=60)

    def total(self, rank: int) -> Callable[[Tensor], Tensor]:
        def total(tensor: Tensor) -> Tensor:
            self.tensors[rank] = tensor
            self.barrier.wait()
            summed = sum(self.tensors[1:], start=self.tensors[0])
            self.barrier.wait()
            return summed

        return total


def learn(shares: list[Batch], objective: Objective, kind: str, pieces: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The sums over some processes of their losses and of their gradients."""
    together = Together(len(shares))
    results: list[tuple[Tensor, dict[str, Tensor]]] = [(torch.zeros(()), {})] * len(shares)
    views = 2 if kind == "self_view" else 1
    models = [tiny_model() for _ in shares]  # one after the other: they draw from the global generator
    teachers = [make_teacher(kind, EXITS, lambda: tiny_model(seed=5)) for _ in shares]

    def process(rank: int) -> None:
        augment = AugmentConfig(views=views, time_masks=0, freq_masks=0)
        accumulate = Accumulator(models[rank], objective, teachers[rank], augment, False, pieces, together.total(rank))
        results[rank] = accumulate(shares[rank], WEIGHTS)

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(len(shares))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loss = sum(loss for loss, _ in results)
    parts = {name: sum(parts[name] for _, parts in results) for name in results[0][1]}
    grads = [dict(model.named_parameters()) for model in models]
    total = {name: sum(own[name].grad for own in grads) for name in grads[0] if grads[0][name].grad is not None}
    return loss, {**{name: value.float() for name, value in parts.items() if name != "kd_frames"}, **total}


@pytest.mark.parametrize("reduction", ["per_label", "per_frame", "per_utterance", "hilmes"])
@pytest.mark.parametrize(
    ("frames", "match", "kind"),
    [
        ("all", "kl", "self"),
        ("symmetric:1", "kl", "checkpoint"),
        ("nonblank_prior:0.5", "l2", "checkpoint"),
        ("nonblank", "guide", "self_view"),
    ],
)
def test_the_gradients_of_the_shares_add_up_to_the_batchs(reduction: str, frames: str, match: str, kind: str) -> None:
    objective = Objective(WEIGHTS, EXITS, frames, match, reduction=reduction)
    loss, whole = learn([batch()], objective, kind, 1)
    idle = batch().select([4])._replace(stand_in=True)
    for shares in ([[0, 3], [1, 2, 4]], [[1, 2, 3], [0, 4], None]):
        dealt = [idle if rows is None else batch().select(rows) for rows in shares]
        also, summed = learn(dealt, objective, kind, 1)
        torch.testing.assert_close(also, loss, rtol=1e-5, atol=1e-6)
        assert summed.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(summed[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()), msg=name)
    if "prior" not in frames:  # which is taken from a piece where there are pieces
        for pieces in (2, 4):
            shares = [batch().select([0, 3]), batch().select([1, 2, 4]), idle]
            also, summed = learn(shares, objective, kind, pieces)
            torch.testing.assert_close(also, loss, rtol=1e-4, atol=1e-6)
            for name, value in whole.items():
                close = {"rtol": 1e-3, "atol": 1e-4 * float(value.abs().max())}
                torch.testing.assert_close(summed[name], value, **close, msg=name)


TINY = ["model.layers=2", "student_layers=1", "model.dim=32", "model.heads=2", "model.subsampling_channels=4"]
TINY += ["train.epochs=3", "train.precision=32", "augment.time_masks=0", "augment.freq_masks=0", "data.max_duration=14"]


@pytest.fixture(scope="module")
def corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus, whose last batches of an epoch and of dev hold a single cut."""
    data = tmp_path_factory.mktemp("processes")
    (data / "lang_char").symlink_to(small_corpus / "lang_char")
    (data / "fbank80").mkdir()
    cuts = load_cuts(small_corpus / "fbank80" / "cuts_train.jsonl.gz", stage=1)
    CutSet.from_cuts(list(cuts)[:41]).to_file(data / "fbank80" / "cuts_train.jsonl.gz")
    some = (CutSet.from_cuts(list(cuts)[:count]) for count in range(17, 40))
    next(dev for dev in some if len(in_order(dev, 14)[-1]) == 1).to_file(data / "fbank80" / "cuts_dev.jsonl.gz")
    return data


def arguments(corpus: Path, run: Path, *overrides: str) -> list[str]:
    command = ["train", "-m", "skd", "--data", corpus, "--lang", corpus / "lang_char", "--run", run, *TINY, *overrides]
    return [str(word) for word in command]


TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "ctcsd"]


def start(corpus: Path, run: Path, *overrides: str, launcher: Sequence[str] = ("-m", "ctcsd")) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, *arguments(corpus, run, *overrides)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def curve(run: Path, name: str) -> list[tuple[int, float]]:
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    done = ctcsd(*arguments(corpus, run))
    assert done.returncode == 0, done.stderr
    return run


def assert_the_same(run: Path, other: Path) -> None:
    a, b = (json.loads((path / "train.json").read_text()) for path in (run, other))
    assert a["dev"] == b["dev"]
    for name, value in load_file(run / "model.safetensors").items():
        torch.testing.assert_close(value, load_file(other / "model.safetensors")[name], atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize(("strategy", "pieces"), [("ddp", 1), ("fsdp", 1), ("fsdp", 3)])
def test_two_processes_are_one(corpus: Path, alone: Path, tmp_path: Path, strategy: str, pieces: int) -> None:
    """With pieces too, of which a share with fewer cuts than that, or none, makes as many as the other."""
    run = tmp_path / "run"
    several = ["train.devices=2", f"train.strategy={strategy}", f"train.accumulate={pieces}"]
    process = start(corpus, run, *several)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert out.count("epoch 3/3") == out.count("kept:") == 1, out
    for name in ("loss_step", "loss_epoch", "train/kd"):
        assert [step for step, _ in curve(run, name)] == [step for step, _ in curve(alone, name)]
        ours, theirs = (torch.tensor([value for _, value in curve(path, name)]) for path in (run, alone))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert_the_same(run, alone)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_encoder_that_is_frozen_at_first(corpus: Path, tmp_path: Path, strategy: str) -> None:
    """Behind pre-flight, in which all of it had a gradient; and by torchrun, as docs/scale.md has it."""
    short = ["model.freeze_steps=0.3", "train.epochs=1", "train.average=1"]
    several = ["train.devices=2", f"train.strategy={strategy}"]
    process = start(corpus, tmp_path / "two", *short, *several, launcher=TORCHRUN)
    alone = ctcsd(*arguments(corpus, tmp_path / "one", *short))
    out, err = process.communicate(timeout=300)
    assert process.returncode == alone.returncode == 0, err
    assert out.count("epoch 1/1") == out.count("kept:") == 1, out
    assert_the_same(tmp_path / "two", tmp_path / "one")


def wait_for_a_checkpoint(process: subprocess.Popen[str], run: Path) -> None:
    """Until there is one within an epoch, and a newer one than now."""
    path = run / "checkpoints" / "timed.ckpt"
    before = path.stat().st_mtime_ns if path.is_file() else 0
    deadline = time.monotonic() + 200
    while not path.is_file() or path.stat().st_mtime_ns == before:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_then_two_until_one_is_lost_then_one_are_one_training(
    corpus: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    run, often, save = tmp_path / "run", "train.save_minutes=0.0001", TimedCheckpoint.on_train_batch_end

    def save_once(self: TimedCheckpoint, *args: Any) -> None:
        save(self, *args)
        if self.path.is_file():
            raise UserError("enough")

    with monkeypatch.context() as patch:
        patch.setattr(TimedCheckpoint, "on_train_batch_end", save_once)
        assert "error: enough" in ctcsd(*arguments(corpus, run, often)).stderr
    process = start(corpus, run, "train.devices=2", f"train.strategy={strategy}", "train.accumulate=2", often)
    wait_for_a_checkpoint(process, run)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1
    os.kill(int(children[0]), signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "going on from" in out
    assert len(err.strip().splitlines()) == 1 and "start it again" in err, err
    again = ctcsd(*arguments(corpus, run))
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stdout
    assert_the_same(run, alone)


DIES_IN_A_BLOCK = """
from ctcsd.cli import main
from ctcsd.errors import UserError
from ctcsd.model.conformer import ConformerLayer

def fail(*args):
    raise UserError("enough")

ConformerLayer.forward = fail
main()
"""


def test_an_error_while_blocks_are_whole_is_the_one_that_is_told(corpus: Path, tmp_path: Path) -> None:
    options = ["train.strategy=fsdp", "train.preflight=false"]
    process = start(corpus, tmp_path / "run", *options, launcher=["-c", DIES_IN_A_BLOCK])
    err = process.communicate(timeout=200)[1]
    assert (process.returncode, err.strip()) == (1, "error: enough")


def test_what_the_hardware_lacks() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="train.precision=fp16 needs a GPU"):
            check_hardware(TrainConfig(precision="fp16"))
        check_hardware(TrainConfig(devices=64))
