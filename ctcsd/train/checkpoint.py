"""Model files for exchange (safetensors and YAML, no pickled code), and the average of checkpoints."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from ctcsd.config import Config, load_config
from ctcsd.errors import UserError, first_line
from ctcsd.files import replacing
from ctcsd.model import EncoderCtc, make_model
from ctcsd.train.resume import damage

MODEL_FILE, CONFIG_FILE = "model.safetensors", "config.yaml"
METADATA = "ctcsd"  # the entry of a model file's header


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a training checkpoint whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with replacing(path) as partial, partial.open("wb") as out:
                torch.save(checkpoint, out)
        except RuntimeError as error:  # torch's own word for a full disk, over the system's
            why = getattr(error.__context__, "strerror", None) or first_line(error)
            raise UserError(f"cannot write {path}: {why}; the one before is intact") from None


def save_model(
    model: EncoderCtc, run_dir: Path, fingerprint: str, state: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write `model.safetensors`; its header carries the fingerprint of the token table, the sizes, and a checksum.

    A pretrained encoder's description lies beside it, in `backbone/`, so that loading needs no hub.

    Args:
        state: the model's whole tensors, where it has only its share of them.
    """
    model.save_description(run_dir)
    tensors = {name: value.detach().cpu().contiguous() for name, value in (state or model.state_dict()).items()}
    made = {"tokens": fingerprint, "model": dataclasses.asdict(model.cfg)}
    made["sha256"] = _digest(tensors, made)
    try:
        with replacing(run_dir / MODEL_FILE) as partial:  # safetensors writes several entries in a random order
            save_file(tensors, partial, metadata={METADATA: json.dumps(made, sort_keys=True)})
    except SafetensorError as error:  # a full disk among them
        raise UserError(f"cannot write {run_dir / MODEL_FILE}: {error}") from None


def load_model(run_dir: Path, fingerprint: str | None = None) -> tuple[EncoderCtc, Config]:
    """The model of a finished run, in eval mode, and its configuration.

    Raises:
        UserError: the run is not finished, its files are damaged or do not belong together, or its token table is not
            `fingerprint`'s.
    """
    path = run_dir / MODEL_FILE
    if not path.is_file():
        raise UserError(f"no trained model at {path}: run stage 3")
    cfg = load_config([run_dir / CONFIG_FILE])
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata() or {}
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: damaged ({first_line(error)})") from None
    if metadata.get("format") == "ctcsd-1":  # before there were checksums
        made: dict[str, Any] = {"tokens": metadata.get("tokens")}
    else:
        made = _checked(path, tensors, metadata, cfg)
    if fingerprint is not None and made["tokens"] != fingerprint:
        raise UserError(f"{path} was trained with another token table than the lang dir's: use its own, or train again")
    model = make_model(cfg.model, run_dir)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{path}: not of {CONFIG_FILE}'s sizes ({first_line(error)})") from None
    return model.eval(), cfg


def _checked(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str], cfg: Config
) -> dict[str, Any]:
    """What a model file says of itself; raises UserError where it is damaged or belongs to another configuration."""
    try:
        made = json.loads(metadata[METADATA])
        whole = made.pop("sha256") == _digest(tensors, made)
    except (KeyError, ValueError):
        whole = False
    if not whole:
        raise UserError(f"{path}: damaged (wrong checksum)")
    for key, trained in made["model"].items():
        if getattr(cfg.model, key, trained) != trained:
            raise UserError(f"{path} was trained with model.{key}={trained}, unlike {path.with_name(CONFIG_FILE)}")
    return made


def _digest(tensors: Mapping[str, torch.Tensor], made: Mapping[str, Any]) -> str:
    """SHA-256 over what a model file says of itself and the tensors, by name."""
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def by_dev_error(checkpoints: Iterable[Path]) -> list[Path]:
    """`epoch*-cer*.ckpt` from the lowest dev error to the highest; of equals the earliest first."""
    return sorted(checkpoints, key=lambda path: (float(path.stem.split("-cer")[1]), path.name))


def average_checkpoints(paths: Sequence[Path], prefix: str = "model.") -> dict[str, torch.Tensor]:
    """The mean of the parameters under `prefix` of several training checkpoints; raises UserError at a damaged one."""
    total: dict[str, torch.Tensor] = {}
    for path in paths:
        if reason := damage(path):
            raise UserError(f"{path} is damaged ({reason}): delete it and run stage 3 again")
        state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
        for name, value in state.items():
            if name.startswith(prefix):
                key = name[len(prefix) :]
                total[key] = total[key] + value.double() if key in total else value.double()
    return {name: (value / len(paths)).float() for name, value in total.items()}
