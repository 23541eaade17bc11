"""The arithmetic of a forward pass against torch's own count of what it does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from backbones import KINDS, write_backbone
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ctcsd.config import ModelConfig
from ctcsd.model import EncoderCtc, make_model

EXITS = {"student": 1, "teacher": 2}


def counted(model: EncoderCtc, features: torch.Tensor) -> int:
    """What goes through matrix products and convolutions, attention spelt out as such."""
    lengths = torch.tensor([features.size(1)])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(features, lengths)
    return counter.get_total_flops()


def test_conformer() -> None:
    cfg = ModelConfig(layers=2, dim=32, heads=4, conv_kernel=5, subsampling_channels=4, vocab_size=9, exits=EXITS)
    for changes in ({}, {"self_conditioned": True}):
        model = make_model(cfg.replace(**changes)).eval()
        assert sum(model.forward_flops(3.0)) == pytest.approx(counted(model, torch.randn(1, 300, 80)), rel=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_pretrained(tmp_path: Path, kind: str) -> None:
    folder = write_backbone(tmp_path / kind, kind, layers=2)
    model = make_model(ModelConfig(backbone=folder, layers=2, vocab_size=9, exits=EXITS)).eval()
    flops = model.forward_flops(3.0)
    assert flops.front + flops.encoder == pytest.approx(counted(model, torch.randn(1, 48000)), rel=0.02)
    assert 0 < flops.front < sum(flops)
