"""How a student's frame is compared with the teacher's: KL, softmax-level l2, or Guide-CTC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ctcsd.errors import UserError

# (M, V) log p of the teacher and log q of the student -> sum over the frames, and its slope in the student's logits
Match = Callable[[Tensor, Tensor], "tuple[Tensor, Tensor]"]
BLOCK = 1 << 22  # values of a block: 16 MB
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

    Selected frames are gathered before any softmax, so the cost grows with them and not with T; the memory beside the
    gradient of the logits is a few blocks of frames.

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
    total = match_frames(student_logits, teacher_log_probs, frames, match, temperature)
    return total / divisor(reduction, int(frames.sum()), student_logits.size(0), num_labels)


def match_frames(
    student_logits: Tensor, teacher_log_probs: Tensor, frames: Tensor, match: str, temperature: float
) -> Tensor:
    """The sum over the selected frames that `frame_kd` divides; arguments and errors as there."""
    check_match(match, temperature)
    return _MatchFrames.apply(student_logits, teacher_log_probs, frames, MATCHES[match], temperature)


def check_match(match: str, temperature: float) -> None:
    """Raises UserError: an unknown match, or a temperature that is not positive."""
    if match not in MATCHES:
        raise UserError(f"no match '{match}'; known: {', '.join(MATCHES)}")
    if not temperature > 0:
        raise UserError(f"the temperature must be positive, not {temperature:g}")


class _MatchFrames(torch.autograd.Function):
    """Sum over the selected frames, and its gradient by formula, a block of frames at a time.

    The gradient is made together with the loss, so that beside it nothing of the size of the logits is ever held:
    with the thousands of tokens of a Chinese vocabulary, autograd's intermediate results would be ten times that.
    """

    @staticmethod
    def forward(
        ctx: Any, student_logits: Tensor, teacher_log_probs: Tensor, frames: Tensor, match: Match, temperature: float
    ) -> Tensor:
        vocab = student_logits.size(-1)
        student, teacher = student_logits.reshape(-1, vocab), teacher_log_probs.reshape(-1, vocab)
        total = torch.zeros((), device=student.device)
        grad = torch.zeros_like(student) if ctx.needs_input_grad[0] else None
        for block in frames.reshape(-1).nonzero()[:, 0].split(max(1, BLOCK // vocab)):
            log_p = (teacher[block].float() / temperature).log_softmax(-1)
            log_q = (student[block].float() / temperature).log_softmax(-1)
            loss, slope = match(log_p, log_q)
            scale = temperature**2 if match is _kl else 1.0
            total += scale * loss
            if grad is not None:
                grad[block] = slope.mul_(scale / temperature).to(grad.dtype)
        if grad is not None:
            ctx.save_for_backward(grad.view_as(student_logits))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        # In place, for a second tensor of that size: torch refuses another backward pass through the same graph.
        return grad.mul_(upstream), None, None, None, None


def _kl(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """KL(p || q) and its slope in the logits of q."""
    p = log_p.exp()
    # A token of zero probability adds 0, not 0 * -inf.
    loss = torch.where(p > 0, p * (log_p - log_q), 0.0).sum()
    return loss, log_q.exp().sub_(p)


def _l2(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """||p - q||^2 and its slope."""
    q = log_q.exp()
    gap = q - log_p.exp()
    return gap.square().sum(), 2.0 * q * (gap - (q * gap).sum(-1, keepdim=True))


def _guide(log_p: Tensor, log_q: Tensor) -> tuple[Tensor, Tensor]:
    """-q[k] at the teacher's most probable token k where it is not blank, and its slope."""
    best = log_p.argmax(-1, keepdim=True)
    q = log_q.exp()
    guided = q.gather(-1, best) * (best != 0)
    slope = guided * q
    return -guided.sum(), slope.scatter_add_(-1, best, -guided)


MATCHES: dict[str, Match] = {"kl": _kl, "l2": _l2, "guide": _guide}


def divisor(reduction: str, num_frames: int, num_utterances: int, num_labels: int | None) -> int:
    """What the sum over the selected frames of a batch is divided by; raises UserError as `frame_kd` does."""
    check_reduction(reduction)
    if reduction == "per_label" and num_labels is None:
        raise UserError("reduction 'per_label' needs the number of labels, which cuts without a transcript lack")
    if reduction == "per_utterance":
        return num_utterances
    if reduction == "per_label":
        return max(num_labels or 0, 1)
    if reduction == "hilmes" and num_labels is not None:
        return max(num_utterances * num_labels, 1)
    return max(num_frames, 1)


def check_reduction(reduction: str) -> None:
    """Raises UserError: an unknown reduction."""
    if reduction not in REDUCTIONS:
        raise UserError(f"no reduction '{reduction}'; known: {', '.join(REDUCTIONS)}")
