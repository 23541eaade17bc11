"""The objective: CTC by brute force, weights over time, gradients that stop where they should, padding."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tiny import EXITS, LABELS, features, tiny_model

from ctcsd.config import Config, load_config, method_file
from ctcsd.data.feasibility import ctc_feasible
from ctcsd.distill import Objective, WeightSchedule, skd_alpha
from ctcsd.distill.ctc import ctc_loss, infeasible
from ctcsd.distill.teacher import OwnExit
from ctcsd.errors import UserError
from ctcsd.model import ExitOutput
from ctcsd.train.method import make_objective


def own_teacher(outputs: dict[str, ExitOutput]) -> ExitOutput:
    return OwnExit("teacher")(*features(), [], outputs)


def test_ctc_by_summing_over_all_paths() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 3, requires_grad=True)
    lengths, targets, target_lengths = torch.tensor([4, 3]), torch.tensor([[1, 1], [2, 0]]), torch.tensor([2, 1])
    loss, bad = ctc_loss(logits, lengths, targets, target_lengths)
    log_probs = logits.log_softmax(-1)
    wanted = torch.zeros(())
    for n in range(2):
        terms = []
        for path in itertools.product(range(3), repeat=int(lengths[n])):
            if [v for v, _ in itertools.groupby(path) if v] == targets[n, : target_lengths[n]].tolist():
                terms.append(sum(log_probs[n, t, v] for t, v in enumerate(path)))
        wanted = wanted - torch.stack(terms).logsumexp(0)
    torch.testing.assert_close(loss, wanted)
    assert bad == 0
    (grad,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (wanted_grad,) = torch.autograd.grad(wanted, logits)
    torch.testing.assert_close(grad, wanted_grad, atol=1e-5, rtol=1e-4)


def test_infeasible_utterances_are_counted_and_left_out() -> None:
    logits = torch.randn(2, 4, 3, requires_grad=True)
    loss, bad = ctc_loss(logits, torch.tensor([4, 2]), torch.tensor([[1, 2], [1, 1]]), torch.tensor([2, 2]))
    loss.backward()
    assert bad == 1
    assert torch.isfinite(loss)
    assert logits.grad[1].abs().max() == 0


def test_feasible_is_exact() -> None:
    for length in range(1, 5):
        for tokens in itertools.product((1, 2), repeat=length):
            shortest = next(
                n
                for n in range(1, 12)
                if any(
                    [v for v, _ in itertools.groupby(p) if v] == list(tokens)
                    for p in itertools.product(range(3), repeat=n)
                )
            )
            assert ctc_feasible(shortest, tokens) and not ctc_feasible(shortest - 1, tokens)
            padded = torch.tensor([[*tokens, 7, 7]])
            both = torch.tensor([shortest, shortest - 1])
            assert infeasible(both, padded.expand(2, -1), torch.tensor([length] * 2)).tolist() == [False, True]
    assert ctc_feasible(0, [])


@pytest.mark.parametrize(
    ("step", "total", "floor", "wanted"),
    [
        (1, 10, 0.3, 0.3),
        (10, 10, 0.3, 0.7),
        (5.5, 10, 0.3, 0.5),
        (1, 1, 0.3, 0.3),
        (1, 10, 0, 0),
        (10, 10, 0, 1),
        (3, 9, 0.5, 0.5),
    ],
)
def test_skd_alpha(step: float, total: float, floor: float, wanted: float) -> None:
    assert skd_alpha(step, total, floor) == pytest.approx(wanted)
    assert skd_alpha(step, total, floor, "cosine") == pytest.approx(wanted)


def test_skd_alpha_is_monotone_and_refuses_nonsense() -> None:
    for shape in ("linear", "cosine"):
        values = [skd_alpha(e, 20, 0.3, shape) for e in range(1, 21)]
        assert values == sorted(values) and min(values) == 0.3 and max(values) == 0.7
    with pytest.raises(UserError, match="between 0 and 0.5"):
        skd_alpha(1, 2, 0.6)
    with pytest.raises(UserError, match="no ramp of shape"):
        skd_alpha(1, 2, 0.3, "square")


def test_weights_over_time() -> None:
    ramp = WeightSchedule({"ramp": 0.3}, EXITS)
    assert ramp.at(1, 10, 0.0) == pytest.approx({"ctc_student": 0.3, "ctc_teacher": 0.7, "kd": 0.3})
    assert ramp.at(10, 10, 0.9) == pytest.approx({"ctc_student": 0.7, "ctc_teacher": 0.3, "kd": 0.7})
    third = WeightSchedule({"ramp": 0.3}, {**EXITS, "middle": 2}).at(1, 10, 0.0)
    assert third["ctc_middle"] == third["ctc_student"] == pytest.approx(0.3)
    step = WeightSchedule({"ramp": 0.0, "per": "step"}, EXITS)
    assert step.at(1, 10, 0.25) == pytest.approx({"ctc_student": 0.25, "ctc_teacher": 0.75, "kd": 0.25})
    constant = WeightSchedule({"ctc_student": 0.75, "kd": 0.25, "kd_warmup": 0.5}, EXITS)
    assert constant.at(1, 10, 0.25) == pytest.approx({"ctc_student": 0.75, "ctc_teacher": 0.0, "kd": 0.125})
    assert constant.at(9, 10, 0.8)["kd"] == 0.25
    late = WeightSchedule({"ctc_student": 1.0, "kd": 0.5, "kd_delay": 0.25, "kd_warmup": 0.5}, EXITS)
    assert [late.at(1, 10, at)["kd"] for at in (0.0, 0.24, 0.25, 0.5, 0.75, 1.0)] == [0.0, 0.0, 0.0, 0.25, 0.5, 0.5]
    abrupt = WeightSchedule({"ctc_student": 1.0, "kd": 0.5, "kd_delay": 0.25}, EXITS)
    assert [abrupt.at(1, 10, at)["kd"] for at in (0.0, 0.25, 1.0)] == [0.0, 0.5, 0.5]
    paper_b = WeightSchedule({"lambda": 0.25}, ["student"])
    assert paper_b.at(1, 10, 0.0) == {"ctc_student": 0.75, "kd": 0.25}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"kdd": 1.0}, "unknown key 'kdd'"),
        ({"kd": -1}, "0 or more"),
        ({}, "every weight is 0"),
        ({"ramp": 0.9}, "between 0 and 0.5"),
        ({"kd": 1, "kd_warmup": 2}, "shares of the training"),
        ({"kd": 1, "kd_warmup": 0.6, "kd_delay": 0.5}, "together 1 at most, not 0.5 and 0.6"),
        ({"ramp": 0.3, "per": "day"}, "epoch or step"),
        ({"lambda": 1.5}, "lambda must lie between 0 and 1, not 1.5"),
        ({"lambda": "much"}, "weights.lambda must be a number"),
        ({"lambda": 0.5, "kd": 1.0}, "take it or kd, not both"),
    ],
)
def test_bad_weights(weights: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        WeightSchedule(weights, EXITS)


def objective_of(method: str) -> tuple[Objective, Config]:
    cfg = load_config([method_file(method)], ["student_layers=1", "model.layers=2"])
    return make_objective(cfg), cfg


def test_skd_is_the_papers_formula() -> None:
    objective, cfg = objective_of("skd")
    assert cfg.model.exits == EXITS and cfg.distill.teacher == "self"
    outputs = tiny_model()(*features())
    weights = objective.schedule.at(3, 5, 0.5)
    alpha = weights["kd"]
    assert alpha == skd_alpha(3, 5, 0.3) == weights["ctc_student"] == 1 - weights["ctc_teacher"]
    loss, parts = objective(outputs, LABELS, own_teacher(outputs), weights)
    kd = torch.zeros(())
    p, q = (outputs[name].logits.log_softmax(-1) for name in ("teacher", "student"))
    for n, length in enumerate(outputs["student"].lengths.tolist()):
        for t in range(length):
            kd = kd + (p[n, t].exp() * (p[n, t] - q[n, t])).sum()
    ctc_teacher, _ = ctc_loss(*outputs["teacher"], *LABELS)
    ctc_student, _ = ctc_loss(*outputs["student"], *LABELS)
    wanted = ((1 - alpha) * ctc_teacher + alpha * (ctc_student + kd)) / 6
    torch.testing.assert_close(loss, wanted)
    assert parts["kd_frames"] == 1.0


def test_only_ctc_reaches_what_the_student_does_not_use() -> None:
    model = tiny_model()
    objective, _ = objective_of("skd")
    outputs = model(*features())
    teacher = own_teacher(outputs)
    loss, _ = objective(outputs, LABELS, teacher, {"ctc_student": 0.0, "ctc_teacher": 0.0, "kd": 1.0})
    loss.backward()
    assert all(p.grad is None for p in model.layers[1].parameters()), "the KD term does not move the teacher"
    assert all(p.grad is None for p in model.heads["teacher"].parameters())
    assert model.layers[0].ff1.up.weight.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)
    outputs = model(*features())
    loss, _ = objective(outputs, LABELS, None, {"ctc_student": 0.0, "ctc_teacher": 1.0, "kd": 0.0})
    loss.backward()
    assert model.layers[0].ff1.up.weight.grad.abs().sum() > 0, "shared layers learn from the teacher's CTC"


@pytest.mark.parametrize("reduction", ["per_label", "per_frame", "per_utterance", "hilmes"])
def test_padding_changes_neither_loss_nor_gradient(reduction: str) -> None:
    model = tiny_model()
    objective = Objective({"ramp": 0.3}, EXITS, "symmetric:1", "kl", 2.0, reduction)
    weights = objective.schedule.at(1, 2, 0.0)
    x, lengths = features()
    results = []
    for pad in (0, 23):
        wide = torch.full((3, x.size(1) + pad, 80), 1e3)
        for n, length in enumerate(lengths.tolist()):
            wide[n, :length] = x[n, :length]
        model.zero_grad()
        outputs = model(wide, lengths)
        loss, _ = objective(outputs, LABELS, own_teacher(outputs), weights)
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    for a, b in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


def test_without_ctc_no_transcript_is_needed() -> None:
    outputs = tiny_model()(*features())
    objective = Objective({"kd": 1.0}, EXITS, "symmetric:2", "kl", 2.0, "per_frame")
    assert not objective.needs_labels
    loss, _ = objective(outputs, None, own_teacher(outputs), objective.schedule.at(1, 2, 0.0))
    assert loss.item() > 0
    with pytest.raises(UserError, match="per_label needs transcripts"):
        Objective({"kd": 1.0}, EXITS)
    with pytest.raises(UserError, match="hilmes over all frames needs transcripts"):
        Objective({"kd": 1.0}, EXITS, "all", reduction="hilmes")
    Objective({"kd": 1.0}, EXITS, "symmetric:2", reduction="hilmes")  # per_frame, as the authors'


def test_a_temperature_is_positive() -> None:
    for temperature in (0.0, -1.0, math.nan):
        with pytest.raises(UserError, match="the temperature must be positive, not"):
            Objective({"kd": 1.0, "ctc_student": 1.0}, EXITS, temperature=temperature)


def test_hilmes_reduction_is_the_authors_formula() -> None:
    outputs = tiny_model()(*features())
    teacher = own_teacher(outputs)
    for frames in ("all", "nonblank", "symmetric:1"):
        objective = Objective({"kd": 0.25, "ctc_student": 0.75}, EXITS, frames, "kl", 2.0, "hilmes")
        loss, parts = objective(outputs, LABELS, teacher, objective.schedule.at(1, 2, 0.0))
        per_frame = Objective({"kd": 1.0}, EXITS, frames, "kl", 2.0, "per_frame")
        _, by_frame = per_frame(outputs, LABELS, teacher, per_frame.schedule.at(1, 2, 0.0))
        count = by_frame["kd_frames"] * outputs["student"].lengths.sum()
        wanted = by_frame["kd"] * count / 3 / 6 if frames == "all" else by_frame["kd"]
        torch.testing.assert_close(parts["kd"], wanted)
        ctc, _ = ctc_loss(*outputs["student"], *LABELS)
        torch.testing.assert_close(loss.detach(), (0.75 * ctc / 6 + 0.25 * parts["kd"]).detach())
