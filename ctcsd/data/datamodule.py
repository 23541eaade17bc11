"""Lightning's view of a corpus: which batches an epoch sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import DataLoader

from ctcsd.config import Config
from ctcsd.data.batches import Behind, CtcDataset, bucketing_sampler, in_order, trainable
from ctcsd.data.features import cuts_file, load_cuts
from ctcsd.text.tokenizer import Tokenizer


class CorpusDataModule(L.LightningDataModule):
    """Training batches in an order fixed by seed and epoch, and dev batches.

    Raises:
        UserError: a split that is missing or empty, or a cut without text where the method needs one.
    """

    def __init__(self, cfg: Config, data_dir: Path, tokenizer: Tokenizer, needs_labels: bool) -> None:
        super().__init__()
        self.cfg, self.encode = cfg, tokenizer.encode
        self.needs_labels = needs_labels
        train = load_cuts(cuts_file(data_dir, cfg, cfg.data.train), stage=1)
        self.train_cuts, self.dropped = trainable(train, self._train_encode, cfg.data.max_seconds)
        self.dev_cuts = load_cuts(cuts_file(data_dir, cfg, cfg.data.dev), stage=1)

    @property
    def _train_encode(self) -> Callable[[str], list[int]] | None:
        return self.encode if self.needs_labels else None

    @property
    def train_seconds(self) -> float:
        """Seconds of training audio."""
        return sum(cut.duration for cut in self.train_cuts)

    def batches_per_epoch(self) -> int:
        """Batches of the first epoch; later ones differ by a few, as the shuffle falls."""
        return sum(1 for _ in self._sampler(epoch=0))

    def _sampler(self, epoch: int) -> DynamicBucketingSampler:
        data = self.cfg.data
        world, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        return bucketing_sampler(
            self.train_cuts, data.max_duration, data.num_buckets, self.cfg.seed, epoch, world, rank
        )

    def train_dataloader(self) -> DataLoader:
        epoch, done = 0, 0
        if self.trainer:
            epoch = self.trainer.current_epoch
            done = int(self.trainer.lightning_module.done_batches)  # type: ignore[arg-type]
        return DataLoader(
            CtcDataset(self._train_encode),
            sampler=Behind(self._sampler(epoch), done),
            batch_size=None,
            num_workers=self.cfg.data.workers,
        )

    def val_dataloader(self) -> DataLoader:
        batches = in_order(self.dev_cuts, self.cfg.data.max_duration)
        return DataLoader(CtcDataset(self.encode), sampler=batches, batch_size=None)
