"""From a configuration to the parts of a method; every wish that does not fit together is refused here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ctcsd.config import CONFORMER, Config, method_name
from ctcsd.decode.search import METHODS
from ctcsd.distill import Objective
from ctcsd.distill.teacher import OWN, SEPARATE, TEACHERS
from ctcsd.errors import UserError

PRECISIONS = ("auto", "32", "bf16", "fp16")
STRATEGIES = ("auto", "ddp")


def make_objective(cfg: Config) -> Objective:
    """The objective of a method, once its choices are checked against each other.

    Raises:
        UserError: a weight on a distillation term without a teacher, a teacher without such a weight, an exit outside
            the encoder, or a misspelt choice.
    """
    distill = cfg.distill
    layers = cfg.model.layers
    if not cfg.model.exits:
        raise UserError("model.exits names no exit: for instance {student: 4}")
    for name, layer in cfg.model.exits.items():
        if not 1 <= layer <= layers:
            raise UserError(f"exit '{name}' at layer {layer}, but the encoder has layers 1 to {layers}")
    objective = Objective(
        cfg.weights, cfg.model.exits, distill.frames, distill.match, distill.temperature, distill.reduction
    )
    wants_kd = objective.schedule.base["kd"] > 0
    if wants_kd and distill.teacher is None:
        raise UserError(f"weights.kd is above 0, but distill.teacher names nobody: {', '.join(TEACHERS)}")
    if distill.teacher is not None and not wants_kd:
        raise UserError(f"distill.teacher is {distill.teacher}, but weights.kd is 0")
    if distill.teacher in OWN and OWN[distill.teacher][1] and cfg.augment.views != 2:
        raise UserError(f"distill.teacher: {distill.teacher} needs two views: set augment.views=2")
    return objective


def check(cfg: Config) -> None:
    """Find what would only fail hours later.

    Raises:
        UserError: as `make_objective`, or a value out of its range.
    """
    try:
        _check(cfg)
    except UserError as error:
        raise UserError(f"{cfg.method}: {error}") from None


def _check(cfg: Config) -> None:
    make_objective(cfg)
    train = cfg.train
    positive = {
        "train.epochs": train.epochs,
        "train.average": train.average,
        "train.evaluate_every": train.evaluate_every,
        "train.devices": train.devices,
        "train.nodes": train.nodes,
        "train.accumulate": train.accumulate,
        "augment.views": cfg.augment.views,
        "model.dim": cfg.model.dim,
        "model.pool": cfg.model.pool,
        "model.mask_width": cfg.model.mask_width,
        "data.num_buckets": cfg.data.num_buckets,
        "data.streams": cfg.data.streams,
    }
    for key, value in positive.items():
        if value < 1:
            raise UserError(f"{key}={value}: at least 1 is needed")
    if train.evaluate_every > cfg.passes:
        raise UserError(f"train.evaluate_every={train.evaluate_every} is more than the {cfg.passes} passes of training")
    if cfg.data.shar and cfg.data.streams < (processes := train.devices * train.nodes):
        raise UserError(f"data.streams={cfg.data.streams} cannot feed {processes} processes: set it to {processes}")
    if train.strategy not in STRATEGIES:
        raise UserError(f"no strategy '{train.strategy}'; known: {', '.join(STRATEGIES)}")
    if train.precision not in PRECISIONS:
        raise UserError(f"no precision '{train.precision}'; known: {', '.join(PRECISIONS)}")
    wanted = "fbank" if cfg.model.backbone == CONFORMER else "wave"
    if cfg.features.type != wanted:
        raise UserError(f"model.backbone={cfg.model.backbone} reads features.type={wanted}, not {cfg.features.type}")
    for key, share in (("model.freeze_steps", cfg.model.freeze_steps), ("model.mask_prob", cfg.model.mask_prob)):
        if not 0 <= share < 1:
            raise UserError(f"{key}={share} is a share: at least 0, below 1")
    for key, methods in (("methods", cfg.decode.methods), ("per_method", cfg.decode.per_method)):
        for method in methods:
            if method not in METHODS:
                raise UserError(f"no search method '{method}' (decode.{key}); known: {', '.join(METHODS)}")
            cfg.decode.of(method)


def resolve_depends(cfg: Config, run_dir: Path) -> None:
    """Point a method at the run that it depends on: the run of the same seed beside it, exp/<method>/seed<n>.

    It is the separate teacher where the method has one and names no other; else the encoder starts from it.

    Raises:
        UserError: that run is not trained.
    """
    if cfg.depends is None or (cfg.distill.teacher in SEPARATE and (cfg.distill.checkpoint or cfg.distill.archive)):
        return
    found = run_dir.parent.parent / method_name(cfg.depends) / run_dir.name
    if not (found / "train.json").is_file():
        raise UserError(f"{cfg.method} depends on {cfg.depends}, which is not trained at {found}: train it first")
    if cfg.distill.teacher in SEPARATE:
        cfg.distill.checkpoint = str(found)
    else:
        cfg.init_from = str(found)


def with_dependencies(methods: Sequence[str], configuration: Callable[[str], Config]) -> dict[str, Config]:
    """Methods and their configurations, each after the one that it depends on.

    Raises:
        UserError: methods that depend on each other in a circle, or two of one name, which would share a folder.
    """
    ordered: dict[str, Config] = {}

    def visit(method: str, above: tuple[str, ...]) -> None:
        if method in above:
            raise UserError(f"methods that depend on each other: {' -> '.join((*above, method))}")
        if method in ordered:
            return
        cfg = configuration(method)
        if cfg.depends is not None:
            visit(cfg.depends, (*above, method))
        if cfg.method in (other.method for other in ordered.values()):
            raise UserError(f"two methods are called '{cfg.method}', and would share a folder")
        ordered[method] = cfg

    for method in methods:
        visit(method, ())
    return ordered
