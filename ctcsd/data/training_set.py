"""What a training goes through in each epoch: the cuts that a CTC model can be trained on, dealt out as batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler

from ctcsd.config import Config
from ctcsd.data.batches import bucketing_sampler, trainable, transcript
from ctcsd.data.checks import Drop
from ctcsd.data.features import cuts_file, load_cuts
from ctcsd.data.shar import open_shards
from ctcsd.data.sharded import Sharded
from ctcsd.data.shares import Shares, share
from ctcsd.stamp import file_hash

Encode = Callable[[str], list[int]]


class TrainingSet(Protocol):
    """Training cuts, wherever they lie; `dropped` are those that are left out, and `seconds` counts the others."""

    dropped: list[tuple[str, Drop]]
    seconds: float

    def __len__(self) -> int:
        """How many cuts there are."""

    def batches_per_epoch(self) -> int:
        """Batches of the first epoch; later ones differ by a few, as the shuffle falls."""

    def heaviest(self, world_size: int) -> dict[str, CutSet]:
        """What asks most of the memory of a process: shares of the longest cuts, and of the most text."""

    def shares(self, epoch: int, world_size: int, rank: int, done: int) -> Iterable[CutSet]:
        """One process's shares of the batches of an epoch, behind the first `done`; all have as many."""


def training_set(cfg: Config, data_dir: Path, encode: Encode | None, frames_of: Callable[[Cut], int]) -> TrainingSet:
    """The training cuts of a configuration.

    Args:
        encode: text -> token ids; None where the method needs no labels.
        frames_of: how many frames the logits of a cut have.

    Raises:
        UserError: they are missing or damaged, or none is fit for training.
    """
    source = cuts_file(data_dir, cfg, cfg.data.train)
    if cfg.data.shar:
        digest = file_hash(source) if source.is_file() else None
        shards = open_shards(Path(cfg.data.shar), str(source.relative_to(data_dir)), digest)
        return Sharded(shards, cfg.data, cfg.seed, encode, frames_of)
    cuts, dropped = trainable(load_cuts(source, stage=1), encode, cfg.data.max_seconds, frames_of)
    return InMemory(cuts, dropped, cfg, bool(encode))


class InMemory:
    """Cuts that every process has in memory, with features on disk: it takes its share of every batch."""

    def __init__(self, cuts: CutSet, dropped: list[tuple[str, Drop]], cfg: Config, with_text: bool) -> None:
        self.cuts, self.dropped, self.cfg, self.with_text = cuts, dropped, cfg, with_text
        self.seconds = sum(cut.duration for cut in cuts)

    def __len__(self) -> int:
        return len(self.cuts)

    def batches_per_epoch(self) -> int:
        return len(self._first_epoch)

    def heaviest(self, world_size: int) -> dict[str, CutSet]:
        sizes: dict[str, Callable[[CutSet], Any]] = {"longest cuts": lambda cuts: max(cut.duration for cut in cuts)}
        if self.with_text:
            sizes["most text"] = lambda cuts: sum(len(transcript(cut)) for cut in cuts)
        found: dict[str, tuple[Any, CutSet]] = {}
        for cuts in self._first_epoch:
            for name, size in sizes.items():
                key = (size(cuts), len(cuts))
                if name not in found or key > found[name][0]:
                    found[name] = (key, cuts)
        return {name: share(cuts, world_size, 0) for name, (_, cuts) in found.items()}

    @cached_property
    def _first_epoch(self) -> list[CutSet]:
        """Its batches, dealt out once to be counted and searched; their cuts are in memory anyway."""
        return list(self._sampler(epoch=0))

    def shares(self, epoch: int, world_size: int, rank: int, done: int) -> Shares:
        return Shares(self._sampler(epoch), world_size, rank, done)

    def _sampler(self, epoch: int) -> DynamicBucketingSampler:
        data = self.cfg.data
        return bucketing_sampler(self.cuts, data.max_duration, data.num_buckets, self.cfg.seed, epoch)
