"""The graphs of k2's searches: CTC topologies, H o L, H o L o G, and a G to rescore with.

On the input side stand token ids, the blank (0) among them: k2 knows no epsilon where it meets posteriors. The
attribute `tokens` holds the token that an arc adds to the hypothesis (0: none), `lm_scores` its part of ln p(words).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctcsd.decode.graphs import LM, TOPOLOGIES, bounded_memory, cached, grammar_fst, lexicon_fst, too_large
from ctcsd.errors import UserError
from ctcsd.text.lexicon import BACKOFF, read_words
from ctcsd.text.tokenizer import TokenTable

try:
    import k2
except ImportError as _error:  # `ctcsd doctor` tells the ways in which k2 can be broken apart
    raise UserError(f"k2 does not work in this interpreter ({_error}): see 'ctcsd doctor'") from None

ROW_SPLITS = ".row_splits"


def load_graph(graph: str, topo: str, lang_dir: Path, table: TokenTable, max_arcs: int) -> Any:
    """H, HL or HLG as an arc-sorted k2.Fsa; the latter two are made once and kept in `lang_dir/graphs`.

    Args:
        topo: `standard`, CTC's topology of V^2 arcs; `modified`, of about 4 V: a token may follow itself without a
            blank between.

    Raises:
        UserError: an unknown graph or topology; the graph, or what it is made of, has more than max_arcs arcs; or a
            file is wrong.
    """
    if topo not in TOPOLOGIES:
        raise UserError(f"no topology '{topo}' (decode.topo); known: {', '.join(TOPOLOGIES)}")
    if topo == "standard" and len(table) ** 2 > max_arcs:
        raise UserError(
            f"{graph}: CTC's topology of {len(table)} tokens passes decode.max_arcs={max_arcs}: "
            "decode.topo=modified is smaller"
        )
    topology = k2.ctc_topo(len(table) - 1, modified=topo == "modified")
    if graph == "H":
        topology.tokens = topology.aux_labels.clone()
        topology.lm_scores = torch.zeros_like(topology.scores)
        return k2.arc_sort(topology)

    def build() -> Any:
        text, _ = lexicon_fst(lang_dir, table, backoff=graph == "HLG")
        words = k2.Fsa.from_openfst(text, acceptor=False)
        if graph == "HLG":
            grammar = k2.Fsa.from_openfst(grammar_fst(lang_dir / "words.txt", lang_dir / LM), acceptor=False)
            words = _connected(k2.compose(k2.arc_sort(words), k2.arc_sort(grammar)), "LG", max_arcs)
            if words.num_arcs == 0:
                raise UserError(f"{lang_dir}: the words of the lexicon make no sentence of {LM}")
        words = _connected(k2.determinize(words), f"{graph[1:]}, determinized,", max_arcs)
        _drop_labels(words, len(table))
        words = _connected(k2.remove_epsilon(words), f"{graph[1:]} without epsilons", max_arcs)
        composed = k2.compose(topology, k2.arc_sort(words), inner_labels="tokens")
        return k2.arc_sort(_connected(composed, graph, max_arcs))

    found = _cached(lang_dir, graph, f"-{topo}.npz", build, max_arcs)
    found.lm_scores = found.scores.clone()
    return found


def load_grammar(arpa: Path, lang_dir: Path, max_arcs: int) -> Any:
    """An n-gram model as an acceptor of word ids with epsilons where it backs off; kept in `lang_dir/graphs`.

    Raises:
        UserError: no such file, or a wrong or too large one.
    """
    if not arpa.is_file():
        raise UserError(f"decode.rescore_lm={arpa}: no such file")
    words = lang_dir / "words.txt"

    def build() -> Any:
        text = grammar_fst(words, arpa)
        if text.count("\n") > max_arcs:
            raise too_large(f"{arpa} makes a graph of {text.count(chr(10))} arcs", max_arcs)
        found = k2.Fsa.from_openfst(text, acceptor=False)
        del found.aux_labels
        _drop_labels(found, read_words(words).index(BACKOFF))
        return k2.arc_sort(found)

    return _cached(lang_dir, "G", ".npz", build, max_arcs, [words, arpa])


def all_final(graph: Any) -> Any:
    """A graph with every state final: what is left to search where no path ends as it should."""
    arcs = graph.arcs.values()
    final = graph.shape[0] - 1
    ended = set(arcs[arcs[:, 1] == final, 0].tolist())
    states = torch.tensor([state for state in range(final) if state not in ended], dtype=torch.int32)
    new = torch.zeros((len(states), 4), dtype=torch.int32)
    new[:, 0], new[:, 1], new[:, 2] = states, final, -1
    joined = torch.cat([arcs, new])
    order = torch.argsort(joined[:, 0], stable=True)
    longer = k2.Fsa(joined[order].contiguous())
    for name in ("tokens", "lm_scores", "graph_scores"):
        values = getattr(graph, name)
        setattr(longer, name, torch.cat([values, values.new_zeros(len(states))])[order])
    outputs = graph.aux_labels
    if isinstance(outputs, torch.Tensor):
        outputs = k2.RaggedTensor(outputs[:, None])
    none = k2.RaggedTensor([[] for _ in states], dtype=torch.int32)
    longer.aux_labels, _ = k2.ragged.cat([outputs, none], axis=0).index(order.to(torch.int32), axis=0)
    return k2.arc_sort(longer)


def save_fsa(fsa: Any, path: Path) -> None:
    """Write a k2.Fsa to a .npz file: an int32 array for its arcs and for each attribute, two for a ragged one."""
    arrays = {}
    for name, value in fsa.as_dict().items():
        if isinstance(value, k2.RaggedTensor):
            arrays[name + ROW_SPLITS] = value.shape.row_splits(1).numpy()
            value = value.values
        if isinstance(value, torch.Tensor):
            arrays[name] = value.numpy()
    np.savez(path, **arrays)


def load_fsa(path: Path) -> Any:
    """Read what `save_fsa` wrote, bit for bit; whoever made the file, no code in it runs.

    It is not torch's format: torch 1.13, which k2 needs here, runs TorchScript in it, `weights_only` or not.

    Raises:
        Exception: any, where the file is damaged.
    """
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name].astype(np.int32, copy=False)) for name in file.files}
    fsa = k2.Fsa(arrays["arcs"])
    for name in arrays.keys() & {"aux_labels", "tokens"}:
        splits = arrays.get(name + ROW_SPLITS)
        setattr(fsa, name, arrays[name] if splits is None else _ragged(arrays[name], splits))
    return fsa


def _ragged(values: torch.Tensor, splits: torch.Tensor) -> Any:
    """A ragged tensor of two axes; k2 would read outside `values` where `splits` say so."""
    if splits[0] != 0 or splits[-1] != len(values) or (splits[1:] < splits[:-1]).any():
        raise ValueError("row splits that fit no values")
    return k2.RaggedTensor(k2.ragged.create_ragged_shape2(splits, None, len(values)), values)


def _cached(
    lang_dir: Path, name: str, suffix: str, build: Callable[[], Any], max_arcs: int, files: list[Path] | None = None
) -> Any:
    def write(path: Path) -> str:
        with bounded_memory(name, max_arcs):
            fsa = build()
        save_fsa(fsa, path)
        return f"{fsa.shape[0]} states, {fsa.num_arcs} arcs"

    path = cached(lang_dir, name, suffix, write, files)
    try:
        return load_fsa(path)
    except Exception as error:  # every error class of zip, numpy and k2
        raise UserError(f"{path} is damaged ({error}): delete it, and it is made again") from None


def _connected(fsa: Any, name: str, max_arcs: int) -> Any:
    fsa = k2.connect(fsa)
    if fsa.num_arcs > max_arcs:
        raise too_large(f"{name} has {fsa.num_arcs} arcs", max_arcs)
    return fsa


def _drop_labels(fsa: Any, first: int) -> None:
    """Labels from `first` on, the disambiguation symbols, become epsilon."""
    labels = fsa.labels.clone()
    labels[labels >= first] = 0
    fsa.labels = labels
