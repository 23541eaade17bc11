"""Forward and backward of a batch, which goes through in pieces where the whole does not fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from ctcsd.config import AugmentConfig
from ctcsd.data.augment import spec_augment
from ctcsd.data.batches import Batch
from ctcsd.distill import Objective
from ctcsd.distill.objective import Labels, Sizes
from ctcsd.distill.selection import Total, alone
from ctcsd.distill.teacher import OwnExit, Teacher
from ctcsd.errors import UserError
from ctcsd.model import EncoderCtc, ExitOutput
from ctcsd.train.allocator import give_back_freed_memory
from ctcsd.train.memory import advice, out_of_memory, padded_seconds

Parts = dict[str, Tensor]


class Accumulator:
    """Adds the gradient of a batch's loss to the parameters.

    Args:
        split: halve a batch that does not fit, again and again; otherwise its training ends with a line of advice.
        pieces: in which every batch goes through. Of several processes each makes as many, if need be of nothing:
            where the model is dealt out to them, they compute together.
        total: sums over the processes whose shares make the batch: the loss and its parts are summands of the batch's.

    Attributes:
        hold: a context in which a backward pass leaves the gradient to the next one to share with other processes.
    """

    def __init__(
        self,
        model: EncoderCtc,
        objective: Objective,
        teacher: Teacher | None,
        augment: AugmentConfig,
        split: bool,
        pieces: int = 1,
        total: Total = alone,
    ) -> None:
        self.model, self.objective, self.teacher = model, objective, teacher
        self.augment, self.split, self.pieces, self.total = augment, split, pieces, total
        self.hold: Callable[[], AbstractContextManager[Any]] = nullcontext
        self.fitted = 0.0  # padded seconds of the largest batch that went through whole

    def __call__(
        self, batch: Batch, weights: Mapping[str, float], backward: Callable[[Tensor], object] = Tensor.backward
    ) -> tuple[Tensor, Parts]:
        """The loss and its parts, detached; no gradient may be there yet.

        Raises:
            UserError: the batch does not fit in memory.
        """
        whole, masked = self.masked(batch)
        pieces = self.pieces if self.total is not alone else min(self.pieces, len(batch.cut_ids))
        while True:
            try:
                found = self.in_pieces(whole, masked, weights, pieces, backward)
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
            else:
                if pieces <= self.pieces:
                    self.fitted = max(self.fitted, padded_seconds(batch))
                return found
            # Out of the handler, where the traceback would hold on to what the step had made so far.
            self.model.zero_grad(set_to_none=True)
            give_back_freed_memory()
            if batch.features.is_cuda:
                torch.cuda.empty_cache()
            if not self.split:
                others = f"train.accumulate={2 * pieces}, or, in one process, train.split_on_oom=true"
                raise UserError(f"{advice(batch, self.fitted)}, {others}")
            if pieces >= len(batch.cut_ids):
                raise UserError(f"{advice(batch, self.fitted)} (not even one by one)")
            pieces = min(2 * pieces, len(batch.cut_ids))
            print(f"{advice(batch, self.fitted)}; now in {pieces} pieces", flush=True)

    def masked(self, batch: Batch) -> tuple[Batch, Tensor]:
        """The views of a batch, and their features under the masks of SpecAugment."""
        whole = batch.repeated(self.augment.views)
        return whole, spec_augment(whole.features, whole.lengths, self.augment)

    def in_pieces(
        self,
        whole: Batch,
        masked: Tensor,
        weights: Mapping[str, float],
        pieces: int,
        backward: Callable[[Tensor], object],
    ) -> tuple[Tensor, Parts]:
        """The same gradient whatever the number of pieces, within float error.

        What else draws at random (dropout, random frame patterns) draws anew for each piece; a prior that is taken
        from the batch is that of the piece.

        Args:
            whole: with all its views, one after the other.
            masked: its features as the model sees them.
        """
        counted = 0 if whole.stand_in else 1
        views = self.augment.views
        count = len(whole.cut_ids) // views
        if pieces == 1:
            outputs = self.model(masked, whole.lengths)
            posteriors = self._posteriors(whole, outputs, weights)
            loss, parts = self.objective(
                outputs, _labels(whole), posteriors, weights, total=lambda sums: self.total(counted * sums)
            )
            backward(counted * loss)
            return counted * loss.detach(), {name: counted * value for name, value in parts.items()}
        chunks = [chunk.tolist() for chunk in torch.arange(count).tensor_split(pieces)]
        rows = [[row + view * count for view in range(views) for row in chunk or [0]] for chunk in chunks]
        counts = [counted * bool(chunk) for chunk in chunks]  # a piece of nothing is the first cut, counted 0 times
        sizes = self._sizes(whole, masked, rows, counts, weights)
        loss, sums = torch.zeros((), device=masked.device), Parts()
        for chosen, counted in zip(rows, counts):
            part = whole.select(chosen)
            outputs = self.model(masked[chosen, : part.features.size(1)], part.lengths)
            posteriors = self._posteriors(part, outputs, weights)
            summand, parts = self.objective(outputs, _labels(part), posteriors, weights, sizes=sizes)
            with nullcontext() if chosen is rows[-1] else self.hold():
                backward(counted * summand)
            loss += counted * summand.detach()
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + counted * value
        return loss, sums

    def _sizes(
        self, whole: Batch, masked: Tensor, rows: list[list[int]], counts: list[int], weights: Mapping[str, float]
    ) -> Sizes:
        """What the sums over the whole batch are divided by."""
        frames = 0
        if self.objective.counts_frames and self.teacher is not None and weights["kd"] > 0:
            for chosen, counted in zip(rows, counts):
                frames += counted * self._selected(whole.select(chosen), masked[chosen], weights)
            torch.clear_autocast_cache()  # it would hold weights that were cast without a gradient
        labels = 0 if whole.target_lengths is None else int(whole.target_lengths.sum())
        sums = whole.lengths.new_tensor([len(whole.cut_ids), labels, frames])
        return Sizes(*self.total(0 * sums if whole.stand_in else sums).tolist())

    @torch.no_grad()
    def _selected(self, part: Batch, masked: Tensor, weights: Mapping[str, float]) -> int:
        outputs = self.model(masked[:, : part.features.size(1)], part.lengths)
        posteriors = self._posteriors(part, outputs, weights)
        return 0 if posteriors is None else int(self.objective.selected(outputs, posteriors).sum())

    def _posteriors(
        self, batch: Batch, outputs: dict[str, ExitOutput], weights: Mapping[str, float]
    ) -> ExitOutput | None:
        """Of the teacher, whom nobody asks while its term weighs nothing."""
        if self.teacher is None or weights["kd"] == 0:
            return None
        views = self.augment.views
        if views == 1 or isinstance(self.teacher, OwnExit):
            return self.teacher(batch.features, batch.lengths, batch.cut_ids, outputs)
        count = len(batch.cut_ids) // views  # without masks, as another sees them, all views are the first
        first = {name: ExitOutput(out.logits[:count], out.lengths[:count]) for name, out in outputs.items()}
        log_probs, lengths = self.teacher(batch.features[:count], batch.lengths[:count], batch.cut_ids[:count], first)
        return ExitOutput(log_probs.repeat(views, 1, 1), lengths.repeat(views))


def _labels(batch: Batch) -> Labels | None:
    if batch.targets is None or batch.target_lengths is None:
        return None
    return Labels(batch.targets, batch.target_lengths)
