"""Tiny checkpoints of Hugging Face speech encoders, in the hub's layout, with weights as if trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,  # with fewer than 16 channels each, oneDNN 3.12 is wrong in bf16 on AMX
}
LARGE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "hubert": (transformers.HubertConfig, {}),
    "hubert-large": (transformers.HubertConfig, {**LARGE, "conv_bias": True}),
    "wavlm": (transformers.WavLMConfig, {}),
    "wavlm-large": (transformers.WavLMConfig, LARGE),
    "wav2vec2": (transformers.Wav2Vec2Config, {}),
    "wav2vec2-large": (transformers.Wav2Vec2Config, LARGE),
    "data2vec-audio": (transformers.Data2VecAudioConfig, {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
}


def write_backbone(folder: Path, kind: str, layers: int = 3, **preprocessor: Any) -> str:
    """A checkpoint of `layers` layers; returns the folder as model.backbone wants it."""
    torch.manual_seed(len(kind))
    made, changes = KINDS[kind]
    model = transformers.AutoModel.from_config(made(num_hidden_layers=layers, **{**SIZES, **changes}))
    with torch.no_grad():  # new ones have norms of ones and zeros, which would hide a norm that is left out
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    transformers.logging.disable_progress_bar()
    model.save_pretrained(folder)
    content = {"do_normalize": True, "sampling_rate": 16000, **preprocessor}
    (folder / "preprocessor_config.json").write_text(json.dumps(content))
    return str(folder)
