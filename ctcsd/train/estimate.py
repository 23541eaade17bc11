"""What a training will cost, from the sizes of its models: parameters, arithmetic, GPU hours, memory.

Norms, activations and losses are left out, a few percent. A backward pass costs two forward passes of what learns, and
checkpointed layers go forward once more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ctcsd.config import Config, load_config
from ctcsd.data.features import copied_speeds
from ctcsd.model import EncoderCtc, make_model
from ctcsd.train.checkpoint import CONFIG_FILE

SECONDS = 12.0  # of an utterance, on which the cost of attention depends; LibriSpeech's mean
TOKENS = {"char": 32, "phone": 80}  # of a lang.unit, before there is a lang dir
OPTIMIZER_BYTES = 16  # per parameter that learns: weight, gradient and AdamW's two moments in float32
WHOLE_BYTES = 8  # weight and gradient


class Cost(NamedTuple):
    """A row: parameters by exit, GFLOP per hour of audio that goes through once, GPU hours of the training and of a
    pass over its audio that goes forward only, as one that makes an archive does, GiB."""

    parameters: dict[str, int]
    gflop_per_hour: float
    gpu_hours: float
    forward_hours: float
    memory_gib: float


def estimate(cfg: Config, configuration: Callable[[str], Config], hours: float, tflops: float, mfu: float) -> Cost:
    """The cost of training a method.

    Args:
        configuration: of the method that cfg depends on, by name.
        hours: of training audio, before speed perturbation.
        tflops: what the GPU does at best, in 10^12 operations per second.
        mfu: the share of it that a training reaches.

    Raises:
        UserError: a model that cannot be built.
    """
    model, views = sizes(cfg), cfg.augment.views
    flops = model.forward_flops(SECONDS)
    frozen_front = model.input_type == "wave" and cfg.model.freeze_feature_encoder
    learns = flops.encoder + (0.0 if frozen_front else flops.front)
    backward = (2.0 + cfg.model.gradient_checkpointing) * learns * (1.0 - cfg.model.freeze_steps)
    per_utterance = flops.front + flops.encoder + backward
    memory = _parameter_bytes(cfg, model) + model.activation_bytes(_share_seconds(cfg) * views)
    teacher = _live_teacher(cfg, configuration)
    if teacher is not None:
        per_utterance += sum(teacher.forward_flops(SECONDS))
        memory += 4 * teacher.num_parameters()
    per_hour = per_utterance * 3600.0 / SECONDS
    epoch = epoch_hours(cfg, hours) / (tflops * 1e12 * mfu) / 3600.0  # GPU hours of one operation per audio-hour
    forward = (flops.front + flops.encoder) * 3600.0 / SECONDS
    parameters = {name: sizes(cfg, name).num_parameters() for name in model.exits}
    gpu_hours = per_hour * epoch * cfg.passes * views
    return Cost(parameters, per_hour / 1e9, gpu_hours, forward * epoch, memory / 2**30)


def _parameter_bytes(cfg: Config, model: EncoderCtc) -> float:
    """What a process keeps of the parameters; where they are dealt out, also those that are whole at a time."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    held = OPTIMIZER_BYTES * trained + 4.0 * (model.num_parameters() - trained)
    if cfg.train.strategy != "fsdp":
        return held
    blocks = [sum(p.numel() for p in block.parameters()) for block in model.blocks]
    outside = model.num_parameters() - sum(blocks)
    at_a_time = outside + 2 * max(blocks)  # one block computes, and the next one arrives
    return held / (cfg.train.devices * cfg.train.nodes) + WHOLE_BYTES * at_a_time


def _share_seconds(cfg: Config) -> float:
    """Of a batch, what goes through a process at a time: its share, but no less than the longest utterance."""
    shares = cfg.train.devices * cfg.train.nodes * cfg.train.accumulate
    return max(cfg.data.max_duration / shares, cfg.data.max_seconds)


def epoch_hours(cfg: Config, hours: float) -> float:
    """Hours of audio in an epoch: what there is, and stage 1's copies of it at other speeds."""
    return hours * (1.0 + sum(1.0 / speed for speed in copied_speeds(cfg)))


def sizes(cfg: Config, exit: str | None = None) -> EncoderCtc:
    """The model of a configuration, or of it up to an exit, without memory for its parameters."""
    tokens = cfg.model.vocab_size or TOKENS.get(cfg.lang.unit, cfg.lang.vocab_size)
    wanted = cfg.model.replace(vocab_size=tokens, num_mel_bins=cfg.features.num_mel_bins)
    with torch.device("meta"):
        model = make_model(wanted, pretrained=False)
        return model if exit is None else model.alone(exit)


def _live_teacher(cfg: Config, configuration: Callable[[str], Config]) -> EncoderCtc | None:
    """The separate model that runs beside the training, where there is one."""
    if cfg.distill.teacher != "checkpoint":
        return None
    if cfg.distill.checkpoint:
        return sizes(load_config([Path(cfg.distill.checkpoint) / CONFIG_FILE]))
    return sizes(configuration(cfg.depends)) if cfg.depends else None
