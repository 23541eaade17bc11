"""A tiny model and batch for the tests of the losses."""

from __future__ import annotations

import torch

from ctcsd.config import ModelConfig
from ctcsd.distill.objective import Labels
from ctcsd.model import SharedEncoderCtc

EXITS = {"student": 1, "teacher": 2}


def tiny_model(seed: int = 0, **changes) -> SharedEncoderCtc:
    torch.manual_seed(seed)
    cfg = ModelConfig(layers=2, dim=16, heads=2, conv_kernel=3, subsampling_channels=2, vocab_size=5, exits=EXITS)
    made = SharedEncoderCtc(cfg.replace(**changes))
    with torch.no_grad():  # as if trained: a fresh encoder's branches are all zero
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def features(seed: int = 0, frames=(40, 25, 33)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((len(frames), max(frames), 80), generator=generator), torch.tensor(frames)


IDS = ["a", "b", "c"]
LABELS = Labels(torch.tensor([[1, 2, 2], [3, 0, 0], [4, 1, 0]]), torch.tensor([3, 1, 2]))
