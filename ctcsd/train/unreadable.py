"""Features that vanish or get damaged while a training runs: it goes on without them, up to a share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from ctcsd.data.batches import Batch
from ctcsd.errors import UserError


class Unreadable(Callback):
    """Lists the cuts that could not be read, `split<TAB>id<TAB>reason`, each once.

    Args:
        sizes: cuts of each split.
        max_bad: the share of a split's cuts above which the training ends.
    """

    def __init__(self, path: Path, sizes: Mapping[str, int], max_bad: float) -> None:
        self.path, self.sizes, self.max_bad = path, sizes, max_bad
        self.found: dict[str, dict[str, str]] = {split: {} for split in sizes}
        if path.is_file():  # of an earlier start
            for line in path.read_text(encoding="utf-8").splitlines():
                split, cut_id, reason = line.split("\t")
                self.found[split][cut_id] = reason

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.note("train", batch, trainer.world_size)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.note("dev", batch)

    def note(self, split: str, batch: Batch, world_size: int = 1) -> None:
        """List what a batch lacks.

        Args:
            world_size: processes that each see their own share of the split.

        Raises:
            UserError: too many of the split.
        """
        found = self.found[split]
        for cut_id, reason in batch.unreadable:
            if cut_id in found:
                continue
            if not found:
                print(f"cut {cut_id} cannot be read and is left out ({reason}); see {self.path}", flush=True)
            found[cut_id] = " ".join(reason.split())
            with self.path.open("a", encoding="utf-8") as out:
                out.write(f"{split}\t{cut_id}\t{found[cut_id]}\n")
        if len(found) * world_size > self.max_bad * self.sizes[split]:
            raise UserError(
                f"{len(found)} of the {self.sizes[split]} cuts of {split} could not be read, more than "
                f"data.max_bad={self.max_bad:g} (listed in {self.path}): run stage 1 again"
            )

    @property
    def count(self) -> int:
        return sum(map(len, self.found.values()))
