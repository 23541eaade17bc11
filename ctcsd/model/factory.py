"""The one place where models are built."""

from __future__ import annotations

from pathlib import Path

from ctcsd.config import CONFORMER, ModelConfig
from ctcsd.model.exits import EncoderCtc
from ctcsd.model.shared_encoder import SharedEncoderCtc


def make_model(cfg: ModelConfig, saved: Path | None = None, pretrained: bool = True) -> EncoderCtc:
    """The model of a configuration: new, or pretrained where `cfg.backbone` names a checkpoint.

    Args:
        saved: folder of a run with such a model: its description counts, and no weights are loaded, for they follow.
        pretrained: load the weights of the checkpoint.

    Raises:
        UserError: sizes that do not fit together, or a checkpoint that cannot be read.
    """
    if cfg.backbone == CONFORMER:
        return SharedEncoderCtc(cfg)
    from ctcsd.model.ssl import DESCRIPTION, SslCtc, read_description

    if saved is not None:
        return SslCtc(cfg, read_description(str(saved / DESCRIPTION)))
    return SslCtc(cfg, read_description(cfg.backbone), cfg.backbone if pretrained else None)
