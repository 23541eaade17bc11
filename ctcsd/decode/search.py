"""One call for every search method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ctcsd.decode.greedy import greedy
from ctcsd.decode.hypothesis import Hypothesis
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader
from ctcsd.text.tokenizer import TokenTable

# method -> the options that it takes
METHODS: dict[str, tuple[str, ...]] = {
    "greedy": (),
    "k2-1best": ("search_beam", "output_beam", "max_active", "batch_frames"),
}


def search(reader: PosteriorReader, lang_dir: Path, method: str, **options: Any) -> Iterator[Hypothesis]:
    """Decode an archive, utterance by utterance, in its order.

    Args:
        reader: the archive of log-posteriors.
        lang_dir: whose tokens.txt names the tokens.
        method: `greedy`, or `k2-1best`: the best path of the lattice of posteriors and k2's CTC topology.
        options: `k2-1best`: search_beam, output_beam (nats), max_active (states), batch_frames.

    Raises:
        UserError: an unknown method or option, a lang dir of another token table, k2 missing.
    """
    if method not in METHODS:
        raise UserError(f"no search method '{method}'; known: {', '.join(METHODS)}")
    for name in options:
        if name not in METHODS[method]:
            known = ", ".join(METHODS[method]) or "none"
            raise UserError(f"search method '{method}' takes no option '{name}'; known: {known}")
    table = TokenTable.load(lang_dir)
    if table.fingerprint != reader.table.fingerprint:
        raise UserError(f"the archive {reader.path} was made with another token table than {lang_dir}/tokens.txt")
    if method == "k2-1best":
        from ctcsd.decode.k2_search import k2_one_best

        found = k2_one_best(reader, len(table), **options)
    else:
        found = ((cut_id, *greedy(log_probs)) for cut_id, log_probs in reader)
    for cut_id, tokens, frames, score in found:
        yield Hypothesis(cut_id, table.text_of(tokens), score, tokens, frames)
