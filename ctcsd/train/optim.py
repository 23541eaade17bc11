"""AdamW with a linear warm-up and a cosine decay."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ctcsd.config import TrainConfig


def make_optimizer(model: nn.Module, cfg: TrainConfig, total_steps: int) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Weight decay falls on matrices and kernels only, not on biases and norms (the usual split)."""
    decay = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    rest = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": cfg.weight_decay}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=cfg.lr, betas=(0.9, 0.98), fused=True)
    return optimizer, LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, cfg.warmup, cfg.final_lr))


def lr_factor(step: int, total_steps: int, warmup: float, final: float) -> float:
    """Share of the peak learning rate at a step counted from 0."""
    rise = max(1.0, warmup * total_steps)
    if step < rise:
        return (step + 1) / rise
    progress = min(1.0, (step - rise) / max(1.0, total_steps - rise))
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
