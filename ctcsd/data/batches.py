"""From cut sets to batches of features and token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Callable, NamedTuple

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler
from lhotse.dataset.collation import collate_features
from lhotse.lazy import LazyIteratorChain
from torch import Tensor

from ctcsd.data.feasibility import ctc_feasible
from ctcsd.data.features import load_cuts
from ctcsd.errors import UserError
from ctcsd.model.subsampling import subsampled_length


class Batch(NamedTuple):
    """features (N, T, F), lengths (N,), targets (N, U) padded with 0, target_lengths (N,), texts and cut ids."""

    features: Tensor
    lengths: Tensor
    targets: Tensor | None
    target_lengths: Tensor | None
    texts: list[str]
    cut_ids: list[str]

    def repeated(self, times: int) -> Batch:
        """The batch, followed by itself, `times` in all."""
        if times == 1:
            return self
        return Batch(
            self.features.repeat(times, 1, 1),
            self.lengths.repeat(times),
            None if self.targets is None else self.targets.repeat(times, 1),
            None if self.target_lengths is None else self.target_lengths.repeat(times),
            self.texts * times,
            self.cut_ids * times,
        )


class CtcDataset(torch.utils.data.Dataset):
    """A lhotse-style dataset: indexed by the cut set of a batch.

    Args:
        encode: text -> token ids; None for cuts without a transcript, which is then never touched.
    """

    def __init__(self, encode: Callable[[str], list[int]] | None = None) -> None:
        self.encode = encode

    def __getitem__(self, cuts: CutSet) -> Batch:
        features, lengths = collate_features(cuts)
        ids = [cut.id for cut in cuts]
        if self.encode is None:
            return Batch(features, lengths.long(), None, None, [], ids)
        texts = [transcript(cut) for cut in cuts]
        tokens = [torch.tensor(self.encode(text), dtype=torch.int64) for text in texts]
        targets = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        return Batch(features, lengths.long(), targets, torch.tensor([len(t) for t in tokens]), texts, ids)


def transcript(cut: Cut) -> str:
    """The text of a cut.

    Raises:
        UserError: the cut has none.
    """
    text = " ".join(s.text for s in cut.supervisions if s.text)
    if not text:
        raise UserError(f"cut {cut.id} has no text, which a CTC loss needs (or set every CTC weight to 0)")
    return text


def references(path: Path) -> dict[str, str]:
    """Cut id -> transcript of a cut set's file."""
    return {cut.id: transcript(cut) for cut in load_cuts(path, stage=1)}


def trainable(
    cuts: CutSet, encode: Callable[[str], list[int]] | None, max_seconds: float
) -> tuple[CutSet, dict[str, int]]:
    """The cuts that a CTC model can be trained on, and how many were left out, by reason."""
    dropped = {"longer than data.max_seconds": 0, "fewer frames than CTC needs for the text": 0}
    kept = []
    for cut in cuts:
        if cut.duration > max_seconds:
            dropped["longer than data.max_seconds"] += 1
        elif encode and not ctc_feasible(subsampled_length(cut.num_frames), encode(transcript(cut))):
            dropped["fewer frames than CTC needs for the text"] += 1
        else:
            kept.append(cut)
    if not kept:
        raise UserError(f"no training cut is left: {dropped}")
    return CutSet.from_cuts(kept), dropped


def bucketing_sampler(
    cuts: CutSet, max_duration: float, num_buckets: int, seed: int, epoch: int, world_size: int = 1, rank: int = 0
) -> DynamicBucketingSampler:
    """Shuffled batches of similar duration, at most max_duration seconds of audio each; the order follows the epoch."""
    if len(cuts) < 2:
        raise UserError("a training set of one cut cannot be batched: at least two are needed")
    longest = max(cut.duration for cut in cuts)
    if longest > max_duration:
        raise UserError(f"data.max_duration={max_duration:g} is shorter than the longest cut, {longest:.1f} seconds")
    # Lazily, though it is in memory: lhotse warns of an eager set, to which its advice does not apply after filtering.
    sampler = DynamicBucketingSampler(
        CutSet(LazyIteratorChain(cuts)),
        max_duration=max_duration,
        num_buckets=max(2, min(num_buckets, len(cuts) // 8)),  # lhotse takes no fewer
        shuffle=True,
        drop_last=False,
        seed=seed,
        world_size=world_size,
        rank=rank,
    )
    sampler.set_epoch(epoch)
    return sampler


class Behind:
    """The batches of a sampler behind the first `done`, which a resumed epoch has seen."""

    def __init__(self, sampler: Iterable[CutSet], done: int) -> None:
        self.sampler, self.done = sampler, done

    def __iter__(self) -> Iterator[CutSet]:
        return islice(iter(self.sampler), self.done, None)


def in_order(cuts: CutSet, max_duration: float) -> list[CutSet]:
    """Batches of all the cuts, longest first, each at most max_duration seconds with its padding."""
    batches: list[list[Cut]] = []
    longest = 0.0
    for cut in sorted(cuts, key=lambda c: (-c.duration, c.id)):
        if batches and longest * (len(batches[-1]) + 1) <= max_duration:
            batches[-1].append(cut)
        else:
            batches.append([cut])
            longest = cut.duration
    return [CutSet.from_cuts(batch) for batch in batches]
