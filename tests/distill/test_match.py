"""Distillation losses and gradients against float64 numpy and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from ctcsd.distill import frame_kd
from ctcsd.errors import UserError


def batch(seed: int = 0, n: int = 3, t: int = 7, v: int = 5):
    rng = np.random.default_rng(seed)
    student = rng.normal(size=(n, t, v)) * 2
    teacher = log_softmax(rng.normal(size=(n, t, v)) * 3, axis=-1)
    frames = rng.random((n, t)) < 0.6
    return student, teacher, frames


def reference(student, teacher, frames, match: str, temperature: float) -> float:
    """The sum over the selected frames, frame by frame, in float64."""
    total = 0.0
    for n, t in zip(*np.nonzero(frames)):
        p, q = softmax(teacher[n, t] / temperature), softmax(student[n, t] / temperature)
        if match == "kl":
            total += temperature**2 * float((p * (np.log(p) - np.log(q))).sum())
        elif match == "l2":
            total += float(((p - q) ** 2).sum())
        elif p.argmax() != 0:
            total -= float(q[p.argmax()])
    return total


@pytest.mark.parametrize("match", ["kl", "l2", "guide"])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("reduction", ["per_frame", "per_utterance", "per_label", "hilmes"])
def test_loss_and_gradient(match: str, temperature: float, reduction: str) -> None:
    student, teacher, frames = batch()
    labels = 11
    divisor = {"per_frame": frames.sum(), "per_utterance": 3, "per_label": labels, "hilmes": 3 * labels}[reduction]
    logits = torch.tensor(student, dtype=torch.float32, requires_grad=True)
    loss = frame_kd(
        logits, torch.tensor(teacher).float(), torch.tensor(frames), match, temperature, reduction, num_labels=labels
    )
    loss.backward()
    assert loss.item() == pytest.approx(reference(student, teacher, frames, match, temperature) / divisor, rel=1e-5)
    numeric = np.zeros_like(student)
    for index in np.ndindex(student.shape):
        step = np.zeros_like(student)
        step[index] = 1e-5
        up = reference(student + step, teacher, frames, match, temperature)
        numeric[index] = (up - reference(student - step, teacher, frames, match, temperature)) / 2e-5 / divisor
    np.testing.assert_allclose(logits.grad.numpy(), numeric, atol=2e-6)


def test_kl_and_cross_entropy_have_equal_gradients() -> None:
    student, teacher, frames = batch(1)
    logits = torch.tensor(student, requires_grad=True)
    mask, log_p = torch.tensor(frames), torch.tensor(teacher)
    (kl_grad,) = torch.autograd.grad(frame_kd(logits, log_p, mask), logits)
    entropy = -(log_p[mask].exp() * logits[mask].log_softmax(-1)).sum() / mask.sum()
    (ce_grad,) = torch.autograd.grad(entropy, logits)
    torch.testing.assert_close(kl_grad, ce_grad, atol=1e-6, rtol=1e-5)


def test_the_teacher_gets_no_gradient_and_equal_models_no_loss() -> None:
    student, _, frames = batch(2)
    logits = torch.tensor(student, requires_grad=True)
    teacher = torch.tensor(student, requires_grad=True)
    loss = frame_kd(logits, teacher.log_softmax(-1), torch.tensor(frames), temperature=2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0.0, abs=1e-6)
    assert teacher.grad is None
    assert logits.grad is not None and logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("match", ["kl", "l2", "guide"])
@pytest.mark.parametrize("reduction", ["per_frame", "hilmes"])
def test_no_selected_frame_is_zero_with_zero_gradient(match: str, reduction: str) -> None:
    student, teacher, frames = batch()
    logits = torch.tensor(student, requires_grad=True)
    loss = frame_kd(logits, torch.tensor(teacher), torch.zeros_like(torch.tensor(frames)), match, 2.0, reduction)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad is not None and logits.grad.abs().max() == 0.0


def test_frames_that_are_not_selected_change_nothing() -> None:
    student, teacher, frames = batch(4)
    mask = torch.tensor(frames)
    before = frame_kd(torch.tensor(student), torch.tensor(teacher), mask)
    student[~frames], teacher[~frames] = np.nan, np.inf
    assert torch.equal(before, frame_kd(torch.tensor(student), torch.tensor(teacher), mask))


def test_a_token_the_teacher_rules_out() -> None:
    teacher = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    logits = torch.tensor([[[0.0, 0.0, 0.0]]], requires_grad=True)
    loss = frame_kd(logits, teacher, torch.tensor([[True]]))
    loss.backward()
    assert loss.item() == pytest.approx(np.log(1.5), abs=1e-6)
    torch.testing.assert_close(logits.grad, torch.tensor([[[1 / 3 - 0.5, 1 / 3 - 0.5, 1 / 3]]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match": "kll"}, "no match 'kll'"),
        ({"temperature": 0.0}, "must be positive"),
        ({"reduction": "mean"}, "no reduction 'mean'"),
        ({"reduction": "per_label"}, "needs the number of labels"),
    ],
)
def test_bad_requests(options: dict, message: str) -> None:
    student, teacher, frames = batch()
    with pytest.raises(UserError, match=message):
        frame_kd(torch.tensor(student), torch.tensor(teacher), torch.tensor(frames), **options)


def test_what_is_kept_for_the_backward_pass_is_one_gradient() -> None:
    logits = torch.randn(2, 50, 300, requires_grad=True)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        frame_kd(logits, torch.randn(2, 50, 300).log_softmax(-1), torch.ones(2, 50, dtype=torch.bool))
    assert sum(tensor.numel() for tensor in kept) <= logits.numel() + 1


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, frames = batch(5)
    results = []
    for block in (1 << 22, 7):
        monkeypatch.setattr("ctcsd.distill.match.BLOCK", block)
        logits = torch.tensor(student, dtype=torch.float32, requires_grad=True)
        loss = frame_kd(logits, torch.tensor(teacher).float(), torch.tensor(frames), temperature=2.0)
        results.append((loss.detach(), *torch.autograd.grad(loss, logits)))
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


def test_a_second_backward_pass_is_refused_and_not_wrong() -> None:
    logits = torch.randn(2, 3, 4, requires_grad=True)
    loss = 3.0 * frame_kd(logits, torch.randn(2, 3, 4).log_softmax(-1), torch.ones(2, 3, dtype=torch.bool))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
