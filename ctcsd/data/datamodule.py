"""Lightning's view of a corpus: which batches an epoch sees."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning as L
from lhotse import CutSet
from lhotse.cut import Cut
from torch.utils.data import DataLoader

from ctcsd.config import Config
from ctcsd.data.batches import CtcDataset, fbank_frames, in_order
from ctcsd.data.checks import Drop
from ctcsd.data.features import cuts_file, load_cuts
from ctcsd.data.integrity import READERS, KeptFeatures
from ctcsd.data.shares import Shares
from ctcsd.data.training_set import training_set
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
        self.cfg, self.encode, self.as_decoded = cfg, tokenizer.encode, tokenizer.as_decoded
        self.needs_labels = needs_labels
        self.train_cuts = training_set(cfg, data_dir, self._train_encode, frames_of)
        self.dev_cuts = load_cuts(cuts_file(data_dir, cfg, cfg.data.dev), stage=1)
        self._read_train = self._read_dev = READERS[cfg.features.type]
        if cfg.features.type == "fbank":
            self._read_dev = KeptFeatures(cfg.data.keep_mib).read
            if not cfg.data.workers:  # a worker ends with its epoch, and keeps nothing
                self._read_train = KeptFeatures(cfg.data.keep_mib).read

    @property
    def _train_encode(self) -> Callable[[str], list[int]] | None:
        return self.encode if self.needs_labels else None

    @property
    def dropped(self) -> list[tuple[str, Drop]]:
        """The training cuts that are left out, and why."""
        return self.train_cuts.dropped

    @property
    def train_seconds(self) -> float:
        """Seconds of training audio."""
        return self.train_cuts.seconds

    def batches_per_epoch(self) -> int:
        """Batches of the first epoch; later ones differ by a few, as the shuffle falls."""
        return self.train_cuts.batches_per_epoch()

    def heaviest(self) -> dict[str, CutSet]:
        """What asks most of the memory in this process, by what it has most of."""
        return self.train_cuts.heaviest(self._processes[0])

    @property
    def dataset(self) -> CtcDataset:
        """Batches of training cuts."""
        return CtcDataset(self._train_encode, survive=True, read=self._read_train, few_lengths=True)

    def train_dataloader(self) -> DataLoader:
        epoch, done = 0, 0
        if self.trainer:
            epoch = self.trainer.current_epoch
            done = int(self.trainer.lightning_module.done_batches)  # type: ignore[arg-type]
        shares = self.train_cuts.shares(epoch, *self._processes, done)
        return _loader(self.dataset, shares, self.cfg.data.workers)

    def val_dataloader(self) -> DataLoader:
        batches = in_order(self.dev_cuts, self.cfg.data.max_duration)
        dataset = CtcDataset(survive=True, read=self._read_dev, as_decoded=self.as_decoded)
        return _loader(dataset, Shares(batches, *self._processes))

    @property
    def _processes(self) -> tuple[int, int]:
        """How many there are, and which one this is."""
        return (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)


def _loader(dataset: CtcDataset, sampler: Iterable[CutSet], workers: int = 0) -> DataLoader:
    # the dataset's batches as they are: the default looks through every text and id in them for arrays
    return DataLoader(dataset, sampler=sampler, batch_size=None, num_workers=workers, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
