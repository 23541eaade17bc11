"""How a student's frame is compared with the teacher's: KL, softmax-level l2, or Guide-CTC."""

from __future__ import annotations

import torch
from torch import Tensor

from ctcsd.errors import UserError

MATCHES = ("kl", "l2", "guide")
REDUCTIONS = ("per_frame", "per_utterance", "per_label", "hilmes")


def frame_kd(
    student_logits: Tensor,
    teacher_log_probs: Tensor,
    frames: Tensor,
    match: str = "kl",
    temperature: float = 1.0,
    reduction: str = "per_frame",
    num_labels: int | None = None,
) -> Tensor:
    """Frame-level distillation loss over the selected frames; the teacher is a constant.

    With p = softmax(teacher_log_probs / Te) and q = softmax(student_logits / Te), Te the temperature, the sum over
    the selected frames of

    - `kl`: Te^2 * KL(p || q), in nats (papers A and B);
    - `l2`: ||p - q||^2 (softmax-level KD, TutorNet 2008.00671);
    - `guide`: -q[k] where k is the teacher's most probable token, on frames where it is not blank (1904.08311).

    Selected frames are gathered before any softmax, so the cost grows with them and not with T.

    Args:
        student_logits: (N, T, V), not normalised.
        teacher_log_probs: (N, T, V), natural-log probabilities.
        frames: bool (N, T), the selected frames (no padded one among them).
        match: `kl`, `l2` or `guide`.
        temperature: Te > 0.
        reduction: `per_frame`: / number of selected frames; `per_utterance`: / N; `per_label`: / num_labels;
            `hilmes` (the authors' code of paper B): `per_frame`, or, where num_labels is given, as it is for
            their loss over all frames, / N / num_labels.
        num_labels: labels in the batch.

    Returns:
        a scalar; 0 with a zero gradient where no frame is selected.

    Raises:
        UserError: an unknown match or reduction, or a temperature that is not positive.
    """
    if match not in MATCHES:
        raise UserError(f"no match '{match}'; known: {', '.join(MATCHES)}")
    if temperature <= 0:
        raise UserError(f"the temperature must be positive, not {temperature}")
    student = student_logits[frames].float() / temperature
    with torch.no_grad():
        teacher = (teacher_log_probs[frames].float() / temperature).log_softmax(-1)
    if match == "kl":
        log_q = student.log_softmax(-1)
        # xlogy-like: a token of zero probability adds 0, not 0 * -inf
        gap = torch.where(teacher.isneginf(), torch.zeros_like(teacher), teacher - log_q)
        total = temperature**2 * (teacher.exp() * gap).sum()
    elif match == "l2":
        total = (teacher.exp() - student.softmax(-1)).square().sum()
    else:
        best = teacher.argmax(-1)
        total = -(student.softmax(-1).gather(-1, best[:, None])[:, 0] * (best != 0)).sum()
    return total / _divisor(reduction, student.size(0), student_logits.size(0), num_labels)


def _divisor(reduction: str, num_frames: int, num_utterances: int, num_labels: int | None) -> int:
    if reduction not in REDUCTIONS:
        raise UserError(f"no reduction '{reduction}'; known: {', '.join(REDUCTIONS)}")
    if reduction == "per_label" and num_labels is None:
        raise UserError("reduction 'per_label' needs the number of labels, which cuts without a transcript lack")
    if reduction == "per_utterance":
        return num_utterances
    if reduction == "per_label":
        return max(num_labels or 0, 1)
    if reduction == "hilmes" and num_labels is not None:
        return max(num_utterances * num_labels, 1)
    return max(num_frames, 1)
