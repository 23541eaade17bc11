"""An exit as ONNX: ONNX Runtime gives what PyTorch gives, whatever the batch and its padding."""

from __future__ import annotations

import importlib
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from backbones import write_backbone
from tiny import features, tiny_model

from ctcsd.config import ModelConfig
from ctcsd.errors import UserError
from ctcsd.export import onnx_model
from ctcsd.export.onnx_model import check_exportable, export_onnx, quantize
from ctcsd.model import make_model


def log_probs(path: Path, x: torch.Tensor, lengths: torch.Tensor) -> list[np.ndarray]:
    """Of each utterance, by ONNX Runtime, its valid frames."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found, frames = session.run(["log_probs", "log_probs_len"], {"x": x.numpy(), "x_lens": lengths.numpy()})
    return [row[:length] for row, length in zip(found, frames.tolist())]


@pytest.mark.parametrize(("exit", "conditioned"), [("student", False), ("teacher", True)])
def test_it_gives_what_pytorch_gives(tmp_path: Path, exit: str, conditioned: bool) -> None:
    model = tiny_model(self_conditioned=conditioned, dim=64).truncate(exit).eval()
    path = tmp_path / "model.onnx"
    assert export_onnx(model, exit, path, {"exit": exit, "revision": "abc"}) < 1e-4
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"], "weights and all"
    assert {p.key: p.value for p in onnx.load(path).metadata_props}.items() >= {"exit": exit, "revision": "abc"}.items()
    x, lengths = features(frames=(97, 40, 25, 1))
    together = log_probs(path, x, lengths)
    with torch.inference_mode():
        logits, frames = model(x, lengths)[exit]
    for row, length, found in zip(logits.log_softmax(-1).numpy(), frames.tolist(), together):
        np.testing.assert_allclose(found, row[:length], atol=1e-4)
    for index, length in enumerate(lengths.tolist()):
        x[index, length:] = float("nan")
        (alone,) = log_probs(path, x[index : index + 1, :length], lengths[index : index + 1])
        np.testing.assert_allclose(together[index], alone, atol=1e-4)
    for found, padded in zip(together, log_probs(path, x, lengths)):
        np.testing.assert_allclose(found, padded, atol=1e-4)

    quantize(path, tmp_path / "small.onnx")
    kinds = Counter(node.op_type for node in onnx.load(tmp_path / "small.onnx").graph.node)
    assert kinds["MatMul"] == 2 * len(model.layers), "all products with weights are in 8 bits; attention has none"
    small = log_probs(tmp_path / "small.onnx", *features())
    for found, other in zip(log_probs(path, *features()), small):
        assert found.shape == other.shape and 0 < np.abs(found - other).max() < 0.5


def test_one_that_differs_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_model, "difference", lambda model, path: float("nan"))
    with pytest.raises(
        UserError, match="model.onnx: ONNX Runtime's log-probs are nan nats from PyTorch's: not written"
    ):
        export_onnx(tiny_model().truncate("student").eval(), "student", tmp_path / "model.onnx", {})
    assert not list(tmp_path.iterdir())


def test_what_has_no_onnx_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = ModelConfig(
        backbone=write_backbone(tmp_path / "hubert", "hubert"), layers=3, vocab_size=5, exits={"student": 2}
    )
    with pytest.raises(UserError, match="an encoder over the wave has no ONNX export"):
        check_exportable(make_model(cfg))

    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"No module named 'onnx'\): pip install 'ctcsd\[export\]'"):
        check_exportable(tiny_model())
