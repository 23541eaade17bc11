"""AdamW with a linear warm-up and a cosine decay."""

from __future__ import annotations

import math
import re

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ctcsd.config import TrainConfig
from ctcsd.model.exits import HEADS, EncoderCtc

LAYER = re.compile(r"(?:backbone\.encoder\.)?layers\.(\d+)\.")  # the parameters of layer n + 1


def make_optimizer(model: EncoderCtc, cfg: TrainConfig, total_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Weight decay falls on matrices and kernels only, not on biases and norms (the usual split).

    The learning rate falls with the depth: lr at the heads and at a norm that all exits share, lr * layer_decay at the
    highest layer, and so on down to what comes before the first (as BERT-like models are fine-tuned, 1801.06146).
    """
    top, decay = max(model.exits.values()), cfg.weight_decay
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            below = 0 if cfg.layer_decay == 1.0 else _layers_above(name, model, top)
            groups.setdefault((below, parameter.ndim <= 1), []).append(parameter)
    settings = [
        {"params": groups[key], "lr": cfg.lr * cfg.layer_decay ** key[0], "weight_decay": 0.0 if key[1] else decay}
        for key in sorted(groups)
    ]
    optimizer = torch.optim.AdamW(settings, lr=cfg.lr, betas=(0.9, 0.98), fused=True)
    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, cfg.warmup, cfg.final_lr))


def _layers_above(name: str, model: EncoderCtc, top: int) -> int:
    """How deep a parameter lies below the heads: 0 there, 1 in the highest layer, `top` + 1 before the first."""
    if name.startswith((*HEADS, *model.above_layers)):
        return 0
    found = LAYER.match(name)
    return top - int(found[1]) if found else top + 1


def lr_factor(step: int, total_steps: int, warmup: float, final: float) -> float:
    """Share of the peak learning rate at a step counted from 0."""
    rise = max(1.0, warmup * total_steps)
    if step < rise:
        return min(1.0, (step + 1) / rise)
    progress = min(1.0, (step - rise) / max(1.0, total_steps - rise))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
