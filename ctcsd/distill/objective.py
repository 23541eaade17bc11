"""The objective of every method: CTC at each exit plus a distillation term, weighed over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ctcsd.distill.ctc import ctc_loss
from ctcsd.distill.match import MATCHES, REDUCTIONS, frame_kd
from ctcsd.distill.schedule import WeightSchedule
from ctcsd.distill.selection import parse_pattern, select_frames
from ctcsd.errors import UserError
from ctcsd.model import ExitOutput


class Labels(NamedTuple):
    """targets (N, U) int64, padded with anything, and lengths (N,) int64."""

    targets: Tensor
    lengths: Tensor


class Objective:
    """sum over exits of w_exit * L_CTC(exit) + w_kd * L_KD(student, teacher).

    Both kinds of term are divided alike, so that their ratio is the one of the papers: `per_label` by the labels
    of the batch (paper A's sums over frames, but a batch of long utterances weighs no more per label than one of
    short ones), `per_utterance` by N. `per_frame` and `hilmes` divide CTC by the labels and KD as `frame_kd` says
    (paper B).

    Raises:
        UserError: a misspelt pattern, match, reduction or weight.
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
        for value, known, what in ((match, MATCHES, "match"), (reduction, REDUCTIONS, "reduction")):
            if value not in known:
                raise UserError(f"no {what} '{value}'; known: {', '.join(known)}")
        self.schedule = WeightSchedule(weights, exits)
        if reduction == "per_label" and not self.needs_labels:
            raise UserError("distill.reduction: per_label needs transcripts, and every CTC weight is 0: take per_frame")
        self.frames, self.match, self.temperature, self.reduction = frames, match, temperature, reduction

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
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and its parts (detached) for the logs.

        Args:
            outputs: of the model, exit name -> (logits, lengths).
            labels: None only where no CTC term weighs in.
            teacher: (log-probs (N, T, V), lengths), from a Teacher.
            weights: from `schedule.at`.
            generator: for the random frame patterns.
        """
        first = next(iter(outputs.values()))
        num_labels = None if labels is None else max(int(labels.lengths.sum()), 1)
        ctc_divisor = first.logits.size(0) if self.reduction == "per_utterance" else num_labels or 1
        loss = first.logits.sum() * 0.0  # every weight may be 0 at the start of a warm-up
        parts: dict[str, Tensor] = {}
        for name, output in outputs.items():
            if labels is None or weights[f"ctc_{name}"] == 0:
                continue
            total, parts["infeasible"] = ctc_loss(*output, *labels)
            parts[f"ctc_{name}"] = total.detach() / ctc_divisor
            loss = loss + weights[f"ctc_{name}"] * total / ctc_divisor
        if teacher is not None and weights["kd"] > 0:
            student = outputs["student"]
            shared = min(student.logits.size(1), teacher.logits.size(1))  # other subsampling: cut to the shorter
            lengths = torch.minimum(student.lengths, teacher.lengths)
            posteriors = teacher.logits[:, :shared]
            frames = select_frames(posteriors, lengths, self.frames, generator)
            per_label = num_labels if self.reduction == "per_label" or self.frames == "all" else None
            kd = frame_kd(
                student.logits[:, :shared], posteriors, frames, self.match, self.temperature, self.reduction, per_label
            )
            parts["kd"], parts["kd_frames"] = kd.detach(), frames.sum() / lengths.sum().clamp(min=1)
            loss = loss + weights["kd"] * kd
        return loss, parts
