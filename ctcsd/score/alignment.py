"""How far two exits or models agree frame by frame (paper A's output accuracy)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ctcsd.errors import UserError


@dataclass(frozen=True)
class FrameAgreement:
    """Counts of valid frames: all, those where the most probable tokens agree, and both for teacher-non-blank ones."""

    frames: int
    agree: int
    nonblank: int
    nonblank_agree: int
    student_blank: int

    @property
    def accuracy(self) -> float:
        """Percentage of frames on which student and teacher agree."""
        return 100.0 * self.agree / max(self.frames, 1)

    @property
    def nonblank_accuracy(self) -> float:
        """The same over the frames where the teacher's most probable token is not blank."""
        return 100.0 * self.nonblank_agree / max(self.nonblank, 1)

    @property
    def blank_share(self) -> float:
        """Percentage of frames where the student's most probable token is blank."""
        return 100.0 * self.student_blank / max(self.frames, 1)


def frame_agreement(
    teacher: Iterable[tuple[str, np.ndarray]], student: Iterable[tuple[str, np.ndarray]]
) -> FrameAgreement:
    """Compare two archives of the same cuts in the same order: (cut id, (T, V) log-probs) each.

    Raises:
        UserError: the archives hold other cuts, or other numbers of frames for a cut.
    """
    frames = agree = nonblank = nonblank_agree = student_blank = 0
    end = ("", np.empty((0, 0)))
    teacher, student = iter(teacher), iter(student)
    while True:
        (t_id, t), (s_id, s) = next(teacher, end), next(student, end)
        if t_id != s_id or len(t) != len(s):
            raise UserError(
                f"teacher and student archives differ: '{t_id}' with {len(t)} frames, '{s_id}' with {len(s)}"
            )
        if not t_id:
            return FrameAgreement(frames, agree, nonblank, nonblank_agree, student_blank)
        a, b = t.argmax(1), s.argmax(1)
        frames += len(a)
        agree += int((a == b).sum())
        nonblank += int((a != 0).sum())
        nonblank_agree += int(((a == b) & (a != 0)).sum())
        student_blank += int((b == 0).sum())
