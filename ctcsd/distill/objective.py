"""The objective of every method: CTC at each exit plus a distillation term, weighed over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctcsd.distill.ctc import ctc_loss
from ctcsd.distill.match import check_match, check_reduction, divisor, match_frames
from ctcsd.distill.schedule import WeightSchedule
from ctcsd.distill.selection import Total, alone, parse_pattern, select_frames
from ctcsd.errors import UserError
from ctcsd.model import ExitOutput


class Labels(NamedTuple):
    """targets (N, U) int64, padded with anything, and lengths (N,) int64."""

    targets: Tensor
    lengths: Tensor


class Sizes(NamedTuple):
    """What the sums over a batch are divided by; `frames` are those that distillation looks at."""

    utterances: int
    labels: int
    frames: int


class Objective:
    """sum over exits of w_exit * L_CTC(exit) + w_kd * L_KD(student, teacher).

    Both kinds of term are divided alike, so that their ratio is the one of the papers: `per_label` by the labels
    of the batch (paper A's sums over frames, but a batch of long utterances weighs no more per label than one of
    short ones), `per_utterance` by N. `per_frame` and `hilmes` divide CTC by the labels and KD as `frame_kd` says
    (paper B).

    Raises:
        UserError: a misspelt pattern, match, reduction or weight, a temperature that is not positive, or a reduction
            that divides KD by labels where no CTC term weighs in.
    """

    def __init__(
        self,
        weights: Mapping[str, Any],
        exits: Mapping[str, int],
        frames: str = "all",
        match: str = "kl",
        temperature: float = 1.0,
        reduction: str = "per_label",
    ) -> None:
        parse_pattern(frames)
        check_match(match, temperature)
        check_reduction(reduction)
        self.schedule = WeightSchedule(weights, exits)
        self.frames, self.match, self.temperature, self.reduction = frames, match, temperature, reduction
        if self._divides_kd_by_labels and not self.needs_labels:
            of = f"{reduction} over all frames" if reduction == "hilmes" else reduction
            raise UserError(f"distill.reduction: {of} needs transcripts, and every CTC weight is 0: take per_frame")

    @property
    def counts_frames(self) -> bool:
        """Whether the distillation term is divided by the number of selected frames."""
        return self.reduction in ("per_frame", "hilmes")

    @property
    def _divides_kd_by_labels(self) -> bool:
        return self.reduction == "per_label" or (self.reduction == "hilmes" and self.frames == "all")

    def selected(self, outputs: Mapping[str, ExitOutput], teacher: ExitOutput, total: Total = alone) -> Tensor:
        """bool (N, T): the frames of the student's exit that distillation looks at."""
        lengths = torch.minimum(outputs["student"].lengths, teacher.lengths)
        # With another subsampling, cut to the shorter.
        shared = min(outputs["student"].logits.size(1), teacher.logits.size(1))
        return select_frames(teacher.logits[:, :shared], lengths, self.frames, total=total)

    @property
    def needs_labels(self) -> bool:
        """Whether any CTC term can weigh in: without one, cuts need no transcript."""
        return any(value > 0 for term, value in self.schedule.base.items() if term != "kd")

    def __call__(
        self,
        outputs: dict[str, ExitOutput],
        labels: Labels | None,
        teacher: ExitOutput | None,
        weights: Mapping[str, float],
        total: Total = alone,
        sizes: Sizes | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts (detached) for the logs; of a share of a batch, its summands.

        Args:
            outputs: of the model, exit name -> (logits, lengths).
            labels: None only where no CTC term weighs in.
            teacher: (log-probs (N, T, V), lengths), from a Teacher.
            weights: from `schedule.at`.
            total: sums over the processes whose shares make the batch.
            sizes: of the whole batch, where this is a piece of it.
        """
        first = next(iter(outputs.values()))
        frames = None
        if teacher is not None and weights["kd"] > 0:
            frames = self.selected(outputs, teacher, total)
        if sizes is None:
            nothing = first.lengths.new_zeros(())
            counts = [
                first.lengths.new_tensor(len(first.lengths)),
                nothing if labels is None else labels.lengths.sum(),
                nothing if frames is None else frames.sum(),
            ]
            sizes = Sizes(*total(torch.stack(counts)).tolist())
        num_labels = None if labels is None else max(sizes.labels, 1)
        ctc_divisor = sizes.utterances if self.reduction == "per_utterance" else num_labels or 1
        loss = first.logits.sum() * 0.0  # every weight may be 0 at the start of a warm-up
        parts: dict[str, Tensor] = {}
        for name, output in outputs.items():
            if labels is None or weights[f"ctc_{name}"] == 0:
                continue
            ctc, parts["infeasible"] = ctc_loss(*output, *labels)
            parts[f"ctc_{name}"] = ctc.detach() / ctc_divisor
            loss = loss + weights[f"ctc_{name}"] * ctc / ctc_divisor
        if teacher is not None and frames is not None:
            student = outputs["student"]
            shared = frames.size(1)
            kd = match_frames(
                student.logits[:, :shared], teacher.logits[:, :shared], frames, self.match, self.temperature
            )
            labels_of_kd = num_labels if self._divides_kd_by_labels else None
            kd = kd / divisor(self.reduction, sizes.frames, sizes.utterances, labels_of_kd)
            share = frames.sum() / torch.minimum(student.lengths, teacher.lengths).sum().clamp(min=1)
            parts["kd"], parts["kd_frames"] = kd.detach(), share * len(first.lengths) / sizes.utterances
            loss = loss + weights["kd"] * kd
        return loss, parts
