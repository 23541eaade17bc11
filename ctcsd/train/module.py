"""One training step and one evaluation, for Lightning."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor

from ctcsd.config import Config
from ctcsd.data.augment import spec_augment
from ctcsd.data.batches import Batch
from ctcsd.decode.greedy import collapse
from ctcsd.distill import Objective
from ctcsd.distill.objective import Labels
from ctcsd.distill.teacher import CheckpointTeacher, Teacher
from ctcsd.errors import UserError
from ctcsd.model import SharedEncoderCtc
from ctcsd.score.wer import WerStats, characters, utterance_errors
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.optim import make_optimizer

BAD_STEPS_IN_A_ROW = 10
CHECKPOINT_FORMAT = 1


def monitored_exit(exits: dict[str, int]) -> str:
    """The exit whose dev error picks the best checkpoints: the student where there is one, else the highest."""
    return "student" if "student" in exits else list(exits)[-1]


class CtcModule(L.LightningModule):
    """The model, its objective and its dev error; a separate teacher is kept out of the checkpoints."""

    def __init__(
        self, cfg: Config, model: SharedEncoderCtc, table: TokenTable, objective: Objective, teacher: Teacher | None
    ) -> None:
        super().__init__()
        self.cfg, self.model, self.table, self.objective = cfg, model, table, objective
        self._teacher = teacher
        self.total_steps = 1
        self.audio_seconds = 0.0
        self.done_batches = 0  # of the current epoch: a resumed one starts behind them
        self._bad_steps = 0
        self._errors: dict[str, list[tuple[WerStats, WerStats]]] = {}

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = make_optimizer(self.model, self.cfg.train, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        if isinstance(self._teacher, CheckpointTeacher):
            self._teacher.model.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ctcsd"] = {"format": CHECKPOINT_FORMAT, "done_batches": self.done_batches}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        found = checkpoint.get("ctcsd", {}).get("format")
        if found != CHECKPOINT_FORMAT:
            raise UserError(
                f"a training checkpoint of format {found}, but this version writes {CHECKPOINT_FORMAT}: finish the "
                "training with the version that began it, or move its folder away"
            )
        self.done_batches = checkpoint["ctcsd"]["done_batches"]

    def on_train_epoch_end(self) -> None:
        self.done_batches = 0

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Every step draws from its own seed: a resumed run goes on as if never stopped, whatever drew before it.
        torch.manual_seed((self.cfg.seed * 1_000_003 + self.global_step) * 1_009 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.done_batches += 1
        self.audio_seconds += float(batch.lengths.sum()) / 100.0
        batch = batch.repeated(self.cfg.augment.views)
        outputs = self.model(spec_augment(batch.features, batch.lengths, self.cfg.augment), batch.lengths)
        teacher = self._teacher(batch.features, batch.lengths, batch.cut_ids, outputs) if self._teacher else None
        labels = None
        if batch.targets is not None and batch.target_lengths is not None:
            labels = Labels(batch.targets, batch.target_lengths)
        progress = min(self.global_step / self.total_steps, 1.0)
        weights = self.objective.schedule.at(self.current_epoch + 1, self.cfg.passes, progress)
        loss, parts = self.objective(outputs, labels, teacher, weights)
        if not torch.isfinite(loss):
            self._bad_steps += 1
            if self._bad_steps >= BAD_STEPS_IN_A_ROW:
                raise UserError(
                    f"the loss was not finite {BAD_STEPS_IN_A_ROW} steps in a row (last cut: {batch.cut_ids[0]}); "
                    "lower train.lr or train.clip"
                )
            return None
        self._bad_steps = 0
        size = len(batch.cut_ids)
        self.log("loss", loss, prog_bar=True, on_step=True, on_epoch=True, batch_size=size)
        for name, value in parts.items():
            self.log(f"train/{name}", value, on_step=False, on_epoch=True, batch_size=size)
        return loss

    def on_validation_epoch_start(self) -> None:
        self._errors = {name: [] for name in self.model.exits}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for name, output in self.model(batch.features, batch.lengths).items():
            paths = output.logits.argmax(-1).cpu().numpy()
            for path, length, text in zip(paths, output.lengths.tolist(), batch.texts):
                hypothesis = self.table.text_of(collapse(path[:length])[0])
                self._errors[name].append(
                    (
                        utterance_errors(text.split(), hypothesis.split()),
                        utterance_errors(characters(text), characters(hypothesis)),
                    )
                )

    def on_validation_epoch_end(self) -> None:
        for name, counts in self._errors.items():
            for index, unit in enumerate(("wer", "cer")):
                sums = torch.tensor(
                    [[c[index].errors, c[index].words] for c in counts], dtype=torch.float32, device=self.device
                ).sum(0)
                errors, words = self.trainer.strategy.reduce(sums, reduce_op="sum")
                rate = 100.0 * errors / words.clamp(min=1.0)
                self.log(f"dev_{unit}/{name}", rate, prog_bar=unit == "wer", rank_zero_only=False)
                if name == monitored_exit(self.model.exits):
                    self.log(f"dev_{unit}", rate)
