"""Search on a graph, as Kaldi's faster decoder does: the best path through H, HL or HLG."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ctcsd.decode.fallback import Attempt, first_found
from ctcsd.decode.graphs import bounded_memory, cached, check_beams, graph_scale
from ctcsd.decode.greedy import collapse
from ctcsd.decode.hypothesis import Found
from ctcsd.decode.wfst_graphs import build_graph, size
from ctcsd.errors import UserError
from ctcsd.text.lexicon import read_words
from ctcsd.text.tokenizer import TokenTable

try:
    import kaldi_decoder
    import kaldifst
except ImportError as _error:
    raise UserError(f"the method wfst does not work here ({_error}): pip install kaldi-decoder kaldifst") from None


class GraphDecoder:
    """Finds the best path of (T, V) log-probs through a graph; its score is acoustic + lm_scale * ln p(words).

    Args:
        graph: H (CTC's topology alone), HL (words of the lexicon) or HLG (and the n-gram model); made once, and kept
            in `lang_dir/graphs`.
        lm_scale: of G, None: 0.5; the other graphs have none.
        search_beam: in nats; min_active, max_active: states of a frame; max_arcs: a larger graph is not made.

    Raises:
        UserError: an option out of range, or as `build_graph`.
    """

    def __init__(
        self,
        table: TokenTable,
        lang_dir: Path,
        graph: str = "HLG",
        lm_scale: float | None = None,
        *,
        search_beam: float,
        min_active: int,
        max_active: int = 10000,
        max_arcs: int = 20_000_000,
    ) -> None:
        check_beams(search_beam, min_active, max_active)
        # Acoustic scores and beam are divided by lm_scale, so that one graph serves all scales.
        self.scale = graph_scale(graph, lm_scale)

        def build(path: Path) -> str:
            with bounded_memory(graph, max_arcs):
                fst = build_graph(graph, Path(lang_dir), table, max_arcs)
            if not fst.write(str(path)):
                raise UserError(f"{path} cannot be written")
            return "{} states, {} arcs".format(*size(fst))

        path = cached(lang_dir, graph, ".fst", build)
        self.words = None if graph == "H" else read_words(Path(lang_dir) / "words.txt")
        self.fst = kaldifst.StdVectorFst.read(str(path))  # the decoder refers to it without keeping it
        if self.fst is None:
            raise UserError(f"{path} is damaged: delete it, and it is made again")
        self.beams = (search_beam, min_active, max_active)
        self.decoder = kaldi_decoder.FasterDecoder(self.fst, self._options(1))

    def __call__(self, log_probs: np.ndarray) -> Found:
        """Decode one utterance of at least one frame."""
        return first_found(self._search, log_probs)

    def _options(self, widen: int) -> kaldi_decoder.FasterDecoderOptions:
        search_beam, min_active, max_active = self.beams
        return kaldi_decoder.FasterDecoderOptions(
            beam=search_beam / self.scale * widen, max_active=max_active * widen, min_active=min_active
        )

    def _search(self, log_probs: np.ndarray, attempt: Attempt) -> Found | None:
        self.decoder.set_options(self._options(attempt.widen))
        self.decoder.decode(kaldi_decoder.DecodableCtc(log_probs / np.float32(self.scale)))
        if not (attempt.partial or self.decoder.reached_final()):
            return None
        found, lattice = self.decoder.get_best_path()
        if not found:
            return None
        _, labels, outputs, weight = kaldifst.get_linear_symbol_sequence(lattice)
        path = np.array(labels, dtype=np.int64) - 1
        acoustic = float(np.take_along_axis(log_probs, path[:, None], 1).sum(dtype=np.float64))
        words = None if self.words is None else [self.words[i] for i in outputs]
        return Found(*collapse(path), acoustic - self.scale * weight.value1, words)
