"""How the terms of the objective are weighed over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ctcsd.errors import UserError
from ctcsd.files import is_number

SHAPES = ("linear", "cosine")


def skd_alpha(step: float, total: float, floor: float = 0.3, shape: str = "linear") -> float:
    """The clamped ramp of paper A: min(max((step - 1) / (total - 1), floor), 1 - floor).

    step counts from 1 to total (epochs or optimizer steps); `cosine` bends the ramp before it is clamped.

    Raises:
        UserError: a floor outside [0, 0.5] or an unknown shape.
    """
    if not 0.0 <= floor <= 0.5:
        raise UserError(f"the floor of the ramp must lie between 0 and 0.5, not {floor}")
    if shape not in SHAPES:
        raise UserError(f"no ramp of shape '{shape}'; known: {', '.join(SHAPES)}")
    ramp = (step - 1) / (total - 1) if total > 1 else 0.0
    ramp = min(max(ramp, 0.0), 1.0)
    if shape == "cosine":
        ramp = 0.5 - 0.5 * math.cos(math.pi * ramp)
    return min(max(ramp, floor), 1.0 - floor)


class WeightSchedule:
    """Weights of the terms `ctc_<exit>` and `kd` at a point of the training.

    Constants: `{ctc_student: 0.75, kd: 0.25}`, or `{lambda: 0.25}` for the same. The ramp of paper A, `{ramp: 0.3}`,
    multiplies ctc_teacher by 1 - a and ctc_student and kd by a, where a = skd_alpha(floor = ramp), per epoch, or per
    step with `per: step`; constants beside it multiply the ramp (`{ramp: 0.3, kd: 0}` is InterCTC on the ramp).
    `kd_delay: d` keeps kd at 0 for the first share d of the training, and `kd_warmup: w` raises it linearly from 0 over
    the share w after that.

    Raises:
        UserError: an unknown key (the known ones are named), a negative weight, a lambda outside [0, 1] or beside what
            it stands for, or a ramp without both exits.
    """

    def __init__(self, weights: Mapping[str, Any], exits: Iterable[str]) -> None:
        exits = list(exits)
        terms = [f"ctc_{name}" for name in exits] + ["kd"]
        known = [*terms, "lambda", "ramp", "per", "shape", "kd_delay", "kd_warmup"]
        for key, value in weights.items():
            if key not in known:
                raise UserError(f"weights: unknown key '{key}'; known: {', '.join(known)}")
            if key in terms and (not is_number(value) or value < 0):
                raise UserError(f"weights.{key} must be a number, 0 or more, not {value!r}")
        for key in ("lambda", "ramp", "kd_delay", "kd_warmup"):
            if not is_number(weights.get(key, 0.0)):
                raise UserError(f"weights.{key} must be a number, not {weights[key]!r}")
        if "lambda" in weights:
            weights = _spell_out(weights)
        self.floor = weights.get("ramp")
        self.per = weights.get("per", "epoch")
        self.shape = weights.get("shape", "linear")
        self.kd_delay, self.kd_warmup = (float(weights.get(key, 0.0)) for key in ("kd_delay", "kd_warmup"))
        default = 0.0 if self.floor is None else 1.0
        self.base = {term: float(weights.get(term, default)) for term in terms}
        if self.per not in ("epoch", "step"):
            raise UserError(f"weights.per must be epoch or step, not {self.per!r}")
        if min(self.kd_delay, self.kd_warmup) < 0.0 or self.kd_delay + self.kd_warmup > 1.0:
            raise UserError(
                "weights.kd_delay and weights.kd_warmup are shares of the training, together 1 at most, not "
                f"{self.kd_delay:g} and {self.kd_warmup:g}"
            )
        if self.floor is not None:
            if not {"student", "teacher"} <= set(exits):
                raise UserError("weights.ramp needs the exits 'student' and 'teacher'")
            skd_alpha(1, 1, self.floor, self.shape)  # a bad floor or shape is found before the training
        if not any(self.base.values()):
            raise UserError(f"every weight is 0: set at least one of {', '.join(terms)}")

    @property
    def pauses(self) -> bool:
        """Whether the CTC term of an exit weighs nothing at some time: what only that exit uses learns nothing then."""
        return self.floor == 0 or not all(weight for term, weight in self.base.items() if term != "kd")

    def at(self, epoch: int, epochs: int, progress: float) -> dict[str, float]:
        """Weight of every term in epoch 1..epochs; progress in [0, 1] is the share of the training that is done.

        Under the ramp the CTC term of a third exit rises as the student's: every term but ctc_teacher does.
        """
        weights = dict(self.base)
        if self.floor is not None:
            step, total = (float(epoch), epochs) if self.per == "epoch" else (1.0 + progress, 2)
            alpha = skd_alpha(step, total, self.floor, self.shape)
            for term in weights:
                weights[term] *= 1.0 - alpha if term == "ctc_teacher" else alpha
        since = progress - self.kd_delay
        if since < 0.0:
            weights["kd"] = 0.0
        elif since < self.kd_warmup:
            weights["kd"] *= since / self.kd_warmup
        return weights


def _spell_out(weights: Mapping[str, Any]) -> dict[str, Any]:
    """lambda as the weights of paper B: lambda * L_KD + (1 - lambda) * L_CTC of the student."""
    rest = {key: value for key, value in weights.items() if key != "lambda"}
    share = float(weights["lambda"])
    if not 0.0 <= share <= 1.0:
        raise UserError(f"weights.lambda must lie between 0 and 1, not {share:g}")
    if clash := sorted({"kd", "ctc_student", "ramp"} & set(rest)):
        raise UserError(f"weights.lambda stands for kd and ctc_student: take it or {', '.join(clash)}, not both")
    return {**rest, "kd": share, "ctc_student": 1.0 - share}
