"""One exit alone in a folder is the student exit of the whole model, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from console import ctcsd
from safetensors.torch import load_file
from tiny import features

from ctcsd.config import ModelConfig
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import load_model


@pytest.mark.parametrize("exit", ["student", "teacher"])
def test_an_exit_alone(run: Path, tmp_path: Path, table: TokenTable, exit: str) -> None:
    out = tmp_path / "out" / exit
    done = ctcsd("export", "--run", run, "--exit", exit, "--out", out)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "config.yaml", "tokens.txt"}
    alone, cfg = load_model(out, table.fingerprint)
    whole = load_model(run)[0]
    assert list(alone.exits) == [exit] and isinstance(cfg.model, ModelConfig)
    assert any(name.startswith("layers.1.") for name in load_file(out / "model.safetensors")) == (exit == "teacher")
    with torch.inference_mode():
        assert alone(*features())[exit].logits.equal(whole(*features())[exit].logits)
    again = ctcsd("export", "--run", run, "--exit", exit, "--out", out)
    assert again.returncode == 1 and f"{out} is not empty" in again.stderr


def test_what_cannot_be_exported(run: Path, tmp_path: Path) -> None:
    done = ctcsd("export", "--run", run, "--exit", "middle", "--out", tmp_path / "out")
    assert done.returncode == 1 and "no exit 'middle' in this model" in done.stderr and not (tmp_path / "out").exists()
    done = ctcsd("export", "--run", tmp_path / "nowhere", "--exit", "student", "--out", tmp_path / "out")
    assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1
