"""Killed anywhere and started again, a training ends with the same model, bit for bit."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from console import REPOSITORY, ctcsd
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import tiny_model

from ctcsd.config import Config, method_config, save_config
from ctcsd.errors import UserError
from ctcsd.lock import locked
from ctcsd.train.checkpoint import by_dev_error, load_model, save_model
from ctcsd.train.fit import build, fit
from ctcsd.train.module import CHECKPOINT_FORMAT
from ctcsd.train.resume import QUESTIONS, TimedCheckpoint, damage, newest_whole

TINY = ["model.layers=2", "student_layers=1", "model.dim=32", "model.heads=2", "model.subsampling_channels=4"]
TINY += ["data.max_duration=8", "train.epochs=5", "train.average=2", "distill.frames=random:0.5"]


def arguments(corpus: Path, run: Path, *overrides: str) -> list[object]:
    return ["train", "-m", "skd", "--data", corpus, "--lang", corpus / "lang_char", "--run", run, *TINY, *overrides]


def process_of(corpus: Path, run: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """A training in a process of its own: all with the same number of threads, on which the last bits depend."""
    words = arguments(corpus, run, "train.save_minutes=0.002", *overrides)
    return subprocess.Popen([sys.executable, "-m", "ctcsd", *map(str, words)], cwd=REPOSITORY, stdout=subprocess.PIPE)


@pytest.fixture(scope="module")
def uninterrupted(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A training that nobody stopped, and the seconds it took, with starting up and evaluation."""
    run, start = tmp_path_factory.mktemp("uninterrupted") / "run", time.monotonic()
    process = process_of(small_corpus, run)
    process.communicate()
    assert process.returncode == 0
    return run, time.monotonic() - start


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_loop_of_kills(
    small_corpus: Path, uninterrupted: tuple[Path, float], tmp_path: Path, request: pytest.FixtureRequest, workers: int
) -> None:
    """Two of three kills come soon after a checkpoint, the third at any moment; `--kills` of them without workers."""
    kills, seed = 1 if workers else request.config.getoption("--kills"), random.randrange(10**6)
    print(f"seed of the kills: {seed}")
    draw = random.Random(seed)
    (plain, seconds), killed = uninterrupted, tmp_path / "killed"

    def assert_same_model() -> None:
        a, b = (load_file(run / "model.safetensors") for run in (plain, killed))
        assert all(a[key].equal(b[key]) for key in a), f"another model; seed of the kills {seed}"

    for number in range(kills):
        before = saved(killed)
        process = process_of(small_corpus, killed, f"data.workers={workers}")
        if number % 3 == 2:
            with suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0.0, seconds))
        else:
            deadline = time.monotonic() + 300
            while saved(killed) == before and process.poll() is None:
                assert time.monotonic() < deadline, "no checkpoint to kill after"
                time.sleep(0.01)
            time.sleep(draw.uniform(0.0, 0.6))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:  # it was faster: another one from the start
            assert_same_model()
            shutil.rmtree(killed)
    begun = bool(saved(killed))
    again = process_of(small_corpus, killed, f"data.workers={workers}")
    said = again.communicate()[0].decode()
    # The last kill may have come behind the end of the training, while the process was still there.
    assert again.returncode == 0 and ("going on from" in said or "up to date" in said) == begun
    assert_same_model()
    once_more = ctcsd(*arguments(small_corpus, killed, f"data.workers={workers}"))
    assert once_more.returncode == 0 and "up to date" in once_more.stdout and "epoch" not in once_more.stdout


def saved(run: Path) -> list[int]:
    return sorted(path.stat().st_mtime_ns for path in run.glob("checkpoints/[!.]*.ckpt"))


def test_the_newest_whole_checkpoint_counts(tmp_path: Path, capsys) -> None:
    (tmp_path / ".partial.last.ckpt").write_bytes(b"of a killed training")
    assert newest_whole(tmp_path) is None
    for number, name in enumerate(["epoch000.ckpt", "last.ckpt", "timed.ckpt"]):
        torch.save({"state_dict": {"a": torch.arange(1000.0)}}, tmp_path / name)
        times = (number + 1) * 10**9
        os.utime(tmp_path / name, ns=(times, times))
    whole = (tmp_path / "timed.ckpt").read_bytes()
    assert newest_whole(tmp_path) == tmp_path / "timed.ckpt"
    (tmp_path / "timed.ckpt").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray((tmp_path / "last.ckpt").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "last.ckpt").write_bytes(flipped)
    os.utime(tmp_path / "last.ckpt", ns=(2 * 10**9, 2 * 10**9))
    assert newest_whole(tmp_path) == tmp_path / "epoch000.ckpt"
    said = capsys.readouterr().out
    assert "timed.ckpt is damaged" in said and "last.ckpt is damaged" in said
    assert (tmp_path / "last.ckpt.damaged").is_file()


@pytest.mark.parametrize(("minutes", "steps"), [(10.0, [0, QUESTIONS, 2 * QUESTIONS]), (0.001, [*range(60)])])
def test_processes_agree_on_the_time_now_and_then(tmp_path: Path, minutes: float, steps: list[int]) -> None:
    asked = []
    trainer = SimpleNamespace(world_size=2, strategy=SimpleNamespace())
    saver = TimedCheckpoint(tmp_path, minutes)
    for step in range(60):
        trainer.strategy.reduce_boolean_decision = lambda due, all, step=step: asked.append(step)
        saver.on_train_batch_end(trainer, None, None, None, step)
    assert asked == steps


def test_equal_checkpoints_stand_in_the_order_of_the_epochs() -> None:
    names = ["epoch002-cer4.90.ckpt", "epoch000-cer5.00.ckpt", "epoch001-cer5.00.ckpt", "epoch003-cer10.00.ckpt"]
    for listed in itertools.permutations(names):
        assert [path.name for path in by_dev_error(map(Path, listed))] == names


class Stop(Callback):
    """Ends a training in the middle of its second epoch."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        if (trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_idx) == (1, 3):
            raise InterruptedError


def test_the_mean_loss_of_an_epoch_is_that_of_both_its_halves(small_corpus: Path, tmp_path: Path) -> None:
    overrides = [*TINY, "train.epochs=2", "train.save_minutes=0", "train.preflight=false", "data.max_duration=20"]
    losses = []
    for stops in (False, True):
        run = tmp_path / str(stops)
        run.mkdir()
        for watchers in ([Stop()], []) if stops else ([],):
            module, data = build(method_config("skd", overrides=overrides), small_corpus, small_corpus / "lang_char")
            with pytest.raises(InterruptedError) if watchers else nullcontext():
                fit(module, data, run, watchers)
        events = EventAccumulator(str(run / "tensorboard")).Reload()
        losses.append([(event.step, event.value) for event in events.Scalars("loss_epoch")])
    assert losses[0] == losses[1]


def test_a_checkpoint_of_an_older_format_says_what_to_do(small_corpus: Path, tmp_path: Path) -> None:
    overrides = [*TINY, "train.epochs=2", "train.save_minutes=0", "train.preflight=false", "data.max_duration=20"]

    def start(*watchers: Callback) -> None:
        module, data = build(method_config("skd", overrides=overrides), small_corpus, small_corpus / "lang_char")
        fit(module, data, tmp_path, watchers)

    with pytest.raises(InterruptedError):
        start(Stop())
    path = newest_whole(tmp_path / "checkpoints")
    assert path is not None
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["ctcsd"]["format"] = CHECKPOINT_FORMAT - 1
    torch.save(checkpoint, path)
    with pytest.raises(UserError, match="finish the training with the version that began it, or move its folder away"):
        start()


def test_a_model_from_before_there_were_checksums(tmp_path: Path) -> None:
    model = tiny_model()
    save_config(Config(model=model.cfg), tmp_path / "config.yaml")
    save_model(model, tmp_path, "table")
    path = tmp_path / "model.safetensors"
    save_file(load_file(path), path, metadata={"format": "ctcsd-1", "tokens": "table"})
    loaded, _ = load_model(tmp_path, "table")
    assert all(value.equal(model.state_dict()[name]) for name, value in loaded.state_dict().items())
    with pytest.raises(UserError, match="trained with another token table"):
        load_model(tmp_path, "other")


def test_every_flipped_byte_of_the_content_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    tensor = torch.arange(100.0)
    torch.save({"a": tensor}, path)
    whole = path.read_bytes()
    start = whole.index(tensor.numpy().tobytes())
    for at in range(start, start + 400, 7):
        changed = bytearray(whole)
        changed[at] ^= 0x10
        path.write_bytes(changed)
        assert damage(path) is not None


def test_one_training_at_a_time(small_corpus: Path, tmp_path: Path) -> None:
    with locked(tmp_path / ".run.lock", "busy"):
        done = ctcsd(*arguments(small_corpus, tmp_path / "run"))
    assert done.returncode == 1
    assert "another training is writing into" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    with (
        locked(tmp_path / ".run.lock", "busy"),
        pytest.raises(UserError, match="busy"),
        locked(tmp_path / ".run.lock", "busy"),
    ):
        pass
