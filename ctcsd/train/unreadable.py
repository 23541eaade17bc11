"""Features that vanish or get damaged while a training runs: it goes on without them, up to a share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback

from ctcsd.data.batches import Batch
from ctcsd.errors import UserError


class Unreadable(Callback):
    """Lists the cuts that could not be read, `split<TAB>id<TAB>reason`, each once, in one file for all processes.

    Args:
        sizes: cuts of each split.
        max_bad: the share of a split's cuts above which the training ends.
        remedies: split -> what makes its data anew.
    """

    def __init__(self, path: Path, sizes: Mapping[str, int], max_bad: float, remedies: Mapping[str, str]) -> None:
        self.path, self.sizes, self.max_bad, self.remedies = path, sizes, max_bad, remedies
        self.found = self._listed()  # by an earlier start

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self.note("train", batch)

    def on_validation_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self.note("dev", batch)

    def note(self, split: str, batch: Batch) -> None:
        """List what a batch lacks.

        Raises:
            UserError: too many of the split.
        """
        new = {cut_id: " ".join(why.split()) for cut_id, why in batch.unreadable if cut_id not in self.found[split]}
        if new:
            if not self.found[split]:
                cut_id, why = next(iter(new.items()))
                print(f"cut {cut_id} cannot be read and is left out ({why}); see {self.path}", flush=True)
            self.found = self._listed()
            with self.path.open("a", encoding="utf-8") as out:
                for cut_id in new.keys() - self.found[split]:
                    out.write(f"{split}\t{cut_id}\t{new[cut_id]}\n")
            self.found[split].update(new)
        found = len(self.found[split])
        if found > self.max_bad * self.sizes[split]:
            raise UserError(
                f"{found} of the {self.sizes[split]} cuts of {split} could not be read, more than "
                f"data.max_bad={self.max_bad:g} (listed in {self.path}): {self.remedies[split]}"
            )

    @property
    def count(self) -> int:
        """Cuts that any process has listed."""
        return sum(map(len, self._listed().values()))

    def _listed(self) -> dict[str, set[str]]:
        """Split -> ids in the file, to which other processes add; a line that is not whole yet does not count."""
        listed: dict[str, set[str]] = {split: set() for split in self.sizes}
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        for split, cut_id, _ in (line.split("\t") for line in lines if line.count("\t") == 2):
            listed[split].add(cut_id)
        return listed
