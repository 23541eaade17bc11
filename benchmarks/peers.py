"""The encoders of other toolkits, of our sizes."""

from __future__ import annotations

import torchaudio
from torch import Tensor, nn

from ctcsd.config import ModelConfig
from ctcsd.model.subsampling import ConvSubsampling, frame_mask, normalize_utterance


class Torchaudio(nn.Module):
    """torchaudio.models.Conformer."""

    packages = ()

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        ff = cfg.ff_mult * cfg.dim
        self.encoder = torchaudio.models.Conformer(cfg.dim, cfg.heads, ff, cfg.layers, cfg.conv_kernel, cfg.dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.encoder(x, lengths)[0]


class SpeechBrain(nn.Module):
    """SpeechBrain's ConformerEncoder, with its relative positions."""

    packages = ("speechbrain", "hyperpyyaml", "ruamel.yaml")

    def __init__(self, cfg: ModelConfig) -> None:
        from speechbrain.lobes.models.transformer.Conformer import ConformerEncoder
        from speechbrain.nnet.attention import RelPosEncXL

        super().__init__()
        self.positions = RelPosEncXL(cfg.dim)
        sizes = (cfg.layers, cfg.dim, cfg.ff_mult * cfg.dim, cfg.heads, cfg.conv_kernel)
        self.encoder = ConformerEncoder(*sizes, dropout=cfg.dropout)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        padding = ~frame_mask(lengths, x.size(1))
        return self.encoder(x, src_key_padding_mask=padding, pos_embs=self.positions(x))[0]


class Espnet(nn.Module):
    """ESPnet's ConformerEncoder, macaron style with relative positions, as its recipes set it."""

    packages = ("espnet", "typeguard")

    def __init__(self, cfg: ModelConfig) -> None:
        from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

        super().__init__()
        self.encoder = ConformerEncoder(
            input_size=cfg.dim,
            output_size=cfg.dim,
            attention_heads=cfg.heads,
            linear_units=cfg.ff_mult * cfg.dim,
            num_blocks=cfg.layers,
            dropout_rate=cfg.dropout,
            positional_dropout_rate=cfg.dropout,
            attention_dropout_rate=cfg.dropout,
            input_layer=None,
            macaron_style=True,
            rel_pos_type="latest",
            pos_enc_layer_type="rel_pos",
            selfattention_layer_type="rel_selfattn",
            cnn_module_kernel=cfg.conv_kernel,
        )

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.encoder(x, lengths)[0]


ENCODERS: dict[str, type[Torchaudio | SpeechBrain | Espnet]] = {
    "torchaudio": Torchaudio,
    "speechbrain": SpeechBrain,
    "espnet": Espnet,
}


class PeerCtc(nn.Module):
    """Another toolkit's Conformer layers behind our normalisation, subsampling and CTC head."""

    def __init__(self, cfg: ModelConfig, encoder: nn.Module) -> None:
        super().__init__()
        self.front = ConvSubsampling(cfg.num_mel_bins, cfg.subsampling_channels, cfg.dim)
        self.encoder = encoder
        self.head = nn.Linear(cfg.dim, cfg.vocab_size)
        self.exits = {"only": cfg.layers}  # the optimizer asks

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, mels) -> (N, T', V) logits and their lengths."""
        x, lengths = self.front(normalize_utterance(features, frame_mask(lengths, features.size(1))), lengths)
        return self.head(self.encoder(x, lengths)), lengths
