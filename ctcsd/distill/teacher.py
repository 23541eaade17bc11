"""Who teaches: an exit of the student's own encoder, a separate frozen model, or its stored posteriors.

A teacher gives natural-log posteriors (N, T, V) without a gradient, on the frames of the student's exit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ctcsd.errors import UserError
from ctcsd.model import EncoderCtc, ExitOutput
from ctcsd.posteriors import FRAME_SHIFT, PosteriorReader

# kind -> (exit, whether under the other view): those that need no other model
OWN = {"self": ("teacher", False), "view": ("student", True), "self_view": ("teacher", True)}
SEPARATE = ("checkpoint", "archive")
TEACHERS = (*OWN, *SEPARATE)


class Teacher(Protocol):
    """Posteriors for a batch, given its features without SpecAugment, its cut ids and the student model's own exits."""

    def __call__(
        self, features: Tensor, lengths: Tensor, cut_ids: Sequence[str], outputs: dict[str, ExitOutput]
    ) -> ExitOutput: ...


class OwnExit:
    """An exit of the student's own encoder, detached: the last one (paper A), or any one under the other view.

    With two views of each utterance in the batch, the first N and then the second N of 2N, the other view of an
    utterance is half a batch away: CR-CTC (2410.05101) where the exit is the student's own.
    """

    def __init__(self, exit: str, other_view: bool = False) -> None:
        self.exit, self.other_view = exit, other_view

    def __call__(
        self, features: Tensor, lengths: Tensor, cut_ids: Sequence[str], outputs: dict[str, ExitOutput]
    ) -> ExitOutput:
        logits, exit_lengths = outputs[self.exit]
        log_probs = logits.detach().float().log_softmax(-1)
        return ExitOutput(log_probs.roll(len(logits) // 2, 0) if self.other_view else log_probs, exit_lengths)


class CheckpointTeacher:
    """A separate frozen model in eval mode, fed with features without SpecAugment (paper B); its highest exit."""

    def __init__(self, model: EncoderCtc) -> None:
        self.model = model.eval().requires_grad_(False)
        self.exit = list(model.exits)[-1]

    @torch.no_grad()
    def __call__(
        self, features: Tensor, lengths: Tensor, cut_ids: Sequence[str], outputs: dict[str, ExitOutput]
    ) -> ExitOutput:
        teacher = self.model(features, lengths, exits=[self.exit])[self.exit]
        return ExitOutput(teacher.logits.float().log_softmax(-1), teacher.lengths)


class ArchiveTeacher:
    """The stored posteriors of the same cuts; a teacher of shorter frames is averaged down to the student's rate.

    Args:
        frame_shift: seconds between the student's frames.

    Raises:
        UserError: frames that do not fit together; when called, a
            cut that the archive lacks or holds at another length.
    """

    def __init__(self, reader: PosteriorReader, frame_shift: float = FRAME_SHIFT) -> None:
        self.reader = reader.at(frame_shift)

    def __call__(
        self, features: Tensor, lengths: Tensor, cut_ids: Sequence[str], outputs: dict[str, ExitOutput]
    ) -> ExitOutput:
        student = outputs["student"]
        stored = [self._read(cut_id, frames) for cut_id, frames in zip(cut_ids, student.lengths.tolist())]
        log_probs = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(rows) for rows in stored], batch_first=True)
        device = student.logits.device
        return ExitOutput(log_probs.to(device), torch.tensor([len(rows) for rows in stored], device=device))

    def _read(self, cut_id: str, frames: int) -> np.ndarray:
        rows = self.reader.read(cut_id)
        if abs(len(rows) - frames) > 2:
            raise UserError(
                f"{self.reader.path}: the cut {cut_id} has {len(rows)} frames, but the student {frames}: it was made "
                "from other audio or features"
            )
        return rows


def make_teacher(
    kind: str | None,
    exits: dict[str, int],
    frozen: Callable[[], EncoderCtc] | None = None,
    archive: Callable[[], PosteriorReader] | None = None,
    input_type: str = "fbank",
    frame_shift: float = FRAME_SHIFT,
    num_mel_bins: int = 80,
) -> Teacher | None:
    """The teacher that a method asks for.

    Args:
        kind: one of TEACHERS, or None.
        exits: of the student's own encoder.
        frozen: loads the model of `checkpoint`.
        archive: opens the posteriors of `archive`.
        input_type: features.type of the student.
        frame_shift: seconds between the student's frames.
        num_mel_bins: features.num_mel_bins of the student.

    Raises:
        UserError: an unknown kind, an exit that it needs and the encoder lacks, nobody to load, or a live teacher of
            other features or frames than the student's.
    """
    if kind is None:
        return None
    if kind not in TEACHERS:
        raise UserError(f"no teacher '{kind}'; known: {', '.join(TEACHERS)}")
    if "student" not in exits:
        raise UserError("distillation needs an exit 'student' in model.exits")
    if kind in OWN:
        exit, other_view = OWN[kind]
        if exit not in exits:
            raise UserError(f"distill.teacher: {kind} needs an exit '{exit}' in model.exits")
        return OwnExit(exit, other_view)
    if kind == "checkpoint":
        if frozen is None:
            raise UserError("distill.teacher: checkpoint needs distill.checkpoint, the folder of a trained model")
        model = frozen()
        if input_type == model.input_type == "fbank" and model.cfg.num_mel_bins != num_mel_bins:
            raise UserError(
                f"the teacher reads {model.cfg.num_mel_bins} mel bins, the student {num_mel_bins}: set "
                f"features.num_mel_bins={model.cfg.num_mel_bins}, or distill.teacher=archive and distill.archive to "
                "what 'ctcsd posteriors' writes of the teacher"
            )
        if (model.input_type, model.frame_shift) != (input_type, frame_shift):
            raise UserError(
                f"the teacher reads {model.input_type} and has a frame every {1000 * model.frame_shift:g} ms, the "
                f"student {input_type} and {1000 * frame_shift:g} ms: set distill.teacher=archive, which stores the "
                "teacher's posteriors and averages their frames"
            )
        return CheckpointTeacher(model)
    if archive is None:
        raise UserError("distill.teacher: archive needs distill.archive, a folder of posteriors of the training cuts")
    return ArchiveTeacher(archive(), frame_shift)
