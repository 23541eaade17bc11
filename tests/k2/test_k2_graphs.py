"""Graphs of k2 as files: they come back bit for bit, and no code in them runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from bombs import Bomb
from brute_force import add_words
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctcsd.decode.k2_graphs import k2, load_fsa, load_grammar, load_graph, save_fsa
from ctcsd.errors import UserError
from ctcsd.stamp import file_hash
from ctcsd.text.tokenizer import TokenTable

pytestmark = pytest.mark.k2

INT32 = st.integers(-(2**31), 2**31 - 1)
ARC = st.tuples(st.integers(0, 9), INT32, st.lists(INT32, max_size=3), INT32)


class Script(torch.nn.Module):
    """Loaded as TorchScript, it writes a file, also by the `weights_only` of torch 1.13."""

    def __init__(self) -> None:
        super().__init__()
        self.written = torch.zeros(8)

    @torch.jit.export
    def __getstate__(self) -> bool:
        return self.training

    @torch.jit.export
    def __setstate__(self, training: bool) -> None:
        self.training = training
        self.written = torch.from_file("ran", True, 8)


def same(left: k2.Fsa, right: k2.Fsa) -> bool:
    """Whether two graphs have the same attributes of the same types and bits."""
    left, right = left.as_dict(), right.as_dict()
    return left.keys() == right.keys() and all(
        type(value) is type(right[name])
        and (torch.equal(value, right[name]) if isinstance(value, torch.Tensor) else value == right[name])
        for name, value in left.items()
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arcs=st.lists(ARC, max_size=8), ragged=st.booleans(), attributes=st.booleans())
def test_any_graph_comes_back_bit_for_bit(tmp_path: Path, arcs: list, ragged: bool, attributes: bool) -> None:
    arcs = [*arcs, (-1, 0, [], 0)]
    rows = [[i, i + 1, label, score] for i, (label, score, _, _) in enumerate(arcs)]
    fsa = k2.Fsa(torch.tensor(rows, dtype=torch.int32))
    if attributes:
        fsa.tokens = torch.tensor([token for *_, token in arcs], dtype=torch.int32)
        fsa.aux_labels = k2.RaggedTensor([words for *_, words, _ in arcs], dtype=torch.int32) if ragged else fsa.tokens
    save_fsa(fsa, tmp_path / "fsa.npz")
    assert same(load_fsa(tmp_path / "fsa.npz"), fsa)


def test_the_graph_that_is_made_is_the_graph_that_is_read(
    lang_dir: Path, table: TokenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_words(lang_dir)
    built = []
    monkeypatch.setattr("ctcsd.decode.k2_graphs.save_fsa", lambda fsa, path: built.append(fsa) or save_fsa(fsa, path))
    for graph, topo in (("HL", "standard"), ("HLG", "modified")):
        found = load_graph(graph, topo, lang_dir, table, 10_000)
        del found.lm_scores
        assert same(found, built.pop()) and isinstance(found.aux_labels, k2.RaggedTensor)
    assert same(load_grammar(lang_dir / "lm.arpa", lang_dir, 10_000), built.pop())


def test_no_code_in_a_graph_is_run(
    lang_dir: Path, table: TokenTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    add_words(lang_dir)
    ran = tmp_path / "ran"
    load_graph("HL", "standard", lang_dir, table, 10_000)
    (path,) = (lang_dir / "graphs").glob("*.npz")
    bombs: list[tuple[Callable[[], object], Callable[[], object]]] = [
        (lambda: torch.save(Bomb(), path), lambda: torch.load(path, weights_only=False)),
        (lambda: torch.jit.script(Script()).save(str(path)), lambda: torch.jit.load(str(path))),
        (lambda: path.write_bytes(pickle.dumps(Bomb())), lambda: np.load(path, allow_pickle=True)),
        (lambda: np.savez(path, arcs=np.array([Bomb()])), lambda: np.load(path, allow_pickle=True)["arcs"]),
    ]
    for write, read_without_care in bombs:
        write()
        checksum = path.with_name(f"{path.name}.sha256")
        checksum.write_text(f"{file_hash(path)}  {path.name}\n")  # whoever can write the one can write the other
        with pytest.raises(UserError, match="is damaged .*: delete it"):
            load_graph("HL", "standard", lang_dir, table, 10_000)
        assert not ran.exists(), "code in a file was run"
        read_without_care()
        assert ran.exists(), "this bomb shows nothing"
        ran.unlink()


@pytest.mark.parametrize("splits", [[], [0, 1], [0, 1, 4], [1, 1, 3], [0, 5, 3], [0, 2**31 - 1, -(2**31)]])
def test_row_splits_stay_inside(tmp_path: Path, splits: list[int]) -> None:
    arcs = np.array([[0, 1, 3, 0], [1, 2, -1, 0]], dtype=np.int32)
    labels = {"aux_labels": np.arange(3, dtype=np.int32), "aux_labels.row_splits": np.array(splits, dtype=np.int32)}
    np.savez(tmp_path / "fsa.npz", arcs=arcs, **labels)
    with pytest.raises((ValueError, IndexError, AssertionError)):
        load_fsa(tmp_path / "fsa.npz")
    labels["aux_labels.row_splits"] = np.array([0, 1, 3], dtype=np.int32)
    np.savez(tmp_path / "fsa.npz", arcs=arcs, **labels)
    assert load_fsa(tmp_path / "fsa.npz").aux_labels.tolist() == [[0], [1, 2]]
