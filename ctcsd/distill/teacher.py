"""Who teaches: the last exit of the same encoder, or a separate frozen model.

A teacher gives natural-log posteriors (N, T, V) without a gradient, on the frames of the student's exit.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from ctcsd.errors import UserError
from ctcsd.model import ExitOutput, SharedEncoderCtc


class Teacher(Protocol):
    """Posteriors for the batch, given its un-augmented features and the student model's own exits."""

    def __call__(self, features: Tensor, lengths: Tensor, outputs: dict[str, ExitOutput]) -> ExitOutput: ...


class SelfTeacher:
    """The exit `teacher` of the student's own encoder, detached (paper A)."""

    def __call__(self, features: Tensor, lengths: Tensor, outputs: dict[str, ExitOutput]) -> ExitOutput:
        teacher = outputs["teacher"]
        return ExitOutput(teacher.logits.detach().float().log_softmax(-1), teacher.lengths)


class CheckpointTeacher:
    """A separate frozen model in eval mode, fed with features without SpecAugment (paper B); its highest exit."""

    def __init__(self, model: SharedEncoderCtc) -> None:
        self.model = model.eval().requires_grad_(False)
        self.exit = list(model.exits)[-1]

    @torch.no_grad()
    def __call__(self, features: Tensor, lengths: Tensor, outputs: dict[str, ExitOutput]) -> ExitOutput:
        teacher = self.model(features, lengths, exits=[self.exit])[self.exit]
        return ExitOutput(teacher.logits.float().log_softmax(-1), teacher.lengths)


def make_teacher(kind: str | None, exits: dict[str, int], frozen: SharedEncoderCtc | None = None) -> Teacher | None:
    """The teacher that a method asks for; `frozen` is the model of `checkpoint`.

    Raises:
        UserError: an unknown kind, a self-teacher without an exit `teacher`, or no frozen model.
    """
    if kind is None:
        return None
    if "student" not in exits:
        raise UserError("distillation needs an exit 'student' in model.exits")
    if kind == "self":
        if "teacher" not in exits:
            raise UserError("distill.teacher: self needs an exit 'teacher' in model.exits")
        return SelfTeacher()
    if kind == "checkpoint":
        if frozen is None:
            raise UserError("distill.teacher: checkpoint needs distill.checkpoint, the folder of a trained model")
        return CheckpointTeacher(frozen)
    raise UserError(f"no teacher '{kind}'; known: self, checkpoint")
