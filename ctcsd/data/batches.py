"""From cut sets to batches of features and token ids."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Callable, NamedTuple

import torch
from lhotse import CutSet
from lhotse.cut import Cut
from lhotse.dataset import DynamicBucketingSampler
from lhotse.lazy import LazyIteratorChain
from torch import Tensor

from ctcsd.data.checks import SAMPLING_RATE, Drop
from ctcsd.data.feasibility import ctc_feasible
from ctcsd.data.features import load_cuts
from ctcsd.data.integrity import Reader, read_features
from ctcsd.data.shares import StandIn
from ctcsd.errors import UserError
from ctcsd.model.subsampling import subsampled_length
from ctcsd.text.reference import Reference
from ctcsd.text.tokenizer import UnknownWord

TOO_LONG, INFEASIBLE = "longer than data.max_seconds", "fewer frames than CTC needs for the text"
UNPRONOUNCED = "a word without pronunciation"
BUFFER = 20_000  # cuts that are sorted into buckets at a time, and between which a batch is drawn


class Batch(NamedTuple):
    """features (N, T, F), lengths (N,), targets (N, U) padded with 0, target_lengths (N,), texts and cut ids.

    Of raw audio, features are samples (N, S) and lengths count them.
    `unreadable`: (id, reason) of the cuts that should be there too. `stand_in`: a `StandIn`, which counts nothing.
    """

    features: Tensor
    lengths: Tensor
    targets: Tensor | None
    target_lengths: Tensor | None
    texts: list[str]
    cut_ids: list[str]
    unreadable: tuple[tuple[str, str], ...] = ()
    stand_in: bool = False

    @property
    def rate(self) -> float:
        """Feature frames, or samples of raw audio, in a second."""
        return float(SAMPLING_RATE) if self.features.ndim == 2 else 100.0

    def select(self, rows: list[int]) -> Batch:
        """Some of the utterances, without the padding that only others needed."""
        lengths = self.lengths[rows]
        target_lengths = None if self.target_lengths is None else self.target_lengths[rows]
        targets = None
        if self.targets is not None and target_lengths is not None:
            targets = self.targets[rows, : int(target_lengths.max())]
        return Batch(
            self.features[rows, : int(lengths.max())],
            lengths,
            targets,
            target_lengths,
            [self.texts[row] for row in rows] if self.texts else [],
            [self.cut_ids[row] for row in rows],
        )

    def repeated(self, times: int) -> Batch:
        """The batch, followed by itself, `times` in all."""
        if times == 1:
            return self
        return Batch(
            self.features.repeat(times, *[1] * (self.features.ndim - 1)),
            self.lengths.repeat(times),
            None if self.targets is None else self.targets.repeat(times, 1),
            None if self.target_lengths is None else self.target_lengths.repeat(times),
            self.texts * times,
            self.cut_ids * times,
            stand_in=self.stand_in,
        )


class CtcDataset(torch.utils.data.Dataset):
    """A lhotse-style dataset: indexed by the cut set of a batch.

    Args:
        encode: text -> token ids; None for batches without targets.
        as_decoded: text -> what greedy search should give, where the batches have no targets; None for cuts without a
            transcript, which is then never touched.
        read: of a batch's cuts, `read_features` or what stands for it.
        few_lengths: pad the features to one of few lengths.
        survive: leave out cuts whose features cannot be read, and say so in the batch, which may end up empty.

    Raises:
        UserError: features that cannot be read, unless `survive`; a cut without the transcript that it needs.
    """

    def __init__(
        self,
        encode: Callable[[str], list[int]] | None = None,
        survive: bool = False,
        read: Reader = read_features,
        as_decoded: Callable[[str], str] | None = None,
        few_lengths: bool = False,
    ) -> None:
        self.encode, self.survive, self.read, self.as_decoded = encode, survive, read, as_decoded
        self.few_lengths = few_lengths

    def __getitem__(self, cuts: CutSet) -> Batch:
        unreadable: tuple[tuple[str, str], ...] = ()
        stand_in = isinstance(cuts, StandIn)
        try:
            features, lengths = self.read(cuts)
        except (UserError, OSError):
            if not self.survive:
                raise
            cuts, unreadable = readable(cuts, self.read)
            if not len(cuts):
                return Batch(torch.zeros(0, 0, 0), torch.zeros(0).long(), None, None, [], [], unreadable)
            features, lengths = self.read(cuts)
        if self.few_lengths:
            features = pad_to_few_lengths(features)
        ids = [cut.id for cut in cuts]
        if self.encode is None:
            texts = [self.as_decoded(transcript(cut)) for cut in cuts] if self.as_decoded else []
            return Batch(features, lengths.long(), None, None, texts, ids, unreadable, stand_in)
        texts = [transcript(cut) for cut in cuts]
        tokens = [torch.tensor(self.encode(text), dtype=torch.int64) for text in texts]
        targets = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        target_lengths = torch.tensor([len(t) for t in tokens])
        return Batch(features, lengths.long(), targets, target_lengths, texts, ids, unreadable, stand_in)


def pad_to_few_lengths(features: Tensor) -> Tensor:
    """Features (N, T, ...) padded with zeros by less than 2.5 %, to a multiple of the largest power of two within that.

    On a CPU oneDNN makes and keeps kernels for each shape of a batch; of long cuts there would be hundreds of shapes.
    Below 320 frames, a few seconds, there are few lengths anyway.
    """
    length = features.size(1)
    step = 1 << (length // 40).bit_length() - 1 if length >= 320 else 1
    end = [0, 0] * (features.ndim - 2) + [0, -length % step]
    return torch.nn.functional.pad(features, end)


def readable(cuts: CutSet, read: Reader) -> tuple[CutSet, tuple[tuple[str, str], ...]]:
    """The cuts that can be read, and (id, reason) of the others."""
    kept, unreadable = [], []
    for cut in cuts:
        try:
            read(CutSet.from_cuts([cut]))
            kept.append(cut)
        except (UserError, OSError) as error:
            unreadable.append((cut.id, str(error)))
    return CutSet.from_cuts(kept), tuple(unreadable)


def transcript(cut: Cut) -> str:
    """The text of a cut.

    Raises:
        UserError: the cut has none.
    """
    text = " ".join(s.text for s in cut.supervisions if s.text)
    if not text:
        raise UserError(f"cut {cut.id} has no text, which a CTC loss needs (or set every CTC weight to 0)")
    return text


def references(path: Path) -> dict[str, Reference]:
    """What is said in the cuts of a cut set's file, by cut id."""
    return {
        cut.id: Reference(transcript(cut), next((s.speaker for s in cut.supervisions if s.speaker), ""), cut.duration)
        for cut in load_cuts(path, stage=1)
    }


def fbank_frames(cut: Cut) -> int:
    """Frames of a conformer's logits for a cut with features."""
    return subsampled_length(cut.num_frames)


def trainable(
    cuts: CutSet,
    encode: Callable[[str], list[int]] | None,
    max_seconds: float,
    frames_of: Callable[[Cut], int] = fbank_frames,
) -> tuple[CutSet, list[tuple[str, Drop]]]:
    """The cuts that a CTC model can be trained on, and (id, why) of those that are left out.

    Args:
        frames_of: how many frames the logits of a cut have.
    """
    dropped = []
    kept = []
    for cut in cuts:
        if drop := untrainable(cut, encode, max_seconds, frames_of):
            dropped.append((cut.id, drop))
        else:
            kept.append(cut)
    if not kept:
        raise UserError(f"no training cut is left: {by_reason(dropped)}")
    return CutSet.from_cuts(kept), dropped


def untrainable(
    cut: Cut, encode: Callable[[str], list[int]] | None, max_seconds: float, frames_of: Callable[[Cut], int]
) -> Drop | None:
    """Why a CTC model cannot be trained on a cut; None where it can."""
    frames = frames_of(cut)
    try:
        if cut.duration > max_seconds:
            return Drop(TOO_LONG, f"{cut.duration:.2f} s")
        if encode and not ctc_feasible(frames, tokens := encode(transcript(cut))):
            return Drop(INFEASIBLE, f"{frames} frames, {len(tokens)} tokens: {transcript(cut)}")
    except UnknownWord as error:
        return Drop(UNPRONOUNCED, f"{error}: {transcript(cut)}")
    return None


def by_reason(dropped: Iterable[tuple[str, Drop]]) -> dict[str, int]:
    """How many cuts were left out, by reason."""
    counts = Counter(drop.reason for _, drop in dropped)
    return {TOO_LONG: 0, INFEASIBLE: 0, **counts}


def bucketing_sampler(
    cuts: CutSet, max_duration: float, num_buckets: int, seed: int, epoch: int
) -> DynamicBucketingSampler:
    """Shuffled batches of similar duration, at most max_duration seconds each; the order follows the epoch.

    They are those of all processes together, which share each (`ctcsd.data.shares`).
    """
    buckets = count_buckets(len(cuts), num_buckets)
    longest = max(cut.duration for cut in cuts)
    if longest > max_duration:
        raise UserError(f"data.max_duration={max_duration:g} is shorter than the longest cut, {longest:.1f} seconds")
    # Lazily, though it is in memory: lhotse warns of an eager set, to which its advice does not apply after filtering.
    lazy = CutSet(LazyIteratorChain(_mixed(cuts, seed, epoch)))
    return streaming_sampler(lazy, max_duration, seed, epoch, num_buckets=buckets, buffer_size=BUFFER)


def _mixed(cuts: CutSet, seed: int, epoch: int) -> Iterable[Cut]:
    """The cuts in an order of the epoch where they are more than the buffer, which would pass along the file."""
    if len(cuts) <= BUFFER:
        return cuts
    order = list(cuts)
    random.Random(f"{seed} {epoch}").shuffle(order)
    return order


def streaming_sampler(
    cuts: Iterable[Cut], max_duration: float, seed: int, epoch: int, **options: Any
) -> DynamicBucketingSampler:
    """lhotse's sampler over cuts as they come, for all processes together; `options` are its own."""
    # lhotse adds the epoch to its seed: those of two runs must be further apart than a training has epochs.
    options |= {"shuffle": True, "drop_last": False, "seed": 1000 * seed, "world_size": 1, "rank": 0}
    sampler = DynamicBucketingSampler(cuts, max_duration=max_duration, **options)
    sampler.set_epoch(epoch)
    return sampler


def count_buckets(cuts: int, wanted: int) -> int:
    """How many buckets so many cuts are sorted into; raises UserError where there are too few cuts for batches."""
    if cuts < 2:
        raise UserError("a training set of one cut cannot be batched: at least two are needed")
    return max(2, min(wanted, cuts // 8))  # lhotse takes no fewer than two


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
