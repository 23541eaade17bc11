"""Shared by all tests; imports nothing that only one of the two interpreters has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.text.tokenizer import TokenTable


@pytest.fixture
def table() -> TokenTable:
    """Blank, space and three letters."""
    return TokenTable(["<blk>", "\u2581", "a", "b", "c"])


@pytest.fixture
def lang_dir(tmp_path: Path, table: TokenTable) -> Path:
    """A lang dir of that table."""
    folder = tmp_path / "lang"
    folder.mkdir()
    (folder / "tokens.txt").write_text(table.text, encoding="utf-8")
    return folder


@pytest.fixture
def make_archive(tmp_path: Path, table: TokenTable):
    """Write utterances (id, (T, V) log-probs) into an archive and open it."""

    def make(utterances: Sequence[tuple[str, np.ndarray]], name: str = "archive") -> PosteriorReader:
        with PosteriorWriter(tmp_path / name, table) as writer:
            for cut_id, log_probs in utterances:
                writer.write(cut_id, log_probs)
        return PosteriorReader(tmp_path / name)

    return make


def random_log_probs(rng: np.random.Generator, frames: int, vocab_size: int, peak: float = 3.0) -> np.ndarray:
    """(T, V) float32 log-probabilities, the peakier the larger `peak`."""
    logits = rng.normal(size=(frames, vocab_size)) * peak
    logits -= np.log(np.exp(logits).sum(1, keepdims=True)) if frames else 0.0
    return logits.astype(np.float32)
