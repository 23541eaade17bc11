"""Prefix beam search (Hannun et al. 2014) by flashlight: the most probable token sequence, summed over its paths."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from ctcsd.decode.graphs import DEFAULT_LM_SCALE
from ctcsd.decode.hypothesis import NOTHING, Found
from ctcsd.decode.words import State, WordModel
from ctcsd.errors import UserError
from ctcsd.text.tokenizer import BLANK_SYMBOL, TokenTable

try:
    from torchaudio.models.decoder import CTCDecoderLM, CTCDecoderLMState, ctc_decoder
except (ImportError, RuntimeError) as _error:  # torchaudio raises the latter where flashlight is missing
    raise UserError("the method beam does not work here: pip install torchaudio flashlight-text") from _error

FLOOR = -1e9  # instead of -inf, whose differences are NaN


class BeamDecoder:
    """Finds the token sequence of (T, V) log-probs whose paths have the greatest sum; its score is ln of that sum.

    With a lexicon, to the score comes lm_scale * ln p(words) + word_score * (number of words).

    Args:
        beam: hypotheses kept after each frame; beam_threshold: nats behind the best one.
        beam_tokens: only so many tokens of a frame are tried, the best ones; 0: all.
        lexicon: only words of lexicon.txt.
        lm_scale: of the n-gram model, None: 0.5 with a lexicon; 0: without the model.

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
        lm_scale: float | None = None,
        word_score: float = 0.0,
    ) -> None:
        if not lexicon and (lm_scale or word_score):
            raise UserError("decode.lm_scale and decode.word_score are of words: the method beam wants decode.lexicon")
        if beam < 1 or beam_threshold <= 0 or beam_tokens < 0:
            raise UserError("decode.beam is 1 or more, decode.beam_threshold above 0, decode.beam_tokens 0 or more")
        scale = DEFAULT_LM_SCALE if lm_scale is None else lm_scale
        self.words = FlashlightWords(WordModel(table, lang_dir, scale, word_score)) if lexicon else None
        self.decoder = ctc_decoder(
            lexicon=None,  # flashlight's own lexicon search lets a word's last token last one frame only
            tokens=table.symbols,
            lm=self.words,
            beam_size=beam,
            beam_size_token=min(beam_tokens, len(table)) or None,
            beam_threshold=beam_threshold,
            lm_weight=1.0,
            log_add=True,  # else equal prefixes count by their best path alone
            blank_token=BLANK_SYMBOL,
            sil_token=BLANK_SYMBOL,  # flashlight takes a first token that is its silence for no token
        )

    def __call__(self, log_probs: np.ndarray) -> Found:
        """Decode one utterance of at least one frame."""
        found = self.decoder(torch.from_numpy(np.maximum(log_probs, np.float32(FLOOR)))[None])[0]
        if not found or not found[0].score > FLOOR / 10:  # a NaN fails too
            return NOTHING._replace(failure="no prefix of whole words survives the beam")
        tokens = found[0].tokens.tolist()
        frames = (found[0].timesteps - 1).tolist()  # flashlight puts a silence before the first frame
        words = self.words.words_of(tokens) if self.words else None
        return Found(tokens, frames, found[0].score, words)


class FlashlightWords(CTCDecoderLM):
    """A WordModel as a language model over tokens; flashlight's states name the prefixes."""

    def __init__(self, model: WordModel) -> None:
        super().__init__()
        self.model = model
        self.nowhere = CTCDecoderLMState()
        self.states: dict[CTCDecoderLMState, State] = {}

    def start(self, start_with_nothing: bool) -> CTCDecoderLMState:
        """A new utterance."""
        state = CTCDecoderLMState()
        self.states = {state: self.model.start(), self.nowhere: State({})}
        return state

    def score(self, state: CTCDecoderLMState, token: int) -> tuple[CTCDecoderLMState, float]:
        """The prefix with one more token, and what that adds."""
        before = self.states[state]
        if token not in before.tokens:
            return self.nowhere, -math.inf
        longer = state.child(token)
        if longer not in self.states:
            self.states[longer] = self.model.advance(before, token)
        return longer, self.states[longer].value - before.value

    def finish(self, state: CTCDecoderLMState) -> tuple[CTCDecoderLMState, float]:
        """What the end of the utterance adds."""
        reading = self.model.finish(self.states[state])
        return state, -math.inf if reading is None else reading.score - self.states[state].value

    def words_of(self, tokens: list[int]) -> list[str]:
        """The words of a hypothesis."""
        state = self.model.start()
        for token in tokens:
            state = self.model.advance(state, token)
        reading = self.model.finish(state)
        return list(reading.words) if reading else []
