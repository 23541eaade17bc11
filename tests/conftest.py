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


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="how often the kill-loop kills a training (default 3)")
    parser.addoption("--mutations", type=int, default=40, help="how often each kind of file is damaged (default 40)")
    parser.addoption("--fault-seed", type=int, default=1, help="seed of the damage (default 1)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first, so that no process is left with one of them at the end."""
    items.sort(key=lambda item: "slow" not in item.keywords)
