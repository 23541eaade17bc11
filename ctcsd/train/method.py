"""From a configuration to the parts of a method; every wish that does not fit together is refused here."""

from __future__ import annotations

from ctcsd.config import Config
from ctcsd.decode.search import METHODS
from ctcsd.distill import Objective
from ctcsd.errors import UserError

PRECISIONS = ("auto", "32", "bf16")


def make_objective(cfg: Config) -> Objective:
    """The objective of a method, once its choices are checked against each other.

    Raises:
        UserError: a weight on a distillation term without a teacher, a teacher without such a weight, an exit outside
            the encoder, or a misspelt choice.
    """
    distill = cfg.distill
    layers = cfg.model.layers
    for name, layer in cfg.model.exits.items():
        if not 1 <= layer <= layers:
            raise UserError(f"{cfg.method}: exit '{name}' at layer {layer}, but the encoder has layers 1 to {layers}")
    objective = Objective(
        cfg.weights, cfg.model.exits, distill.frames, distill.match, distill.temperature, distill.reduction
    )
    wants_kd = objective.schedule.base["kd"] > 0
    if wants_kd and distill.teacher is None:
        raise UserError(f"{cfg.method}: weights.kd is above 0, but distill.teacher names nobody: self or checkpoint")
    if distill.teacher is not None and not wants_kd:
        raise UserError(f"{cfg.method}: distill.teacher is {distill.teacher}, but weights.kd is 0")
    return objective


def check(cfg: Config) -> None:
    """Find what would only fail hours later.

    Raises:
        UserError: as `make_objective`, or a value out of its range.
    """
    make_objective(cfg)
    train = cfg.train
    positive = {
        "train.epochs": train.epochs,
        "train.average": train.average,
        "train.evaluate_every": train.evaluate_every,
        "model.dim": cfg.model.dim,
        "data.num_buckets": cfg.data.num_buckets,
    }
    for key, value in positive.items():
        if value < 1:
            raise UserError(f"{key}={value}: at least 1 is needed")
    if train.evaluate_every > train.epochs:
        raise UserError(f"train.evaluate_every={train.evaluate_every} is more than train.epochs={train.epochs}")
    if train.precision not in PRECISIONS:
        raise UserError(f"no precision '{train.precision}'; known: {', '.join(PRECISIONS)}")
    for method in cfg.decode.methods:
        if method not in METHODS:
            raise UserError(f"no search method '{method}' (decode.methods); known: {', '.join(METHODS)}")
