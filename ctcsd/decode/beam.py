"""Prefix beam search (Hannun et al. 2014), flashlight's or WordBeam: the most probable sum over a prefix's paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ctcsd.decode.fallback import Attempt, first_found
from ctcsd.decode.graphs import DEFAULT_LM_SCALE
from ctcsd.decode.hypothesis import Candidate, Found, unique_texts
from ctcsd.decode.word_beam import Sentence, WordBeam
from ctcsd.decode.words import WordModel
from ctcsd.errors import UserError
from ctcsd.text.tokenizer import BLANK_SYMBOL, TokenTable

try:
    from torchaudio.models.decoder import CTCDecoder, CTCHypothesis, ctc_decoder
except (ImportError, RuntimeError) as _error:  # torchaudio raises the latter where flashlight is missing
    raise UserError("the method beam does not work here: pip install torchaudio flashlight-text") from _error

FLOOR = -1e9  # instead of -inf, whose differences are NaN


class BeamDecoder:
    """Finds the token sequence of (T, V) log-probs whose paths have the greatest sum; its score is ln of that sum.

    With a lexicon, to the score comes lm_scale * ln p(words) + word_score * (number of words); with token_lm, the same
    for tokens in the place of words.

    Args:
        beam: hypotheses kept after each frame; beam_threshold: nats behind the best one.
        beam_tokens: only so many tokens of a frame are tried, the best ones; 0: all.
        lexicon: only words of lexicon.txt.
        token_lm: ARPA file of an n-gram model of tokens, instead of a lexicon; the text is whatever the tokens spell.
        lm_scale: of the n-gram model, None: 0.5 where there is one; 0: without the model.
        nbest: length of the list of hypotheses; 0: none.

    Raises:
        UserError: an option out of range, a lexicon or a language model is missing or wrong.
    """

    def __init__(
        self,
        table: TokenTable,
        lang_dir: Path,
        beam: int = 20,
        beam_threshold: float = 50.0,
        beam_tokens: int = 40,
        lexicon: bool = False,
        token_lm: str | Path | None = None,
        lm_scale: float | None = None,
        word_score: float = 0.0,
        nbest: int = 0,
    ) -> None:
        if not (lexicon or token_lm) and (lm_scale or word_score):
            raise UserError(
                "decode.lm_scale and decode.word_score: the method beam wants decode.lexicon=true, for words, "
                "or decode.token_lm, an n-gram model of tokens (ctcsd lm --tokens)"
            )
        if lexicon and token_lm:
            raise UserError("decode.lexicon has the n-gram model of words beside it: decode.token_lm is without one")
        if beam < 1 or beam_threshold <= 0 or min(beam_tokens, nbest) < 0:
            raise UserError(
                "decode.beam is 1 or more, decode.beam_threshold above 0, decode.beam_tokens and decode.nbest 0 or more"
            )
        scale = DEFAULT_LM_SCALE if lm_scale is None else lm_scale
        self.lexicon, self.model = lexicon, None
        if lexicon:
            self.model = WordModel.of_words(table, lang_dir, scale, word_score)
        elif token_lm:
            self.model = WordModel.of_tokens(table, Path(token_lm), scale, word_score)
        self.table, self.beams, self.nbest = table, (beam, beam_threshold, beam_tokens), nbest
        self.decoders = {1: self._decoder(1)}  # by how much wider they are

    def __call__(self, log_probs: np.ndarray) -> Found:
        """Decode one utterance of at least one frame."""
        return first_found(self._search, log_probs)

    def _decoder(self, widen: int) -> CTCDecoder | WordBeam:
        beam, threshold, tokens = self.beams
        if self.model:  # flashlight's own lexicon search lets a word's last token last one frame only
            tokens = tokens if widen == 1 else 0
            return WordBeam(self.model, len(self.table), beam * widen, threshold * widen, tokens)
        return ctc_decoder(
            lexicon=None,
            tokens=self.table.symbols,
            nbest=beam * widen if self.nbest else 1,
            beam_size=beam * widen,
            beam_size_token=(min(tokens, len(self.table)) or None) if widen == 1 else None,
            beam_threshold=threshold * widen,
            lm_weight=1.0,
            log_add=True,  # else equal prefixes count by their best path alone
            blank_token=BLANK_SYMBOL,
            sil_token=BLANK_SYMBOL,  # flashlight takes a first token that is its silence for no token
        )

    def _search(self, log_probs: np.ndarray, attempt: Attempt) -> Found | None:
        if attempt.widen not in self.decoders:
            self.decoders[attempt.widen] = self._decoder(attempt.widen)
        decoder = self.decoders[attempt.widen]
        if isinstance(decoder, WordBeam):
            found = decoder(log_probs, attempt.partial, None if self.nbest else 1)
        else:
            found = _sentences(decoder(torch.from_numpy(np.maximum(log_probs, np.float32(FLOOR)))[None])[0])
        if not found:
            return None
        candidates = map(self._candidate, found) if self.nbest else []
        best, listed = found[0], unique_texts(candidates, self.nbest)
        return Found(best.tokens, best.frames, best.score, self._words(best), nbest=listed)

    def _words(self, found: Sentence) -> list[str] | None:
        """None where the tokens spell them: those of an n-gram model of tokens are no words."""
        return found.words if self.lexicon else None

    def _candidate(self, found: Sentence) -> Candidate:
        words = self._words(found)
        text = self.table.text_of(found.tokens) if words is None else " ".join(words)
        if self.model is None or found.words is None:
            return Candidate(text, found.score, 0.0, found.score)
        lm = self.model.log_prob(found.words)
        am = found.score - self.model.lm_scale * lm - self.model.word_score * len(found.words)
        return Candidate(text, am, lm, found.score)


def _sentences(found: list[CTCHypothesis]) -> list[Sentence]:
    """Those that are possible; flashlight puts a silence before the first frame."""
    possible = [one for one in found if one.score > FLOOR / 10]  # a NaN is not
    return [Sentence(None, one.tokens.tolist(), (one.timesteps - 1).tolist(), one.score) for one in possible]
