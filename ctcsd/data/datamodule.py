"""Lightning's view of a corpus: which batches an epoch sees."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler
from torch.utils.data import DataLoader

from ctcsd.config import Config
from ctcsd.data.batches import CtcDataset, bucketing_sampler, fbank_frames, in_order, trainable, transcript
from ctcsd.data.features import cuts_file, load_cuts
from ctcsd.data.shares import Shares, share
from ctcsd.text.tokenizer import Tokenizer


class CorpusDataModule(L.LightningDataModule):
    """Training batches in an order fixed by seed and epoch, and dev batches.

    Args:
        frames_of: how many frames the logits of a cut have.

    Raises:
        UserError: a split that is missing or empty, or a cut without text where the method needs one.
    """

    def __init__(
        self,
        cfg: Config,
        data_dir: Path,
        tokenizer: Tokenizer,
        needs_labels: bool,
        frames_of: Callable[[Cut], int] = fbank_frames,
    ) -> None:
        super().__init__()
        self.cfg, self.encode = cfg, tokenizer.encode
        self.needs_labels = needs_labels
        train = load_cuts(cuts_file(data_dir, cfg, cfg.data.train), stage=1)
        self.train_cuts, self.dropped = trainable(train, self._train_encode, cfg.data.max_seconds, frames_of)
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

    def heaviest(self) -> dict[str, CutSet]:
        """What asks most of the memory in the first epoch: shares of the longest cuts, and of the most text."""
        sizes: dict[str, Callable[[CutSet], Any]] = {"longest cuts": lambda cuts: max(cut.duration for cut in cuts)}
        if self.needs_labels:
            sizes["most text"] = lambda cuts: sum(len(transcript(cut)) for cut in cuts)
        found: dict[str, tuple[Any, CutSet]] = {}
        for cuts in self._sampler(epoch=0):
            for name, size in sizes.items():
                key = (size(cuts), len(cuts))
                if name not in found or key > found[name][0]:
                    found[name] = (key, cuts)
        return {name: share(cuts, self._processes[0], 0) for name, (_, cuts) in found.items()}

    def _sampler(self, epoch: int) -> DynamicBucketingSampler:
        data = self.cfg.data
        return bucketing_sampler(self.train_cuts, data.max_duration, data.num_buckets, self.cfg.seed, epoch)

    @property
    def dataset(self) -> CtcDataset:
        """Batches of training cuts."""
        return CtcDataset(self._train_encode, survive=True, input_type=self.cfg.features.type)

    def train_dataloader(self) -> DataLoader:
        epoch, done = 0, 0
        if self.trainer:
            epoch = self.trainer.current_epoch
            done = int(self.trainer.lightning_module.done_batches)  # type: ignore[arg-type]
        shares = Shares(self._sampler(epoch), *self._processes, done)
        return DataLoader(self.dataset, sampler=shares, batch_size=None, num_workers=self.cfg.data.workers)

    def val_dataloader(self) -> DataLoader:
        batches = in_order(self.dev_cuts, self.cfg.data.max_duration)
        dataset = CtcDataset(self.encode, survive=True, input_type=self.cfg.features.type)
        return DataLoader(dataset, sampler=Shares(batches, *self._processes), batch_size=None)

    @property
    def _processes(self) -> tuple[int, int]:
        """How many there are, and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
