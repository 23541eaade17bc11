"""How far two exits or models align alike: agreement frame by frame, and the timing of their spikes (paper A)."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import Any

import kaldialign
import numpy as np

from ctcsd.errors import UserError
from ctcsd.posteriors import DamagedEntry, PosteriorReader

MAX_LENGTH_DIFFERENCE = 2  # frames; more means other audio or another subsampling, not another rounding
GAP = -1  # no token


@dataclass(frozen=True)
class Alignment:
    """Counts of a student beside a teacher, which add up over utterances.

    A side says the most probable token of a frame. A spike is one token of its best path, a run of frames that say
    the same non-blank token, and sits where the posterior of that token is highest. Teacher and student spikes are
    matched by the edit distance of their tokens; only equal tokens match.

    Attributes:
        frame_shift: seconds between frames.
        frames: frames that both sides have.
        agree: frames on which both say the same.
        nonblank: frames on which the teacher says a token.
        nonblank_agree: those of them on which the student says the same one.
        nonblank_to_blank: those of them on which the student says blank.
        student_blank: frames on which the student says blank.
        spikes: spikes of the teacher.
        student_spikes: spikes of the student.
        offsets: student frame minus teacher frame -> matched spikes.

    A share is in percent, 0 where there is nothing to share out; an offset is NaN where no spike is matched.
    """

    frame_shift: float
    frames: int = 0
    agree: int = 0
    nonblank: int = 0
    nonblank_agree: int = 0
    nonblank_to_blank: int = 0
    student_blank: int = 0
    spikes: int = 0
    student_spikes: int = 0
    offsets: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: Alignment) -> Alignment:
        counts = [f.name for f in fields(self) if f.name != "frame_shift"]
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in counts})

    @property
    def accuracy(self) -> float:
        """Share of frames on which both sides say the same."""
        return _percent(self.agree, self.frames)

    @property
    def nonblank_accuracy(self) -> float:
        """The same over the frames on which the teacher says a token."""
        return _percent(self.nonblank_agree, self.nonblank)

    @property
    def nonblank_to_blank_share(self) -> float:
        """Share of the frames on which the teacher says a token where the student says blank."""
        return _percent(self.nonblank_to_blank, self.nonblank)

    @property
    def teacher_blank_share(self) -> float:
        """Share of frames on which the teacher says blank."""
        return _percent(self.frames - self.nonblank, self.frames)

    @property
    def student_blank_share(self) -> float:
        """Share of frames on which the student says blank."""
        return _percent(self.student_blank, self.frames)

    @property
    def matched(self) -> int:
        """Matched pairs of spikes."""
        return sum(self.offsets.values())

    @property
    def matched_share(self) -> float:
        """Share of the teacher's spikes that are matched."""
        return _percent(self.matched, self.spikes)

    @property
    def near_share(self) -> float:
        """Share of the matched spikes that sit within one frame of the teacher's."""
        return _percent(sum(self.offsets[offset] for offset in (-1, 0, 1)), self.matched)

    @property
    def mean_offset_ms(self) -> float:
        """Mean offset of the matched spikes in milliseconds; positive where the student is later."""
        return self._mean_ms(sum(offset * count for offset, count in self.offsets.items()))

    @property
    def mean_absolute_offset_ms(self) -> float:
        """Mean distance of the matched spikes in milliseconds."""
        return self._mean_ms(sum(abs(offset) * count for offset, count in self.offsets.items()))

    def _mean_ms(self, total_frames: int) -> float:
        return 1000.0 * self.frame_shift * total_frames / self.matched if self.matched else math.nan

    def figures(self) -> dict[str, float]:
        """The fields of a result row: percent and milliseconds; an offset is left out where no spike is matched."""
        figures = {
            "agreement": self.accuracy,
            "agreement_nonblank": self.nonblank_accuracy,
            "teacher_blank_share": self.teacher_blank_share,
            "student_blank_share": self.student_blank_share,
            "nonblank_to_blank": self.nonblank_to_blank_share,
            "spikes_matched": self.matched_share,
            "spikes_within_one_frame": self.near_share,
            "spike_offset_ms": self.mean_absolute_offset_ms,
            "spike_shift_ms": self.mean_offset_ms,
        }
        return {name: round(value, 2) for name, value in figures.items() if not math.isnan(value)}

    def to_dict(self) -> dict[str, Any]:
        """Figures and counts as JSON values, the histogram in the order of the offsets."""
        counts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "offsets"}
        offsets = {str(offset): self.offsets[offset] for offset in sorted(self.offsets)}
        return {**self.figures(), **counts, "offsets": offsets}

    def describe(self) -> str:
        """The figures in a few lines."""
        timing = (
            f"student {self.mean_offset_ms:+.1f} ms on average, {self.mean_absolute_offset_ms:.1f} ms off, "
            f"{self.near_share:.1f} % within one frame of {1000 * self.frame_shift:.0f} ms"
        )
        return "\n".join(
            [
                f"agreement: {self.accuracy:.1f} % of {self.frames} frames, "
                f"{self.nonblank_accuracy:.1f} % of the {self.nonblank} where the teacher is not blank",
                f"blank: teacher {self.teacher_blank_share:.1f} %, student {self.student_blank_share:.1f} %; "
                f"student blank where the teacher is not: {self.nonblank_to_blank_share:.1f} %",
                f"spikes: teacher {self.spikes}, student {self.student_spikes}; {self.matched_share:.1f} % matched",
                f"timing of the matched: {timing if self.matched else 'none'}",
            ]
        )


def compare_archives(teacher: PosteriorReader, student: PosteriorReader) -> Alignment:
    """Compare two archives of the same cuts, in whatever order each lists them; holds one utterance at a time.

    The one with the shorter frames is averaged down to the frames of the other. DamagedEntry utterances are left out.

    Raises:
        UserError: other tokens, frame shifts of which none divides the other, a cut that one of them lacks, or lengths
            of a cut that differ by more than two frames.
    """
    if other := student.table.unlike(teacher.table):
        raise UserError(f"{student.path} has another token table than {teacher.path}: its {other}")
    shift = max(teacher.frame_shift, student.frame_shift)
    teacher, student = teacher.at(shift), student.at(shift)
    total = Alignment(shift)
    for cut_id in dict.fromkeys([*teacher.index, *student.index]):
        try:
            t, s = teacher.read(cut_id), student.read(cut_id)
        except DamagedEntry as error:
            print(f"{error}: left out of the comparison", flush=True)
            continue
        if abs(len(t) - len(s)) > MAX_LENGTH_DIFFERENCE:
            raise UserError(
                f"cut {cut_id} has {len(s)} frames in {student.path}, but {len(t)} in {teacher.path}: "
                "made from other features, or with another subsampling"
            )
        total += compare_utterance(t, s, shift)
    return total


def compare_utterance(teacher: np.ndarray, student: np.ndarray, frame_shift: float) -> Alignment:
    """Compare the (T, V) log-probs of two sides over the frames that both have; frame_shift in seconds."""
    frames = min(len(teacher), len(student))
    teacher, student = teacher[:frames], student[:frames]
    t, s = teacher.argmax(1), student.argmax(1)
    t_spikes, s_spikes = spikes(teacher), spikes(student)
    return Alignment(
        frame_shift=frame_shift,
        frames=frames,
        agree=int((t == s).sum()),
        nonblank=int((t != 0).sum()),
        nonblank_agree=int(((t == s) & (t != 0)).sum()),
        nonblank_to_blank=int(((t != 0) & (s == 0)).sum()),
        student_blank=int((s == 0).sum()),
        spikes=len(t_spikes),
        student_spikes=len(s_spikes),
        offsets=spike_offsets(t_spikes, s_spikes),
    )


def spikes(log_probs: np.ndarray) -> list[tuple[int, int]]:
    """(T, V) log-probs -> (token, frame) of every spike; of equally high frames the first."""
    path, best = log_probs.argmax(1), log_probs.max(1)
    starts = np.flatnonzero(np.diff(path, prepend=-1)).tolist()
    runs = zip(starts, [*starts[1:], len(path)])
    return [(int(path[a]), a + int(best[a:b].argmax())) for a, b in runs if path[a] != 0]


def spike_offsets(teacher: list[tuple[int, int]], student: list[tuple[int, int]]) -> Counter[int]:
    """Student frame minus teacher frame -> number of matched spikes; spikes are (token, frame)."""
    offsets: Counter[int] = Counter()
    i = j = 0
    for t, s in kaldialign.align([token for token, _ in teacher], [token for token, _ in student], GAP):
        if t == s:
            offsets[student[j][1] - teacher[i][1]] += 1
        i += t != GAP
        j += s != GAP
    return offsets


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0
