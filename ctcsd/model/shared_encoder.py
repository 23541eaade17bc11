"""One encoder, several CTC exits: the model of self-knowledge distillation (paper A, arXiv 2406.07909)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ctcsd.config import ModelConfig
from ctcsd.model.conformer import ConformerLayer, rotary_tables
from ctcsd.model.exits import EncoderCtc, ExitOutput, Flops, multiply_adds
from ctcsd.model.subsampling import ConvSubsampling, frame_mask, normalize_utterance, subsampled_length
from ctcsd.posteriors import FRAME_SHIFT

ACTIVATION_BYTES = 48  # of a layer, per frame and dimension: the inputs of its products, norms and non-linearities


class SharedEncoderCtc(EncoderCtc):
    """Conformer encoder over log-mel features with a CTC head at every exit."""

    input_type = "fbank"
    source_keys = ("backbone", "num_mel_bins", "subsampling_channels", "dim", "heads", "ff_mult", "conv_kernel")
    frame_shift = FRAME_SHIFT

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg)
        self.subsampling = ConvSubsampling(cfg.num_mel_bins, cfg.subsampling_channels, cfg.dim)
        self.layers = nn.ModuleList(
            ConformerLayer(cfg.dim, cfg.heads, cfg.ff_mult, cfg.conv_kernel, cfg.dropout)
            for _ in range(max(cfg.exits.values()))
        )
        self.heads = self._new_heads(cfg.dim)
        # What an exit says, fed back to the layers above it (self-conditioned CTC, 2104.02724); as zero at first.
        lower = list(self.exits)[:-1] if cfg.self_conditioned else []
        self.conditions = nn.ModuleDict({name: nn.Linear(cfg.vocab_size, cfg.dim, bias=False) for name in lower})
        for parameter in self.conditions.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, lengths: Tensor, exits: Collection[str] | None = None) -> dict[str, ExitOutput]:
        wanted = {name: layer for name, layer in self.exits.items() if exits is None or name in exits}
        x = normalize_utterance(features, frame_mask(lengths, features.size(1)))
        x, lengths = self.subsampling(x, lengths)
        valid = frame_mask(lengths, x.size(1))
        # An utterance of no frames attends to its padding: softmax over nothing would be NaN.
        mask = (valid | (lengths == 0)[:, None])[:, None, None, :]
        keep = valid[..., None].to(x.dtype)
        rotary = rotary_tables(x.size(1), self.cfg.dim, self.cfg.heads, x)
        if torch.is_autocast_enabled(x.device.type):
            x = x.float()  # a branch adds little to the sum at first, which bf16 may lose (docs/performance.md)
        outputs: dict[str, ExitOutput] = {}
        top = max(wanted.values())
        for index, layer in enumerate(self.layers[:top], start=1):
            x = layer(x, mask, keep, rotary)
            for name, at in self.exits.items():
                feeds_back = name in self.conditions and index < top
                if at != index or not (name in wanted or feeds_back):
                    continue
                logits = self.heads[name](x)
                if name in wanted:
                    outputs[name] = ExitOutput(logits, lengths)
                if feeds_back:
                    x = x + self.conditions[name](logits.softmax(-1))
        return outputs

    @property
    def blocks(self) -> Iterable[nn.Module]:
        return self.layers

    def frames(self, length: Any) -> Any:
        return subsampled_length(length)

    def forward_flops(self, seconds: float) -> Flops:
        frames, bins = int(100 * seconds), self.cfg.num_mel_bins
        quarters = subsampled_length(frames)
        pixels = ((frames + 1) // 2) * ((bins + 1) // 2), quarters * subsampled_length(bins)
        convs = (self.subsampling.conv1, self.subsampling.conv2)
        front = sum(size * multiply_adds(conv) for size, conv in zip(pixels, convs))
        per_frame = multiply_adds(self.subsampling.out, self.layers, self.heads, self.conditions)
        attention = 2 * quarters * self.cfg.dim * len(self.layers)
        return Flops(0.0, 2.0 * (front + quarters * (per_frame + attention)))

    def activation_bytes(self, seconds: float) -> float:
        per_frame = ACTIVATION_BYTES * self.cfg.dim * len(self.layers)
        return per_frame * seconds / self.frame_shift + self._logit_bytes(seconds)

    def alone(self, exit: str) -> SharedEncoderCtc:
        depth = self.exits[exit]
        lower = {name: at for name, at in self.exits.items() if self.cfg.self_conditioned and at < depth}
        return SharedEncoderCtc(self.cfg.replace(layers=depth, exits={**lower, exit: depth}))
