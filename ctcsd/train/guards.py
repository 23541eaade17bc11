"""What watches each training step. It reads a step's numbers one step later, when they have long arrived."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from ctcsd.config import TrainConfig
from ctcsd.data.batches import Batch
from ctcsd.errors import UserError
from ctcsd.train.bad_steps import BadSteps
from ctcsd.train.divergence import Divergence
from ctcsd.train.later import Later


class _Step(NamedTuple):
    number: int
    epoch: int
    batch: Batch
    names: list[str]
    numbers: Later


class StepGuard(Callback):
    """Lists steps that were skipped, and ends a training that goes nowhere: only those, or a loss that runs away."""

    def __init__(self, run_dir: Path, cfg: TrainConfig) -> None:
        self.cfg = cfg
        self.checkpoints = run_dir / "checkpoints"
        self.bad_steps = BadSteps(run_dir / "bad_batches.jsonl")
        self.divergence = Divergence()
        self.calm_until = time.time()
        self._last: _Step | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if outputs:  # none of a batch without a single readable cut
            self.take(trainer.global_step, trainer.current_epoch + 1, batch, outputs)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.look()

    def take(self, number: int, epoch: int, batch: Batch, outputs: Mapping[str, Any]) -> None:
        """Judge the step before, and keep the numbers of this one: of all processes, for there is one verdict.

        Args:
            outputs: bad, loss, norm and parts, as `CtcModule.training_step` gives them.
        """
        self.look()
        numbers = {"bad": outputs["bad"], "loss": outputs["loss"], "gradient_norm": outputs["norm"], **outputs["parts"]}
        values = torch.stack([value.detach().float() for value in numbers.values()])
        self._last = _Step(number, epoch, batch, list(numbers), Later(values))

    def look(self) -> None:
        """Judge the step whose numbers are waiting.

        Raises:
            UserError: the training should end.
        """
        step, self._last = self._last, None
        if step is None:
            return
        numbers = dict(zip(step.names, step.numbers.read()))
        if numbers.pop("bad") != 0.0:
            self.bad_steps.bad(step.number, step.epoch, step.batch, numbers)
            return
        self.bad_steps.good()
        if not self.cfg.guard:
            return
        found = self.divergence.update({name: value for name, value in numbers.items() if math.isfinite(value)})
        if found:
            raise UserError(f"step {step.number}: {found}: {self._remedy()}")
        if self.divergence.calm:
            self.calm_until = time.time()

    def _remedy(self) -> str:
        saved = [path for path in self.checkpoints.glob("[!.]*.ckpt") if path.stat().st_mtime <= self.calm_until]
        last = max(saved, key=lambda path: path.stat().st_mtime, default=None)
        return (
            f"lower train.lr={self.cfg.lr:g} or train.clip={self.cfg.clip:g}, or raise "
            f"train.warmup={self.cfg.warmup:g}; last good checkpoint: {last or 'none'}; "
            "train.guard=false goes on regardless"
        )

    def state_dict(self) -> dict[str, Any]:
        self.look()  # the checkpoint is behind that step
        return {
            "divergence": self.divergence.state_dict(),
            "bad_steps": self.bad_steps.count,
            "in_a_row": self.bad_steps.in_a_row,
            "calm_until": self.calm_until,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.divergence.load_state_dict(state_dict["divergence"])
        self.bad_steps.count = state_dict["bad_steps"]
        self.bad_steps.in_a_row = state_dict.get("in_a_row", 0)  # earlier checkpoints do not say
        self.calm_until = state_dict["calm_until"]
