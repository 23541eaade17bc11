"""One call for every search method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np

from ctcsd.decode.graphs import LEXICON, LM, graph_files
from ctcsd.decode.greedy import greedy
from ctcsd.decode.hypothesis import NOTHING, Found, Hypothesis
from ctcsd.decode.posterior_input import scaled_log_prior, unusable
from ctcsd.errors import UserError
from ctcsd.posteriors import DamagedManifest, PosteriorReader
from ctcsd.text.tokenizer import TokenTable

PRIOR = ("prior", "prior_scale")
RESCORE = ("rescore_lm", "rescore_scale")
STATES = ("search_beam", "min_active", "max_active", "max_arcs")
LATTICE = ("topo", *STATES, "output_beam")
# method -> the options that it takes
METHODS: dict[str, tuple[str, ...]] = {
    "greedy": PRIOR,
    "beam": (*PRIOR, "beam", "beam_threshold", "beam_tokens", "lexicon", "token_lm", "lm_scale", "word_score", "nbest"),
    "wfst": (*PRIOR, "graph", "lm_scale", *STATES),
    "k2-1best": (*PRIOR, *LATTICE),
    "k2-hlg": (*PRIOR, "lm_scale", *LATTICE),
    "k2-nbest": (*PRIOR, "graph", "lm_scale", *LATTICE, "nbest", "num_paths", "nbest_scale", *RESCORE),
    "k2-rescore": (*PRIOR, "lm_scale", *RESCORE, *LATTICE),
}
# search on a graph -> its beam in nats, and the states of a frame whatever the beam, where these are not given
BEAMS: dict[str, dict[str, float]] = {
    "wfst": {"search_beam": 15.0, "min_active": 20},
    # On CTC's topology alone the best path begins, in every frame, with the best path so far: no beam is too narrow.
    "k2-1best": {"search_beam": 4.0, "min_active": 1},
    # Less than 20 loses words sooner than without k2 (docs/decoding.md).
    **dict.fromkeys(("k2-hlg", "k2-nbest", "k2-rescore"), {"search_beam": 20.0, "min_active": 20}),
}


def search(reader: PosteriorReader, lang_dir: Path, method: str, **options: Any) -> Iterator[Hypothesis]:
    """Decode an archive, utterance by utterance, in its order; graphs and models are made before this returns.

    An utterance that fails has an empty hypothesis that says why; the others go on. Where the archive's list is
    damaged, DamagedManifest comes behind the hypotheses of all that it still names.

    Args:
        reader: the archive of log-posteriors.
        lang_dir: whose tokens.txt names the tokens.
        method: `greedy`; `beam`, prefix beam search; `wfst`, the best path through a graph; `k2-1best` and `k2-hlg`,
            the best path of a lattice on CTC's topology or HLG; `k2-nbest`, a list from it, which another language
            model may rank; `k2-rescore`, its best path with another language model.
        options: those of METHODS: of all methods, `prior` and `prior_scale` (see `scaled_log_prior`); the others are
            those of BeamDecoder, GraphDecoder, K2Decoder, K2Nbest and K2Rescorer.

    Raises:
        UserError: an unknown method or option, a lang dir of another token table or without a file that the method
            needs, a missing library.
    """
    if method not in METHODS:
        raise UserError(f"no search method '{method}'; known: {', '.join(METHODS)}")
    for name in options:
        if name not in METHODS[method]:
            known = ", ".join(METHODS[method]) or "none"
            raise UserError(f"search method '{method}' takes no option '{name}'; known: {known}")
    reader.check_table(lang_dir)
    table = reader.table
    prior = scaled_log_prior(options.pop("prior", None), options.pop("prior_scale", 0.0), len(table))
    failures: dict[str, str] = {}
    damage: list[DamagedManifest] = []
    nothing = np.zeros((0, len(table)), dtype=np.float32)

    def utterances() -> Iterator[tuple[str, np.ndarray]]:
        try:
            for cut_id, entry in reader.entries():
                log_probs, reason = (nothing, str(entry)) if isinstance(entry, UserError) else (entry, unusable(entry))
                if reason:
                    failures[cut_id] = reason
                    log_probs = nothing
                yield cut_id, log_probs if prior is None else log_probs - prior
        except DamagedManifest as error:
            damage.append(error)

    if method == "greedy":
        results = greedy(utterances())
    else:
        decode = _decoder(method, table, lang_dir, options)
        results = ((cut_id, decode(log_probs) if len(log_probs) else NOTHING) for cut_id, log_probs in utterances())

    def hypothesis(cut_id: str, found: Found) -> Hypothesis:
        text = table.text_of(found.tokens) if found.words is None else " ".join(found.words)
        failure = failures.pop(cut_id, None) or found.failure
        return Hypothesis(cut_id, text, found.score, found.tokens, found.frames, failure, found.fallback, found.nbest)

    def hypotheses() -> Iterator[Hypothesis]:
        yield from starmap(hypothesis, results)
        for error in damage:
            raise error

    return hypotheses()


def lang_files(method: str, options: dict[str, Any]) -> tuple[str, ...]:
    """The files of the lang dir that hypotheses depend on."""
    if method in ("wfst", "k2-nbest"):
        return graph_files(options["graph"])
    if method in ("k2-hlg", "k2-rescore"):
        return graph_files("HLG")
    if method == "beam" and options["lexicon"]:
        return ("tokens.txt", LEXICON, LM)
    return ("tokens.txt",)


def search_name(method: str) -> str:
    """The search of an entry of decode.methods: `beam`, or `beam+lexicon=true`, a variant with a folder of its own."""
    name, _, changes = method.partition("+")
    if name not in METHODS:
        raise UserError(f"no search method '{name}'; known: {', '.join(METHODS)}")
    if "/" in changes:
        raise UserError(f"'{method}' cannot name a folder: give paths as decode.KEY=PATH")
    return name


def k2_methods(methods: Iterable[str]) -> list[str]:
    """Those of the methods, or variants, that search with k2."""
    return [method for method in methods if method.startswith("k2-")]


def finds_words(method: str, options: dict[str, Any]) -> bool:
    """Whether a search has a lexicon; else its text is what the tokens say."""
    return LEXICON in lang_files(method, options)


def _decoder(method: str, table: TokenTable, lang_dir: Path, options: dict[str, Any]) -> Callable[[np.ndarray], Found]:
    """What decodes the (T, V) log-probs of an utterance of at least one frame."""
    options = {**BEAMS.get(method, {}), **options}
    if method == "beam":
        from ctcsd.decode.beam import BeamDecoder

        return BeamDecoder(table, lang_dir, **options)
    if method == "wfst":
        from ctcsd.decode.wfst import GraphDecoder

        return GraphDecoder(table, lang_dir, **options)
    from ctcsd.decode.k2_lattice import K2Nbest, K2Rescorer
    from ctcsd.decode.k2_search import K2Decoder

    if method == "k2-nbest":
        return K2Nbest(table, lang_dir, **options)
    if method == "k2-rescore":
        return K2Rescorer(table, lang_dir, **options)
    return K2Decoder(table, lang_dir, "HLG" if method == "k2-hlg" else "H", **options)
