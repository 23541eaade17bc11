"""From a configuration to the parts of a method; every wish that does not fit together is refused here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from ctcsd.config import CONFORMER, Config, method_name
from ctcsd.decode.graphs import GRAPHS, TOPOLOGIES
from ctcsd.decode.run import search_options
from ctcsd.decode.search import METHODS
from ctcsd.distill import Objective
from ctcsd.distill.teacher import OWN, SEPARATE, TEACHERS
from ctcsd.errors import UserError
from ctcsd.model import SharedEncoderCtc
from ctcsd.text.lang import UNITS
from ctcsd.text.normalize import SCORING_RULES

PRECISIONS = ("auto", "32", "bf16", "fp16")
STRATEGIES = ("auto", "ddp", "fsdp")


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
    _check_ranges(cfg)
    if cfg.distill.frames.startswith("nonblank_prior") and train.accumulate > 1:
        raise UserError(f"distill.frames={cfg.distill.frames} takes the prior of whole batches: set train.accumulate=1")
    if train.evaluate_every > cfg.passes:
        raise UserError(f"train.evaluate_every={train.evaluate_every} is more than the {cfg.passes} passes of training")
    if cfg.data.shar and cfg.data.streams < (processes := train.devices * train.nodes):
        raise UserError(f"data.streams={cfg.data.streams} cannot feed {processes} processes: set it to {processes}")
    wanted = "fbank" if cfg.model.backbone == CONFORMER else "wave"
    if cfg.features.type != wanted:
        raise UserError(f"model.backbone={cfg.model.backbone} reads features.type={wanted}, not {cfg.features.type}")
    _check_choices(cfg)
    if cfg.model.backbone == CONFORMER:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):  # without memory: the sizes must fit each other
            SharedEncoderCtc(cfg.model.replace(vocab_size=2))
    for method in cfg.decode.per_method:
        if method not in METHODS:
            raise UserError(f"no search method '{method}' (decode.per_method); known: {', '.join(METHODS)}")
    for method in (*cfg.decode.methods, *cfg.decode.per_method):
        search_options(method, cfg.decode)


def _check_ranges(cfg: Config) -> None:
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
    for key, count in positive.items():
        if count < 1:
            raise UserError(f"{key}={count}: at least 1 is needed")
    for key, share in (
        ("model.freeze_steps", cfg.model.freeze_steps),
        ("model.mask_prob", cfg.model.mask_prob),
        ("model.dropout", cfg.model.dropout),
    ):
        if not 0 <= share < 1:
            raise UserError(f"{key}={share} is a share: at least 0, below 1")
    for key, value, low, high in (
        ("train.warmup", train.warmup, 0.0, 1.0),
        ("train.final_lr", train.final_lr, 0.0, 1.0),
        ("train.layer_decay", train.layer_decay, 1e-3, 1.0),
        ("train.weight_decay", train.weight_decay, 0.0, math.inf),
        ("train.clip", train.clip, 0.0, math.inf),
        ("augment.freq_masks", cfg.augment.freq_masks, 0, math.inf),
        ("augment.freq_width", cfg.augment.freq_width, 0, math.inf),
        ("augment.time_masks", cfg.augment.time_masks, 0, math.inf),
        ("augment.time_width", cfg.augment.time_width, 0, math.inf),
        ("augment.time_fraction", cfg.augment.time_fraction, 0.0, 1.0),
        ("data.workers", cfg.data.workers, 0, math.inf),
        ("data.keep_mib", cfg.data.keep_mib, 0, math.inf),
        ("distill.top_k", cfg.distill.top_k, 0, math.inf),
        ("train.threads", train.threads, 0, math.inf),
        ("data.max_duration", cfg.data.max_duration, 0.1, math.inf),
        *(("features.speeds", speed, 0.1, 10.0) for speed in cfg.features.speeds),
    ):
        if not low <= value <= high:
            raise UserError(f"{key}={value:g}: from {low:g} to {high:g} is wanted")
    if not train.lr > 0:
        raise UserError(f"train.lr={train.lr}: must be above 0")


def _check_choices(cfg: Config) -> None:
    for key, value, known in (
        ("distill.teacher", cfg.distill.teacher, (None, *TEACHERS)),
        ("lang.unit", cfg.lang.unit, UNITS),
        ("score.normalize", cfg.score.normalize, SCORING_RULES),
        ("decode.graph", cfg.decode.graph, GRAPHS),
        ("decode.topo", cfg.decode.topo, TOPOLOGIES),
        ("train.strategy", cfg.train.strategy, STRATEGIES),
        ("train.precision", cfg.train.precision, PRECISIONS),
    ):
        if value not in known:
            raise UserError(f"no {key} '{value}'; known: {', '.join(name for name in known if name)}")


def resolve_depends(cfg: Config, run_dir: Path) -> None:
    """Point a method at the run that it depends on: the run of the same seed beside it, exp/<method>/seed<n>.

    It is the separate teacher where the method has one and names no other; else the encoder starts from it, whatever
    `init_from` says.

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
        return
    if cfg.init_from and cfg.init_from != str(found):
        print(f"{cfg.method} starts from {found}, on which it depends, and not from init_from={cfg.init_from}")
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
