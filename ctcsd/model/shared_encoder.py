"""One encoder, several CTC exits: the model of self-knowledge distillation (paper A, arXiv 2406.07909)."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from torch import Tensor, nn

from ctcsd.config import ModelConfig
from ctcsd.errors import UserError
from ctcsd.model.conformer import ConformerLayer, rotary_tables
from ctcsd.model.subsampling import ConvSubsampling, frame_mask, normalize_utterance


class ExitOutput(NamedTuple):
    """What an exit gives: logits (N, T', V), not normalised, and lengths (N,) in encoder frames."""

    logits: Tensor
    lengths: Tensor


class SharedEncoderCtc(nn.Module):
    """Conformer encoder with a CTC head at every exit.

    `cfg.exits` maps an exit's name to its layer, counted from 1 (the output of layer l; the subsampling is not a
    layer). The model holds no layer above its highest exit.

    Raises:
        UserError: no exit, an exit outside 1..layers, or no vocabulary.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        if not cfg.exits:
            raise UserError("the model has no exit: set model.exits, for instance {student: 4, teacher: 8}")
        for name, layer in cfg.exits.items():
            if not 1 <= layer <= cfg.layers:
                raise UserError(f"exit '{name}' at layer {layer}, but the encoder has layers 1 to {cfg.layers}")
        if cfg.vocab_size < 2:
            raise UserError(f"model.vocab_size is {cfg.vocab_size}: blank and at least one token are needed")
        self.cfg = cfg
        self.exits: dict[str, int] = dict(sorted(cfg.exits.items(), key=lambda item: item[1]))
        self.subsampling = ConvSubsampling(cfg.num_mel_bins, cfg.subsampling_channels, cfg.dim)
        self.layers = nn.ModuleList(
            ConformerLayer(cfg.dim, cfg.heads, cfg.ff_mult, cfg.conv_kernel, cfg.dropout)
            for _ in range(max(cfg.exits.values()))
        )
        self.heads = nn.ModuleDict({name: nn.Linear(cfg.dim, cfg.vocab_size) for name in self.exits})
        # What an exit says, fed back to the layers above it (self-conditioned CTC, 2104.02724); as zero at first.
        lower = list(self.exits)[:-1] if cfg.self_conditioned else []
        self.conditions = nn.ModuleDict({name: nn.Linear(cfg.vocab_size, cfg.dim, bias=False) for name in lower})
        for parameter in self.conditions.parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor, lengths: Tensor, exits: Collection[str] | None = None) -> dict[str, ExitOutput]:
        """Features to logits at every exit, or at the named ones; no layer above the highest of them is computed.

        Args:
            features: (N, T, F) log-mel filterbank in natural log, padded with anything.
            lengths: (N,) int64, valid frames of each utterance.
            exits: names of the exits to compute; all when None.

        Returns:
            exit name -> ExitOutput, lowest exit first.
        """
        wanted = {name: layer for name, layer in self.exits.items() if exits is None or name in exits}
        x = normalize_utterance(features, frame_mask(lengths, features.size(1)))
        x, lengths = self.subsampling(x, lengths)
        valid = frame_mask(lengths, x.size(1))
        # An utterance of no frames attends to its padding: softmax over nothing would be NaN.
        mask = (valid | (lengths == 0)[:, None])[:, None, None, :]
        keep = valid[..., None].to(x.dtype)
        rotary = rotary_tables(x.size(1), self.cfg.dim // self.cfg.heads, x)
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

    def truncate(self, exit: str) -> SharedEncoderCtc:
        """The model that ends at `exit`: it shares no memory with this one and holds nothing above that exit.

        A self-conditioned model keeps its lower exits, which feed the layers above them.

        Raises:
            UserError: there is no such exit.
        """
        if exit not in self.exits:
            raise UserError(f"no exit '{exit}' in this model, which has: {', '.join(self.exits)}")
        depth = self.exits[exit]
        lower = {name: at for name, at in self.exits.items() if self.cfg.self_conditioned and at < depth}
        cut = SharedEncoderCtc(self.cfg.replace(layers=depth, exits={**lower, exit: depth}))
        wanted = cut.state_dict()
        cut.load_state_dict({key: value for key, value in self.state_dict().items() if key in wanted})
        return cut.to(next(self.parameters()).device).train(self.training)

    def num_parameters(self) -> int:
        """Number of trainable scalars."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)
