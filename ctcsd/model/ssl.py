"""Encoders pretrained by self-supervision (HuBERT, WavLM, wav2vec 2.0, data2vec-audio), with CTC exits.

The layers are Hugging Face transformers' own. Exit l is what the checkpoint would give as its last hidden state if it
had l layers: the output of transformer layer l, behind the encoder's final layer norm where the checkpoint has one
(the 'stable layer norm' variants, the large models as a rule), which all exits share.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctcsd.config import ModelConfig
from ctcsd.errors import UserError, first_line
from ctcsd.model.exits import EncoderCtc, ExitOutput, Flops, multiply_adds
from ctcsd.model.padding import ValidGroupNorm, zero_padding
from ctcsd.model.subsampling import frame_mask, normalize_utterance

# WavLM's attention hands torch masks of two types: for transformers to mend.
warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask", category=UserWarning)

SAMPLE_RATE = 16000
MODEL_TYPES = ("hubert", "wavlm", "wav2vec2", "data2vec-audio")
PREPROCESSOR = "preprocessor_config.json"
DESCRIPTION = "backbone"  # the folder of a run that holds what the checkpoint was, in the layout of the hub
# Of a layer, per frame and dimension: the inputs of its products, norms and non-linearities, as 2205.05198 counts them
# but with fused attention; a checkpointed layer keeps its input only.
ACTIVATION_BYTES, CHECKPOINTED_BYTES = 34, 2


class Description(NamedTuple):
    """What a checkpoint is, without its weights: the configuration of transformers, and whether it wants each
    utterance at zero mean and unit variance."""

    config: Any
    do_normalize: bool


class Layers(nn.ModuleList):
    """Layers of which an encoder that iterates over them runs the first `depth` only."""

    depth: int | None = None

    def __iter__(self) -> Iterator[nn.Module]:
        return islice(super().__iter__(), self.depth)


class SslCtc(EncoderCtc):
    """A Hugging Face speech encoder over raw audio, with a CTC head at every exit.

    `forward` takes samples (N, S) at 16 kHz and their numbers (N,). A frame of the logits stands for 20 ms as a rule
    (by the checkpoint's strides), or for `cfg.pool` of these: their states are averaged before the heads.

    In training, spans of the feature encoder's output are replaced by the checkpoint's mask embedding (SpecAugment in
    time, as transformers does it): `cfg.mask_prob` and `cfg.mask_width`. Layers are never dropped, for an exit must be
    there in every step. Padding changes nothing, for no checkpoint: see `ctcsd.model.padding`.

    Args:
        cfg: of it count backbone, layers, exits, vocab_size, pool, mask_*, freeze_feature_encoder and
            gradient_checkpointing; the sizes are the checkpoint's.
        description: of the checkpoint.
        weights: the hub name or folder whose weights are taken; None: new ones.

    Raises:
        UserError: as EncoderCtc; more layers than the checkpoint has, or no weights there.
    """

    input_type = "wave"
    source_keys = ("backbone", "pool")

    def __init__(self, cfg: ModelConfig, description: Description, weights: str | None = None) -> None:
        super().__init__(cfg)
        if cfg.self_conditioned:
            raise UserError(f"model.self_conditioned is for the conformer: model.backbone={cfg.backbone} cannot")
        if cfg.layers > description.config.num_hidden_layers:
            raise UserError(
                f"model.layers={cfg.layers}, but {cfg.backbone} has {description.config.num_hidden_layers} layers"
            )
        self.description = description
        self.backbone = _new_backbone(_fitted(description.config, max(self.exits.values())), weights)
        config = self.backbone.config
        self.frame_shift = cfg.pool * prod(config.conv_stride) / SAMPLE_RATE
        self.heads = self._new_heads(config.hidden_size)
        self.final_norm = getattr(config, "do_stable_layer_norm", False)
        self.above_layers = ("backbone.encoder.layer_norm.",) if self.final_norm else ()
        encoder = self.backbone.encoder
        encoder.layers = Layers(encoder.layers)
        first = self.backbone.feature_extractor.conv_layers[0]
        if isinstance(first.layer_norm, nn.GroupNorm):
            first.layer_norm = ValidGroupNorm.replace(first.layer_norm)
        if cfg.freeze_feature_encoder:
            self.backbone.feature_extractor._freeze_parameters()
        if cfg.gradient_checkpointing:
            self.backbone.activation_checkpointing_enable({"use_reentrant": False})

    def forward(self, features: Tensor, lengths: Tensor, exits: Collection[str] | None = None) -> dict[str, ExitOutput]:
        wanted = {name: layer for name, layer in self.exits.items() if exits is None or name in exits}
        valid = frame_mask(lengths, features.size(1))
        if self.description.do_normalize:
            x = normalize_utterance(features[..., None], valid, eps=1e-7)[..., 0]
        else:
            x = features.masked_fill(~valid, 0.0)
        missing = max(self._shortest - x.size(1), 0)
        x, valid = F.pad(x, (0, missing)), F.pad(valid, (0, missing))
        frames = self._conv_frames(lengths)
        masked = self._spans(frames, self._conv_frames(x.size(1))) if self.training else None
        with self._states(wanted.values(), lengths, frames) as states:
            self.backbone(x, attention_mask=valid.long(), mask_time_indices=masked)
        return {
            name: ExitOutput(self.heads[name](self._pooled(states[layer])), frames // self.cfg.pool)
            for name, layer in wanted.items()
        }

    @contextmanager
    def _states(self, layers: Collection[int], lengths: Tensor, frames: Tensor) -> Iterator[dict[int, Tensor]]:
        """Inside, a run of the backbone ends at the highest of these layers and leaves their outputs (N, T, D)."""
        states: dict[int, Tensor] = {}
        encoder, extractor = self.backbone.encoder, self.backbone.feature_extractor

        def keep(layer: int) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                state = output[0] if isinstance(output, tuple) else output
                states[layer] = encoder.layer_norm(state) if self.final_norm else state

            return hook

        with ExitStack() as stack:
            for layer in set(layers):
                stack.callback(encoder.layers[layer - 1].register_forward_hook(keep(layer)).remove)
            if isinstance(extractor.conv_layers[0].layer_norm, ValidGroupNorm):
                extractor.conv_layers[0].layer_norm.lengths = self._conv_frames(lengths, 1).tolist()
            stack.enter_context(self._positions_without_padding(frames))
            encoder.layers.depth = max(layers)
            stack.callback(setattr, encoder.layers, "depth", None)
            yield states

    def _positions_without_padding(self, frames: Tensor) -> Any:
        layers = getattr(self.backbone.encoder.pos_conv_embed, "layers", None)
        if layers is None:
            return nullcontext()
        return zero_padding(layers, frames)

    def _spans(self, frames: Tensor, width: int) -> Tensor:
        """bool (N, T): masks of mask_width frames that begin anywhere, and cover mask_prob of the frames but for their
        overlaps, as transformers' `_compute_mask_indices`; here a mask's start is drawn for each frame by itself."""
        size = self.cfg.mask_width
        starts = torch.rand((len(frames), width), device=frames.device) < self.cfg.mask_prob / size
        reach = F.max_pool1d(F.pad(starts.float(), (size - 1, 0))[:, None], size, stride=1)[:, 0] > 0
        return reach & frame_mask(frames, width)

    def _pooled(self, x: Tensor) -> Tensor:
        """(N, T, D) -> (N, T // pool, D)."""
        pool, whole = self.cfg.pool, x.size(1) // self.cfg.pool
        return x if pool == 1 else x[:, : whole * pool].reshape(len(x), whole, pool, -1).mean(2)

    @property
    def blocks(self) -> Iterable[nn.Module]:
        return self.backbone.encoder.layers

    def frames(self, length: Any) -> Any:
        return self._conv_frames(length) // self.cfg.pool

    def _conv_frames(self, length: Any, layers: int | None = None) -> Any:
        """Frames behind the feature encoder's convolutions, or behind the first of them."""
        config = self.backbone.config
        for kernel, stride in list(zip(config.conv_kernel, config.conv_stride))[:layers]:
            length = (length - kernel) // stride + 1
        return length * (length > 0)

    @property
    def _shortest(self) -> int:
        """Samples of one frame of the logits."""
        samples = self.cfg.pool
        config = self.backbone.config
        for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride))):
            samples = (samples - 1) * stride + kernel
        return samples

    def forward_flops(self, seconds: float) -> Flops:
        config, length = self.backbone.config, int(SAMPLE_RATE * seconds)
        frames, front = length, 0
        for layer, kernel, stride in zip(
            self.backbone.feature_extractor.conv_layers, config.conv_kernel, config.conv_stride
        ):
            frames = (frames - kernel) // stride + 1
            front += frames * multiply_adds(layer)
        per_frame = multiply_adds(self.backbone.feature_projection, self.backbone.encoder)
        attention = 2 * frames * config.hidden_size * config.num_hidden_layers
        heads = self.frames(length) * multiply_adds(self.heads)
        return Flops(2.0 * front, 2.0 * (frames * (per_frame + attention) + heads))

    def activation_bytes(self, seconds: float) -> float:
        config = self.backbone.config
        per_frame = CHECKPOINTED_BYTES if self.cfg.gradient_checkpointing else ACTIVATION_BYTES
        frames = seconds * self.cfg.pool / self.frame_shift
        encoder = per_frame * config.hidden_size * config.num_hidden_layers * frames + self._logit_bytes(seconds)
        # Of the first convolution, which is by far the widest: what goes in and out of its norm and non-linearity.
        front = 3 * 2 * config.conv_dim[0] * seconds * SAMPLE_RATE / config.conv_stride[0]
        return max(front, encoder) if self.cfg.freeze_feature_encoder else 2 * front + encoder

    def alone(self, exit: str) -> SslCtc:
        depth = self.exits[exit]
        return SslCtc(self.cfg.replace(layers=depth, exits={exit: depth}), self.description)

    @property
    def _always_frozen(self) -> Collection[str]:
        if not self.cfg.freeze_feature_encoder:
            return ()
        return {f"backbone.feature_extractor.{k}" for k, _ in self.backbone.feature_extractor.named_parameters()}

    def save_description(self, run_dir: Path) -> None:
        folder = run_dir / DESCRIPTION
        folder.mkdir(exist_ok=True)
        self.description.config.save_pretrained(folder)
        content = {"do_normalize": self.description.do_normalize, "sampling_rate": SAMPLE_RATE}
        (folder / PREPROCESSOR).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_description(source: str) -> Description:
    """What the checkpoint of a hub name or a folder is.

    Raises:
        UserError: transformers is missing, nothing there, another kind of model, or another sampling rate than 16 kHz.
    """
    transformers = _transformers(source)
    from transformers.utils import cached_file

    try:
        config = transformers.AutoConfig.from_pretrained(source)
        path = cached_file(source, PREPROCESSOR, _raise_exceptions_for_missing_entries=False)
    except Exception as error:  # OSError, ValueError, and the hub's own
        raise UserError(f"model.backbone={source}: no checkpoint can be read: {first_line(error)}") from None
    if config.model_type not in MODEL_TYPES:
        raise UserError(f"model.backbone={source} is a {config.model_type}; known: {', '.join(MODEL_TYPES)}")
    wanted: dict[str, Any] = {}
    if path is not None:
        try:
            wanted = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: {first_line(error)}") from None
        if not isinstance(wanted, dict):
            raise UserError(f"{path}: no JSON object")
    rate = wanted.get("sampling_rate") or SAMPLE_RATE
    if rate != SAMPLE_RATE:
        raise UserError(f"model.backbone={source} wants audio at {rate} Hz, but all audio here is at {SAMPLE_RATE} Hz")
    return Description(config, bool(wanted.get("do_normalize", True)))


def _new_backbone(config: Any, weights: str | None) -> Any:
    transformers = _transformers(weights or "")
    if weights is None:
        return transformers.AutoModel.from_config(config)
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # layers above the highest exit are reported as unexpected
    transformers.logging.disable_progress_bar()
    try:
        load = transformers.AutoModel.from_pretrained
        backbone, found = load(weights, config=config, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # OSError, and classes of safetensors and torch
        raise UserError(f"model.backbone={weights}: no weights can be read: {first_line(error)}") from None
    finally:
        transformers.logging.set_verbosity(before)
    if any(name.startswith("lm_head.") for name in found["unexpected_keys"]):
        print(f"{weights} was fine-tuned with CTC: its head (lm_head) is left out, the heads here are new", flush=True)
    if missing := sorted(set(found["missing_keys"]) - {"masked_spec_embed"}):
        raise UserError(f"model.backbone={weights} lacks weights, such as {missing[0]}: {len(missing)} are missing")
    return backbone.train()  # as any new module: transformers hands it over in eval mode, in which Lightning leaves it


def _fitted(config: Any, layers: int) -> Any:
    """The configuration of the first `layers` layers, with a mask embedding, and without dropped layers and masks of
    transformers' own drawing."""
    changes = {"num_hidden_layers": layers, "layerdrop": 0.0, "add_adapter": False, "apply_spec_augment": True}
    changes |= {"mask_time_prob": config.mask_time_prob or 0.05, "mask_feature_prob": 0.0}
    return type(config).from_dict({**config.to_dict(), **changes})


def _transformers(source: str) -> Any:
    try:
        import transformers
    except ImportError:
        install = ".venv/bin/python -m pip install -c tools/constraints.txt transformers"
        raise UserError(f"model.backbone={source} needs transformers: {install}") from None
    return transformers
