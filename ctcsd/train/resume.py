"""From where an interrupted training goes on: checkpoints by the clock, and the newest one that is whole."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from ctcsd.errors import first_line

QUESTIONS = 20  # steps between two agreements of the processes on whether to save, for each of which they wait


class TimedCheckpoint(Callback):
    """Saves `timed.ckpt` every so many minutes in the middle of an epoch, whose end has a checkpoint of its own."""

    def __init__(self, folder: Path, minutes: float) -> None:
        self.path, self.seconds = folder / "timed.ckpt", 60.0 * minutes
        self.every = QUESTIONS if minutes >= 1 else 1
        self._saved = time.monotonic()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        due = time.monotonic() - self._saved >= self.seconds
        if trainer.world_size > 1:
            if batch_idx % self.every:
                return
            due = trainer.strategy.reduce_boolean_decision(due, all=False)
        if due and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            trainer.save_checkpoint(self.path)
            self._saved = time.monotonic()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._saved = time.monotonic()


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named and renamed to `*.damaged`."""
    for path in sorted(folder.glob("[!.]*.ckpt"), key=lambda p: p.stat().st_mtime_ns, reverse=True):
        reason = damage(path)
        if reason is None:
            return path
        aside = path.with_name(f"{path.name}.damaged")
        path.replace(aside)
        print(f"{path} is damaged ({reason}): moved to {aside.name}", flush=True)
    return None


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; None: nothing.

    The checksums (CRC-32) of its zip archive are right, and torch can read it, without its tensors here, as plain data:
    a pickle that asks for code is refused.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        if broken is None:
            torch.load(path, map_location="meta", weights_only=True)
    except Exception as error:  # zipfile, zlib, torch and its unpickler raise more than a dozen classes
        return first_line(error)
    return None if broken is None else f"wrong checksum of {broken}"
