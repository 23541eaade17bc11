"""Model files for exchange (safetensors and YAML, no pickled code), and the average of checkpoints."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ctcsd.config import Config, load_config
from ctcsd.errors import UserError
from ctcsd.model import SharedEncoderCtc

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.yaml"


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a training checkpoint under a temporary name, flushes it, and renames it."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("wb") as out:
                torch.save(checkpoint, out)
                out.flush()
                os.fsync(out.fileno())
        except RuntimeError as error:  # torch's own word for a full disk
            partial.unlink(missing_ok=True)
            raise UserError(f"cannot write {path}: {str(error).splitlines()[0]}; the one before is intact") from None
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        partial.replace(path)


def save_model(model: SharedEncoderCtc, run_dir: Path, fingerprint: str) -> None:
    """Write `model.safetensors`; its header carries the fingerprint of the token table."""
    partial = run_dir / f".{MODEL_FILE}.partial"
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    try:
        save_file(tensors, partial, metadata={"format": "ctcsd-1", "tokens": fingerprint})
    except SafetensorError as error:  # a full disk among them
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {run_dir / MODEL_FILE}: {error}") from None
    partial.replace(run_dir / MODEL_FILE)


def load_model(run_dir: Path, fingerprint: str | None = None) -> tuple[SharedEncoderCtc, Config]:
    """The model of a finished run, in eval mode, and its configuration.

    Raises:
        UserError: the run is not finished, its files are damaged, or its token table is not `fingerprint`'s.
    """
    path = run_dir / MODEL_FILE
    if not path.is_file():
        raise UserError(f"no trained model at {path}: run stage 3")
    cfg = load_config([run_dir / CONFIG_FILE])
    model = SharedEncoderCtc(cfg.model)
    try:
        from safetensors import safe_open

        with safe_open(path, framework="pt") as opened:
            made_for = (opened.metadata() or {}).get("tokens")
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: damaged, or not of {CONFIG_FILE}'s sizes ({str(error).splitlines()[0]})") from None
    if fingerprint is not None and made_for != fingerprint:
        raise UserError(f"{path} was trained with another token table than the lang dir's: use its own, or train again")
    return model.eval(), cfg


def start_from(model: SharedEncoderCtc, run_dir: Path) -> int:
    """Copy the subsampling and the layers that both have from a finished run; heads stay new. Returns the layers.

    Raises:
        UserError: no finished run there, or an encoder of other sizes.
    """
    source = load_model(run_dir)[0]
    for key in ("num_mel_bins", "subsampling_channels", "dim", "heads", "ff_mult", "conv_kernel"):
        theirs, ours = getattr(source.cfg, key), getattr(model.cfg, key)
        if theirs != ours:
            raise UserError(f"the encoder of {run_dir} has model.{key}={theirs}, this one {ours}: no start from it")
    shared = min(len(model.layers), len(source.layers))
    model.subsampling.load_state_dict(source.subsampling.state_dict())
    for mine, other in zip(model.layers, source.layers):
        mine.load_state_dict(other.state_dict())
    return shared


def average_checkpoints(paths: Sequence[Path], prefix: str = "model.") -> dict[str, torch.Tensor]:
    """The mean of the parameters under `prefix` of several training checkpoints."""
    total: dict[str, torch.Tensor] = {}
    for path in paths:
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        for name, value in state.items():
            if name.startswith(prefix):
                key = name[len(prefix) :]
                total[key] = total[key] + value.double() if key in total else value.double()
    return {name: (value / len(paths)).float() for name, value in total.items()}
