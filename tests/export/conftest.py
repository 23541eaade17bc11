"""A trained run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import tiny_model

from ctcsd.config import Config, save_config
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import save_model


@pytest.fixture
def run(tmp_path: Path, table: TokenTable) -> Path:
    """A trained run's folder, as far as an export looks at it."""
    folder = tmp_path / "run"
    folder.mkdir()
    model = tiny_model(vocab_size=len(table))
    save_config(Config(method="skd", model=model.cfg), folder / "config.yaml")
    (folder / "tokens.txt").write_text(table.text, encoding="utf-8")
    save_model(model, folder, table.fingerprint)
    return folder
