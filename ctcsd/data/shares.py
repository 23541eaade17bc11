"""Batches shared out to several processes: each cut to exactly one of them, and as many steps to each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from lhotse import CutSet


class StandIn(CutSet):
    """What a process computes along with where no cut is left for it; it counts nothing."""


def share(cuts: CutSet, world_size: int, rank: int) -> CutSet:
    """One process's cuts of a batch: about as many, and of about the same lengths, as those of any other."""
    if world_size == 1:
        return cuts
    ordered = sorted(cuts, key=lambda cut: (-cut.duration, cut.id))
    return CutSet(ordered[rank::world_size]) if rank < len(ordered) else StandIn(ordered[-1:])


class Shares:
    """One process's shares of the batches of an epoch, behind the first `done`, which a resumed one has seen.

    The batches are the same whatever the number of processes is.
    """

    def __init__(self, batches: Iterable[CutSet], world_size: int = 1, rank: int = 0, done: int = 0) -> None:
        self.batches, self.world_size, self.rank, self.done = batches, world_size, rank, done

    def __iter__(self) -> Iterator[CutSet]:
        return (share(cuts, self.world_size, self.rank) for cuts in islice(self.batches, self.done, None))
