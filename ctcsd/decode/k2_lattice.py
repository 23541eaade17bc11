"""What lattices are good for beyond their best path: n-best lists, and another language model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from ctcsd.decode.graphs import DEFAULT_LM_SCALE
from ctcsd.decode.hypothesis import Candidate, Found, unique_texts
from ctcsd.decode.k2_graphs import k2, load_grammar
from ctcsd.decode.k2_search import K2Decoder, path_scores, symbols
from ctcsd.errors import UserError
from ctcsd.text.arpa import read_arpa
from ctcsd.text.tokenizer import TokenTable

MOST_ARCS = 20_000  # of a lattice that is composed again; a larger one is pruned before
PATH_ARCS = 5_000_000  # of the paths that are composed at a time


class K2Nbest(K2Decoder):
    """A list of hypotheses: paths drawn from the lattice, each different word sequence with its best path's score.

    Args:
        nbest: how many at most, the best ones; 0: all that are found.
        num_paths: drawn from the lattice; nbest_scale: of its scores meanwhile, the smaller the more varied.
        rescore_lm: an ARPA file; the list is ranked anew with it in the place of G, and its first is the hypothesis.
        rescore_scale: of the natural logarithm of its probabilities; None: lm_scale, or 0.5 without G.
        options: those of `K2Decoder`.
    """

    def __init__(
        self,
        table: TokenTable,
        lang_dir: Path,
        graph: str = "HLG",
        nbest: int = 0,
        num_paths: int = 100,
        nbest_scale: float = 0.5,
        rescore_lm: str | Path | None = None,
        rescore_scale: float | None = None,
        **options: Any,
    ) -> None:
        if nbest < 0 or num_paths < 1 or nbest_scale <= 0:
            raise UserError("decode.nbest is 0 or more, decode.num_paths 1 or more, decode.nbest_scale above 0")
        _check_rescore_scale(rescore_scale)
        self.second = None if rescore_lm is None else read_arpa(Path(rescore_lm))
        super().__init__(table, lang_dir, graph, **options)
        self.table = table
        self.nbest, self.num_paths, self.nbest_scale = nbest, num_paths, nbest_scale
        default = self.scale if graph == "HLG" else DEFAULT_LM_SCALE
        self.rescore_scale = default if rescore_scale is None else rescore_scale

    def read(self, lattice: Any) -> Found:
        """The best path, and the list."""
        found = super().read(lattice)
        lattice = pruned(lattice)
        best = symbols(k2.shortest_path(lattice, use_double_scores=True).aux_labels)
        sequences = list(dict.fromkeys(map(tuple, [best, *self._draw(lattice)])))
        by_outputs = k2.arc_sort(k2.invert(lattice))
        found_ones = self._candidates(by_outputs, sequences)
        if self.second is None:
            first, *others = found_ones
            others.sort(key=lambda candidate: -candidate.total)
            return found._replace(nbest=unique_texts([first, *others], self.nbest))
        ranked = sorted(zip(found_ones, sequences), key=lambda pair: -pair[0].total)
        path = self._paths(by_outputs, [ranked[0][1]])
        found = self.path(path, path.labels, self.scale)._replace(score=ranked[0][0].total)
        return found._replace(nbest=unique_texts([candidate for candidate, _ in ranked], self.nbest))

    def _draw(self, lattice: Any) -> list[list[int]]:
        """Output labels of paths, which k2 draws without chance: utterances do not depend on each other."""
        scores = lattice.scores
        lattice.scores = scores * self.nbest_scale
        paths = k2.random_paths(lattice, use_double_scores=True, num_paths=self.num_paths)
        lattice.scores = scores
        outputs = lattice.aux_labels
        if isinstance(outputs, torch.Tensor):
            found = k2.ragged.index(outputs, paths)
        else:
            found = outputs.index(paths)
            found = found.remove_axis(found.num_axes - 2)
        return found.remove_values_leq(0).tolist()[0]

    def _candidates(self, by_outputs: Any, sequences: list[tuple[int, ...]]) -> list[Candidate]:
        """The best path of each label sequence in the lattice, which has its output labels as labels."""
        step = max(1, PATH_ARCS // by_outputs.num_arcs)
        found = []
        for start in range(0, len(sequences), step):
            chunk = sequences[start : start + step]
            for labels, (am, lm) in zip(chunk, path_scores(self._paths(by_outputs, chunk))):
                text, scale = self._text(labels), self.scale
                if self.second is not None:
                    lm, scale = math.log(10) * self.second.score(text.split(" ") if text else []), self.rescore_scale
                found.append(Candidate(text, am, lm, am + scale * lm))
        return found

    @staticmethod
    def _paths(by_outputs: Any, sequences: list[tuple[int, ...]]) -> Any:
        # Not k2.linear_fsa_with_self_loops, which crashes at a single sequence without labels.
        linear = k2.add_epsilon_self_loops(k2.linear_fsa([list(labels) for labels in sequences]))
        same = torch.zeros(len(sequences), dtype=torch.int32)
        paths = k2.intersect_device(by_outputs, linear, b_to_a_map=same, sorted_match_a=True)
        return k2.shortest_path(k2.top_sort(paths), use_double_scores=True)

    def _text(self, labels: tuple[int, ...]) -> str:
        return self.table.text_of(labels) if self.words is None else " ".join(self.words[i] for i in labels)


class K2Rescorer(K2Decoder):
    """The best path through HLG's lattice with another language model in the place of G.

    Args:
        rescore_lm: an ARPA file of the words of words.txt.
        rescore_scale: of the natural logarithm of its probabilities; None: lm_scale.
        options: those of `K2Decoder`.
    """

    def __init__(
        self,
        table: TokenTable,
        lang_dir: Path,
        rescore_lm: str | Path | None = None,
        rescore_scale: float | None = None,
        max_arcs: int = 20_000_000,
        **options: Any,
    ) -> None:
        if rescore_lm is None:
            raise UserError("the method k2-rescore wants decode.rescore_lm: a language model in ARPA format")
        _check_rescore_scale(rescore_scale)
        super().__init__(table, lang_dir, "HLG", max_arcs=max_arcs, **options)
        self.rescore_scale = self.scale if rescore_scale is None else rescore_scale
        grammar = load_grammar(Path(rescore_lm), Path(lang_dir), max_arcs)
        grammar.lm_scores = grammar.scores.clone()
        grammar.scores = self.rescore_scale * grammar.lm_scores
        self.grammar = k2.create_fsa_vec([grammar])

    def read(self, lattice: Any) -> Found:
        """The best path of the rescored lattice; of the first one where the model has none of its sentences."""
        by_words = pruned(lattice)
        by_words.scores = by_words.scores - self.scale * by_words.lm_scores
        del by_words.lm_scores
        by_words = k2.arc_sort(k2.invert(by_words))
        # Epsilons are matched one by one: a back-off takes none of the lattice's own.
        rescored = k2.intersect(by_words, self.grammar, treat_epsilons_specially=True)
        best = k2.shortest_path(k2.top_sort(rescored), use_double_scores=True)
        if best.num_arcs == 0:
            return super().read(lattice)._replace(fallback="not rescored")
        return self.path(best, best.labels, self.rescore_scale)


def _check_rescore_scale(rescore_scale: float | None) -> None:
    if rescore_scale is not None and rescore_scale < 0:
        raise UserError("decode.rescore_scale is 0 or more")


def pruned(lattice: Any) -> Any:
    """A lattice of at most MOST_ARCS arcs: without the least probable ones."""
    threshold = 1e-10
    lattice = lattice.clone()
    while lattice.num_arcs > MOST_ARCS and threshold < 0.1:
        lattice = k2.prune_on_arc_post(lattice, threshold, use_double_scores=True)
        threshold *= 10
    return lattice
