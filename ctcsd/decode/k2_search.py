"""Search on k2's lattices: posteriors intersected with a graph, and what is read from the lattice.

Utterances are searched one by one: on a CPU that is faster than in batches, and none depends on another.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ctcsd.decode.fallback import Attempt, first_found
from ctcsd.decode.graphs import check_beams, graph_scale
from ctcsd.decode.hypothesis import Found
from ctcsd.decode.k2_graphs import all_final, k2, load_graph
from ctcsd.errors import UserError
from ctcsd.text.lexicon import read_words
from ctcsd.text.tokenizer import TokenTable

IMPOSSIBLE = -1e9  # instead of -inf, whose differences are NaN
TIE = 1e-4  # nats a token: with the modified topology, repeats that may count once or twice count once


class K2Decoder:
    """The best path of the lattice of (T, V) log-probs and a graph; its score is acoustic + lm_scale * ln p(words).

    Args:
        graph: H (CTC's topology alone), HL (words of the lexicon) or HLG (and the n-gram model).
        topo: `standard` or `modified`, see `load_graph`.
        lm_scale: of G, None: 0.5; the other graphs have none.
        search_beam: in nats, as is output_beam: what a path in the lattice may fall behind the best one.
        min_active, max_active: states of a frame; max_arcs: a larger graph is not made.

    Raises:
        UserError: an option out of range, or as `load_graph`.
    """

    def __init__(
        self,
        table: TokenTable,
        lang_dir: Path,
        graph: str = "H",
        topo: str = "standard",
        lm_scale: float | None = None,
        output_beam: float = 8.0,
        *,
        search_beam: float,
        min_active: int,
        max_active: int = 10000,
        max_arcs: int = 20_000_000,
    ) -> None:
        check_beams(search_beam, min_active, max_active)
        if output_beam <= 0:
            raise UserError("decode.output_beam is above 0")
        self.table, self.scale = table, graph_scale(graph, lm_scale)
        self.graph = load_graph(graph, topo, Path(lang_dir), table, max_arcs)
        self.graph.graph_scores = self.scale * self.graph.lm_scores
        if topo == "modified":
            self.graph.graph_scores -= TIE * (self.graph.tokens > 0)
        self.graph.scores = self.graph.graph_scores.clone()
        self.words = None if graph == "H" else read_words(Path(lang_dir) / "words.txt")
        self.beams = (search_beam, output_beam, min_active, max_active)

    def __call__(self, log_probs: np.ndarray) -> Found:
        """Decode one utterance of at least one frame."""
        return first_found(self._search, log_probs)

    def read(self, lattice: Any) -> Found:
        """What is found in the lattice of an utterance (an FsaVec of one)."""
        best = k2.shortest_path(lattice, use_double_scores=True)
        return self.path(best, best.aux_labels, self.scale)

    def path(self, best: Any, outputs: Any, lm_scale: float) -> Found:
        """The path of an FsaVec that holds one; `outputs` are the labels of its word side."""
        ((am, lm),) = path_scores(best)
        emitting = best.tokens > 0
        words = None if self.words is None else [self.words[i] for i in symbols(outputs)]
        return Found(best.tokens[emitting].tolist(), best.frame[emitting].tolist(), am + lm_scale * lm, words)

    @cached_property
    def _ends_anywhere(self) -> Any:
        return all_final(self.graph)

    def _search(self, log_probs: np.ndarray, attempt: Attempt) -> Found | None:
        search_beam, output_beam, min_active, max_active = self.beams
        scores = torch.from_numpy(np.maximum(log_probs, np.float32(IMPOSSIBLE)))[None]
        graph = self._ends_anywhere if attempt.partial else self.graph
        lattice = k2.intersect_dense_pruned(
            graph,
            k2.DenseFsaVec(scores, torch.tensor([[0, 0, len(log_probs)]], dtype=torch.int32)),
            search_beam=search_beam * attempt.widen,
            output_beam=output_beam,
            min_active_states=min_active,
            max_active_states=max_active * attempt.widen,
            frame_idx_name="frame",
        )
        if not lattice.get_tot_scores(use_double_scores=True, log_semiring=False) > IMPOSSIBLE / 10:
            return None
        lattice.am_scores = lattice.scores - lattice.graph_scores
        return self.read(lattice)


def path_scores(paths: Any) -> list[tuple[float, float]]:
    """am and lm of each path of an FsaVec of linear ones."""
    ends = paths.arcs.shape().remove_axis(1).row_splits(1)
    sizes = (ends[1:] - ends[:-1]).tolist()
    columns = [paths.am_scores.double().split(sizes), paths.lm_scores.double().split(sizes)]
    return [(float(am.sum()), float(lm.sum())) for am, lm in zip(*columns)]


def symbols(labels: Any) -> list[int]:
    """Labels without epsilons and the -1 of the last arc."""
    values = labels.values if isinstance(labels, k2.RaggedTensor) else labels
    return values[values > 0].tolist()
