"""Each cut once per epoch, whatever the number of processes is and wherever an epoch was interrupted."""

from __future__ import annotations

from collections import Counter
from itertools import count, islice

from hypothesis import given, settings
from hypothesis import strategies as st
from lhotse import CutSet, MonoCut

from ctcsd.data.batches import bucketing_sampler
from ctcsd.data.shares import Shares, StandIn, share

WORLDS = st.integers(1, 5)


def batches_of(sizes: list[int]) -> list[CutSet]:
    number = count()
    return [CutSet.from_cuts(MonoCut(f"c{next(number)}", 0, 1.0 + size % 3, 0) for size in range(n)) for n in sizes]


def seen(batches: list[CutSet]) -> list[str]:
    """The cuts that count."""
    return [cut.id for batch in batches if not isinstance(batch, StandIn) for cut in batch]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), WORLDS)
def test_every_process_has_as_many_batches_and_each_cut_counts_once(sizes: list[int], world_size: int) -> None:
    batches = batches_of(sizes)
    shares = [list(Shares(batches, world_size, rank)) for rank in range(world_size)]
    for batch, *parts in zip(batches, *shares):
        assert Counter(seen(parts)) == Counter(seen([batch])), "the processes share a batch, and nothing else"
        assert all(len(part) for part in parts), "there is always something to compute along with"
        lengths = [0 if isinstance(part, StandIn) else len(part) for part in parts]
        assert max(lengths) - min(lengths) <= 1
    assert all(len(dealt) == len(batches) for dealt in shares)
    assert seen(list(Shares(batches))) == seen(batches), "one process alone gets each batch as it is"


def test_shares_are_of_about_the_same_lengths() -> None:
    cuts = CutSet.from_cuts(MonoCut(f"c{n}", 0, 1.0 + n * 0.1, 0) for n in range(40))
    seconds = [sum(cut.duration for cut in share(cuts, 4, rank)) for rank in range(4)]
    assert max(seconds) - min(seconds) <= max(cut.duration for cut in cuts)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 3), st.lists(st.tuples(WORLDS, st.integers(0, 3)), max_size=3), WORLDS)
def test_an_epoch_that_was_interrupted_again_and_again(epoch: int, starts: list[tuple[int, int]], last: int) -> None:
    cuts = CutSet.from_cuts(MonoCut(f"c{n}", 0, 0.5 + n % 7, 0) for n in range(41))

    def sampler() -> CutSet:
        return bucketing_sampler(cuts, 12, 4, seed=1, epoch=epoch)

    done, counted = 0, []
    for world_size, steps in [*starts, (last, None)]:  # killed after so many steps; another number of processes
        dealt = [list(islice(Shares(sampler(), world_size, rank, done), steps)) for rank in range(world_size)]
        assert len({len(batches) for batches in dealt}) == 1
        counted += seen([batch for batches in dealt for batch in batches])
        done += len(dealt[0])
    assert Counter(counted) == Counter(cut.id for cut in cuts)
