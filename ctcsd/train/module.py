"""One training step and one evaluation, for Lightning."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim.lr_scheduler import LRScheduler

from ctcsd.config import Config
from ctcsd.data.batches import Batch
from ctcsd.decode.greedy import collapse
from ctcsd.distill import Objective
from ctcsd.distill.selection import alone
from ctcsd.distill.teacher import CheckpointTeacher, Teacher
from ctcsd.errors import UserError
from ctcsd.model import EncoderCtc
from ctcsd.score.wer import WerStats, characters, utterance_errors
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.accumulate import Accumulator
from ctcsd.train.bad_steps import clip, not_finite, skip_where
from ctcsd.train.optim import make_optimizer
from ctcsd.train.processes import total, unshared, use_threads

CHECKPOINT_FORMAT = 2
LOG_EVERY = 10  # steps between points of the curves


def monitored_exit(exits: dict[str, int]) -> str:
    """The exit whose dev error picks the best checkpoints: the student where there is one, else the highest."""
    return "student" if "student" in exits else list(exits)[-1]


class CtcModule(L.LightningModule):
    """The model, its objective and its dev error; a separate teacher is kept out of the checkpoints."""

    def __init__(
        self, cfg: Config, model: EncoderCtc, table: TokenTable, objective: Objective, teacher: Teacher | None
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # training_step does it all, so that it can go through a batch in pieces
        self.cfg, self.model, self.table, self.objective = cfg, model, table, objective
        self._teacher = teacher
        single = cfg.train.devices * cfg.train.nodes == 1
        split = cfg.train.split_on_oom and single and cfg.train.strategy != "fsdp"  # whose hooks a failed pass confuses
        sums = alone if single else total
        self.accumulate = Accumulator(model, objective, teacher, cfg.augment, split, cfg.train.accumulate, sums)
        self.accumulate.hold = self._hold
        self.total_steps = 1
        self._seconds: Tensor | float = 0.0  # since the start; on the device of the batches
        self.done_batches = 0  # of the current epoch: a resumed one goes on behind them
        self._sums: dict[str, Tensor] = {}  # of the epoch so far: (sum of weight * loss, sum of weights)
        self._errors: dict[str, list[tuple[WerStats, WerStats]]] = {}

    @property
    def audio_seconds(self) -> float:
        """Seconds of audio that went through since the start."""
        return float(self._seconds)

    def setup(self, stage: str) -> None:
        use_threads(self.cfg.train)  # again: as Lightning starts several processes, it shares the cores among them

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = make_optimizer(self.model, self.cfg.train, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        if isinstance(self._teacher, CheckpointTeacher):
            self._teacher.model.to(self.device)
        self._sums = {name: sums.to(self.device) for name, sums in self._sums.items()}
        passes, views, epochs = self.cfg.passes, self.cfg.augment.views, self.cfg.train.epochs
        if passes * views != epochs:
            print(f"train.epochs={epochs}, but with {views} views the work is that of {passes * views}", flush=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ctcsd"] = {"format": CHECKPOINT_FORMAT, "done_batches": self.done_batches, "sums": self._sums}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        found = checkpoint.get("ctcsd", {}).get("format")
        if found != CHECKPOINT_FORMAT:
            raise UserError(
                f"a training checkpoint of format {found}, but this version writes {CHECKPOINT_FORMAT}: finish the "
                "training with the version that began it, or move its folder away"
            )
        self.done_batches = checkpoint["ctcsd"]["done_batches"]
        self._sums = checkpoint["ctcsd"].get("sums", {})  # earlier ones have none

    def on_train_epoch_end(self) -> None:
        self.done_batches, self._sums = 0, {}

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        if device.type == "cpu":  # Lightning looks through every text and id of a batch for tensors to move
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Every step draws from its own seed: a resumed run goes on as if never stopped, whatever drew before it.
        seed = (self.cfg.seed * 1_000_003 + self.global_step) * 1_009 + self.global_rank
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond where there is no GPU
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        if self.cfg.model.freeze_steps:
            self.model.freeze_encoder(self.global_step < self.cfg.model.freeze_steps * self.total_steps)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any] | None:
        self.done_batches += 1
        if not batch.cut_ids:
            if self.trainer.world_size > 1:
                raise UserError("no cut of a batch could be read, for which the other processes cannot wait: see above")
            return None
        progress = min(self.global_step / self.total_steps, 1.0)
        weights = self.objective.schedule.at(self.current_epoch + 1, self.cfg.passes, progress)
        # DDP takes the mean of the gradients, but each process's loss is a summand of the batch's.
        summands = self.accumulate(batch, weights, lambda loss: self.manual_backward(self.trainer.world_size * loss))
        loss, parts, utterances = self._totals(batch, *summands)
        bad, norm = self._update(loss)
        self._log_losses(loss, parts, bad, utterances * self.cfg.augment.views)
        return {"loss": loss, "norm": norm, "bad": bad, "parts": parts}

    def _totals(self, batch: Batch, loss: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Loss, its parts, and the utterances of a batch over all processes; their audio is counted."""
        counted = 0.0 if batch.stand_in else 1.0
        sizes = [counted * loss.new_tensor(len(batch.cut_ids)), counted * batch.lengths.sum() / batch.rate]
        values = total(torch.stack([value.float() for value in (loss, *parts.values(), *sizes)]))
        self._seconds = self._seconds + values[-1]
        return values[0], dict(zip(parts, values[1:])), values[-2]

    def _hold(self) -> AbstractContextManager[Any]:
        return unshared(self.trainer.strategy)

    def _update(self, loss: Tensor) -> tuple[Tensor, Tensor]:
        """The optimizer's step; returns whether loss or gradient is not finite, so that it is void, and the norm."""
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer) and isinstance(scheduler, LRScheduler)
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None:  # of fp16
            scaler.unscale_(optimizer.optimizer)
        norm = clip((p for group in optimizer.param_groups for p in group["params"]), self.cfg.train.clip)
        bad = not_finite(loss, norm)
        skip_where(optimizer.optimizer, bad)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        return bad, norm

    def _log_losses(self, loss: Tensor, parts: dict[str, Tensor], bad: Tensor, size: Tensor) -> None:
        """The loss of a step as it is; in the means of an epoch, a step that was skipped weighs nothing."""
        if self.global_step % LOG_EVERY == 0:  # it costs a millisecond
            self.log("loss_step", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=1)
        weight = size * (1 - bad)
        for name, value in {"loss_epoch": loss, **{f"train/{name}": value for name, value in parts.items()}}.items():
            finite = value.float().nan_to_num(0.0, 0.0, 0.0)
            self._sums[name] = self._sums.get(name, 0.0) + torch.stack((weight * finite, weight))

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.trainer.is_last_batch:  # Lightning's own means would cost each step a millisecond for each of them
            for name, (weighted, weight) in self._sums.items():
                on_bar = name == "loss_epoch"
                self.log(name, weighted / weight, prog_bar=on_bar, on_step=False, on_epoch=True, batch_size=1)

    def on_validation_epoch_start(self) -> None:
        self._errors = {name: [] for name in self.model.exits}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors of greedy search in words and characters; in phones, where these are the tokens."""
        if not batch.cut_ids:
            if isinstance(self.model, FSDPModule):
                others = "for which the other processes cannot wait"
                raise UserError(f"no cut of a dev batch could be read, {others}: see above")
            return
        # Of a stand-in too: processes among which the model is dealt out compute together.
        outputs = self.model(batch.features, batch.lengths)
        if batch.stand_in:
            return
        units = characters if self.table.spells else str.split
        for name, output in outputs.items():
            paths = output.logits.argmax(-1).cpu().numpy()
            for path, length, text in zip(paths, output.lengths.tolist(), batch.texts):
                hypothesis = self.table.text_of(collapse(path[:length])[0])
                self._errors[name].append(
                    (
                        utterance_errors(text.split(), hypothesis.split()),
                        utterance_errors(units(text), units(hypothesis)),
                    )
                )

    def on_validation_epoch_end(self) -> None:
        for name, counts in self._errors.items():
            for index, unit in enumerate(("wer", "cer")):
                sums = sum(c[index].errors for c in counts), sum(c[index].words for c in counts)
                errors, words = total(torch.tensor(sums, device=self.device))
                rate = 100.0 * errors / words.clamp(min=1)
                self.log(f"dev_{unit}/{name}", rate, prog_bar=unit == "wer", rank_zero_only=False)
                if name == monitored_exit(self.model.exits):
                    self.log(f"dev_{unit}", rate)
