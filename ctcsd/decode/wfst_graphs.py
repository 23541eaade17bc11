"""The graphs H, HL and HLG for kaldi-decoder, made with kaldifst."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctcsd.decode.graphs import LM, grammar_fst, lexicon_fst, too_large, topology
from ctcsd.errors import UserError
from ctcsd.text.tokenizer import TokenTable

try:
    import kaldifst
except ImportError as _error:
    raise UserError(f"the graphs of wfst cannot be made here ({_error}): pip install kaldifst") from None

WEIGHT_STEP = 2.0**-14  # minimization rounds weights to it; with Kaldi's 2^-10 the rounding shows in scores


def build_graph(graph: str, lang_dir: Path, table: TokenTable, max_arcs: int) -> Any:
    """H, HL or HLG of a lang dir: frame labels (token id + 1) in; tokens (H) or words (HL, HLG) out.

    G is composed with L as it stands in lm.arpa: scaling it is the search's business.

    Raises:
        UserError: the graph, or what it is made of, has more than max_arcs arcs; or a file is wrong.
    """
    if len(table) ** 2 > max_arcs:
        raise UserError(f"{graph}: CTC's topology of {len(table)} tokens passes decode.max_arcs={max_arcs}")
    if graph == "H":
        return kaldifst.compile("\n".join(topology(len(table))) + "\n")
    text, symbols = lexicon_fst(lang_dir, table, backoff=graph == "HLG")
    words = kaldifst.compile(text)
    if graph == "HLG":
        words = _compose(words, kaldifst.compile(grammar_fst(lang_dir / "words.txt", lang_dir / LM)), "LG", max_arcs)
        if words.num_states == 0:
            raise UserError(f"{lang_dir}: the words of the lexicon make no sentence of {LM}")
    _determinize(words, graph[1:], max_arcs)
    kaldifst.minimize_encoded(words, WEIGHT_STEP)
    topo = kaldifst.compile("\n".join(topology(len(table), symbols)) + "\n")
    return _compose(topo, words, graph, max_arcs)


def size(fst: Any) -> tuple[int, int]:
    """States and arcs."""
    return fst.num_states, sum(fst.num_arcs(state) for state in range(fst.num_states))


def _compose(left: Any, right: Any, name: str, max_arcs: int) -> Any:
    kaldifst.arcsort(left, "olabel")
    kaldifst.arcsort(right, "ilabel")
    composed = kaldifst.compose(left, right)
    if size(composed)[1] > max_arcs:
        raise too_large(f"{name} has {size(composed)[1]} arcs", max_arcs)
    return composed


def _determinize(fst: Any, name: str, max_arcs: int) -> None:
    try:
        kaldifst.determinize_star(fst, max_states=max_arcs)
    except RuntimeError as error:
        if "aborted since passed" in str(error):
            raise too_large(f"{name}, determinized, has more than {max_arcs} states", max_arcs) from None
        raise UserError(f"{name} cannot be determinized: {str(error).splitlines()[-1]}") from None
