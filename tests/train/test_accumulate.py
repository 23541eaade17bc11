"""A batch in pieces has the gradient of the whole, for every reduction and teacher; one that does not fit is split."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny import EXITS, tiny_model

from ctcsd.config import AugmentConfig
from ctcsd.data.batches import Batch
from ctcsd.distill import Objective
from ctcsd.distill.teacher import make_teacher
from ctcsd.errors import UserError
from ctcsd.train.accumulate import Accumulator

WEIGHTS = {"ctc_student": 0.4, "ctc_teacher": 0.3, "kd": 0.6}
FRAMES = (80, 41, 66, 80, 57)


def batch() -> Batch:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor(FRAMES)
    target_lengths = torch.tensor([3, 1, 4, 2, 5])
    return Batch(
        torch.randn(len(FRAMES), max(FRAMES), 80, generator=generator),
        lengths,
        torch.randint(1, 5, (len(FRAMES), 5), generator=generator),
        target_lengths,
        ["t"] * len(FRAMES),
        list("abcde"),
    )


def accumulator(reduction: str, frames: str, kind: str, split: bool = True) -> Accumulator:
    views = 2 if "view" in kind else 1
    model = tiny_model()
    objective = Objective(WEIGHTS, EXITS, frames, reduction=reduction)
    teacher = make_teacher(kind, EXITS, lambda: tiny_model(seed=5))
    return Accumulator(model, objective, teacher, AugmentConfig(views=views), split)


def gradient(accumulate: Accumulator, pieces: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Gradients, and the loss with its parts."""
    torch.manual_seed(11)
    accumulate.model.zero_grad()
    loss, parts = accumulate.in_pieces(*accumulate.masked(batch()), WEIGHTS, pieces, torch.Tensor.backward)
    grads = {name: p.grad.clone() for name, p in accumulate.model.named_parameters() if p.grad is not None}
    return grads, {"loss": loss, **{name: parts[name] for name in ("ctc_student", "ctc_teacher", "kd")}}


@pytest.mark.parametrize("reduction", ["per_label", "per_frame", "per_utterance", "hilmes"])
@pytest.mark.parametrize(
    ("frames", "kind"), [("all", "self"), ("nonblank", "checkpoint"), ("symmetric:1", "self_view")]
)
def test_pieces_add_up(reduction: str, frames: str, kind: str) -> None:
    accumulate = accumulator(reduction, frames, kind)
    whole, losses = gradient(accumulate, 1)
    for pieces in (2, 3, 5):
        grads, also = gradient(accumulate, pieces)
        torch.testing.assert_close(also, losses, rtol=1e-4, atol=1e-6)
        assert grads.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(grads[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()), msg=name)


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("kind", ["self", "checkpoint"])
def test_a_teacher_whose_term_weighs_nothing_is_not_asked(kind: str, pieces: int) -> None:
    """And nothing else changes, bit for bit."""
    results = []
    for asks in (True, False):
        accumulate = accumulator("per_frame", "nonblank", kind)
        teacher, asked = accumulate.teacher, []
        assert teacher
        accumulate.teacher = lambda *given, teacher=teacher, asked=asked: asked.append(given) or teacher(*given)
        if asks:
            accumulate._posteriors = lambda batch, outputs, weights, teacher=teacher: teacher(
                batch.features, batch.lengths, batch.cut_ids, outputs
            )
        torch.manual_seed(11)
        found = accumulate.in_pieces(*accumulate.masked(batch()), {**WEIGHTS, "kd": 0.0}, pieces, torch.Tensor.backward)
        gradients = {name: p.grad for name, p in accumulate.model.named_parameters() if p.grad is not None}
        results.append((found, gradients, torch.rand(1)))
        assert asked == []
    torch.testing.assert_close(results[0], results[1], rtol=0.0, atol=0.0)


@pytest.mark.parametrize("pieces", [1, 2])
def test_a_separate_teacher_sees_one_of_two_views(pieces: int) -> None:
    """And teaches both: what it gives of each by itself, which has no masks either."""
    results = []
    for asked_for_all in (False, True):
        accumulate = accumulator("per_frame", "nonblank", "checkpoint")
        accumulate.augment.views = 2
        teacher, asked = accumulate.teacher, []
        assert teacher
        accumulate.teacher = lambda *given, teacher=teacher, asked=asked: asked.append(given[2]) or teacher(*given)
        if asked_for_all:
            accumulate._posteriors = lambda part, outputs, weights, ask=accumulate.teacher: ask(
                part.features, part.lengths, part.cut_ids, outputs
            )
        results.append(gradient(accumulate, pieces))
        ids = [name for given in asked for name in given]
        times = (1 if pieces == 1 else 2) * (2 if asked_for_all else 1)  # in pieces, the frames are counted before
        assert sorted(ids) == sorted("abcde" * times)
    torch.testing.assert_close(results[0], results[1])


def cuda_refuses() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate much")


def allocator_refuses() -> torch.Tensor:
    return torch.empty(1 << 50)


def numpy_refuses() -> np.ndarray:
    return np.empty(1 << 50, dtype=np.uint8)


def with_little_memory(accumulate: Accumulator, most: int, refuse: Callable[[], Any] = cuda_refuses) -> list[int]:
    """Let the encoder fail on more than `most` frames, padding counted; returns the sizes that it was asked for."""
    asked: list[int] = []

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        asked.append(inputs[0].size(0) * inputs[0].size(1))
        if asked[-1] > most:
            refuse()

    accumulate.model.register_forward_pre_hook(check)
    return asked


@pytest.mark.parametrize("refuse", [cuda_refuses, allocator_refuses, numpy_refuses])
def test_a_batch_that_does_not_fit_is_split_again_and_again(
    refuse: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = gradient(accumulator("per_label", "all", "self"), 1)
    accumulate = accumulator("per_label", "all", "self")
    asked = with_little_memory(accumulate, 100, refuse)
    torch.manual_seed(11)
    accumulate(batch(), WEIGHTS)
    assert asked[0] == 5 * 80 and asked[-5:] == list(FRAMES), "whole, in two, in four, and each utterance alone"
    for name, parameter in accumulate.model.named_parameters():
        if name in whole:
            torch.testing.assert_close(
                parameter.grad, whole[name], rtol=1e-3, atol=1e-4 * float(whole[name].abs().max()), msg=name
            )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0].endswith("set data.max_duration=2; now in 2 pieces")


def test_without_leave_to_split_it_is_one_line() -> None:
    accumulate = accumulator("per_label", "all", "self", split=False)
    with_little_memory(accumulate, 100)
    with pytest.raises(
        UserError,
        match=r"out of memory on a batch of 5 cuts and 4.0 s .*set data.max_duration=2, "
        "train.accumulate=2, or, in one process, train.split_on_oom=true",
    ):
        accumulate(batch(), WEIGHTS)
    alone = accumulator("per_label", "all", "self")
    with_little_memory(alone, 10)
    with pytest.raises(UserError, match="not even one by one"):
        alone(batch(), WEIGHTS)


def test_other_errors_are_no_lack_of_memory() -> None:
    accumulate = accumulator("per_label", "all", "self")
    accumulate.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        accumulate(batch(), WEIGHTS)
