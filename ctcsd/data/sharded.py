"""Training from shards: each process reads its own from end to end; in memory stand only the durations of the cuts."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

from lhotse import CutSet, MonoCut
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.sampling.dynamic_bucketing import estimate_duration_buckets

from ctcsd.config import DataConfig
from ctcsd.data.batches import by_reason, count_buckets, streaming_sampler, transcript, untrainable
from ctcsd.data.checks import Drop
from ctcsd.data.shar import Shard
from ctcsd.data.shares import Shares, StandIn
from ctcsd.errors import UserError

BUFFER = 10_000  # cuts that wait for their batch, in the memory of all processes together
ESTIMATE = 10_000  # cuts by which the bounds of the buckets are set


class Sharded:
    """A training set (`TrainingSet`) in shards, which each epoch deals anew to `data.streams` streams.

    Each stream is sorted into batches of its own, of its part of data.max_duration; a batch is what all streams give
    in a step. So it is the same whatever the number of processes is, each of which reads some of the streams.

    Args:
        encode: text -> token ids; None where the method needs no labels.
        frames_of: how many frames the logits of a cut have.

    Raises:
        UserError: shards that cannot be read, or too few of them for the streams; no cut that is fit for training.
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        data: DataConfig,
        seed: int,
        encode: Callable[[str], list[int]] | None,
        frames_of: Callable[[Cut], int],
    ) -> None:
        self.shards, self.streams, self.seed = shards, data.streams, seed
        self.max_duration = data.max_duration / data.streams
        if len(shards) < data.streams:
            raise UserError(f"data.streams={data.streams}, but there are {len(shards)} shards: make smaller ones")
        self.dropped: list[tuple[str, Drop]] = []
        self._durations: list[array[float]] = []
        self._heaviest: dict[str, tuple[float, Shard, str]] = {}
        for shard in shards:
            self._durations.append(array("d"))
            for cut in shard.described():
                drop = untrainable(cut, encode, data.max_seconds, frames_of)
                if drop:
                    self.dropped.append((cut.id, drop))
                else:
                    self._durations[-1].append(cut.duration)
                    self._note("longest cuts", cut.duration, shard, cut)
                    if encode:
                        self._note("most text", len(transcript(cut)) / cut.duration, shard, cut)
        self._left_out = {cut_id for cut_id, _ in self.dropped}
        self.seconds = sum(map(sum, self._durations))
        if not len(self):
            raise UserError(f"no training cut is left: {by_reason(self.dropped)}")
        longest = self._heaviest["longest cuts"][0]
        if longest > self.max_duration:
            raise UserError(
                f"data.max_duration={data.max_duration:g}, shared by data.streams={data.streams}, is shorter than the "
                f"longest cut, {longest:.1f} seconds"
            )
        some = islice(self._lengths(range(len(shards))), ESTIMATE)
        self._bins = estimate_duration_buckets(some, count_buckets(len(self), data.num_buckets))
        self._counted = (-1, 0)

    def __len__(self) -> int:
        return sum(map(len, self._durations))

    def batches_per_epoch(self) -> int:
        return self._steps(epoch=0)

    def heaviest(self, world_size: int) -> dict[str, CutSet]:
        """As much as a process may get of the longest cut, and of the one with the most text a second."""
        found = {}
        for name, (_, shard, cut_id) in self._heaviest.items():
            cut = next(cut for cut in shard.read() if cut.id == cut_id)
            copies = int(self.max_duration // cut.duration) * -(-self.streams // world_size)
            found[name] = CutSet.from_cuts([cut] * copies)
        return found

    def shares(self, epoch: int, world_size: int, rank: int, done: int) -> Shares:
        """As `TrainingSet`; what stands before `done` is read again."""
        return Shares(_Process(self, epoch, world_size, rank), done=done)

    def batches(self, epoch: int, world_size: int, rank: int) -> Iterator[CutSet]:
        """What one process's streams give, step by step; where they have ended before the others', a `StandIn`."""
        lanes = self._lanes(epoch)[rank::world_size]
        streams = [iter(self._sampler(self._cuts(lane), epoch)) for lane in lanes]
        last: list[Cut] = []
        for _ in range(self._steps(epoch)):
            cuts = [cut for stream in streams for cut in next(stream, ())]
            last = [min(cuts, key=lambda cut: cut.duration)] if cuts else last
            yield CutSet.from_cuts(cuts) if cuts else StandIn(last)

    def _steps(self, epoch: int) -> int:
        """Batches of an epoch, found by the durations alone."""
        if self._counted[0] != epoch:
            lanes = self._lanes(epoch)
            counts = [sum(1 for _ in self._sampler(self._lengths(lane), epoch)) for lane in lanes]
            if not all(counts):
                raise UserError(f"data.streams={self.streams}: one of them has no cut to train on: take fewer")
            self._counted = (epoch, max(counts))
        return self._counted[1]

    def _lanes(self, epoch: int) -> list[list[int]]:
        """The numbers of the shards of each stream, in the order in which they are read."""
        order = list(range(len(self.shards)))
        random.Random(f"{self.seed} {epoch}").shuffle(order)
        return [order[stream :: self.streams] for stream in range(self.streams)]

    def _sampler(self, cuts: Iterable[Cut], epoch: int) -> DynamicBucketingSampler:
        buffer = BUFFER // self.streams
        return streaming_sampler(
            cuts, self.max_duration, self.seed, epoch, duration_bins=self._bins, buffer_size=buffer
        )

    def _cuts(self, numbers: Iterable[int]) -> Iterator[Cut]:
        return (cut for number in numbers for cut in self.shards[number].read() if cut.id not in self._left_out)

    def _lengths(self, numbers: Iterable[int]) -> Iterator[Cut]:
        """Cuts of the same durations, and nothing else, in the same order."""
        return (MonoCut("", 0, duration, 0) for number in numbers for duration in self._durations[number])

    def _note(self, name: str, size: float, shard: Shard, cut: Cut) -> None:
        if size > self._heaviest.get(name, (0.0,))[0]:
            self._heaviest[name] = (size, shard, cut.id)


class _Process:
    """`Sharded.batches`, which begin anew each time that they are asked for."""

    def __init__(self, cuts: Sharded, epoch: int, world_size: int, rank: int) -> None:
        self.cuts, self.options = cuts, (epoch, world_size, rank)

    def __iter__(self) -> Iterator[CutSet]:
        return self.cuts.batches(*self.options)
