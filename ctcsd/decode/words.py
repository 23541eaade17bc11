"""What tokens mean in words: a lexicon and an n-gram model as a model of token sequences."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctcsd.decode.graphs import LM, Pronunciation, pronunciations
from ctcsd.errors import UserError
from ctcsd.text.arpa import Arpa, read_arpa
from ctcsd.text.ngram import BOS, EOS, UNK
from ctcsd.text.tokenizer import BLANK_SYMBOL, SPACE, TokenTable


class Node:
    """A beginning of words in the lexicon's tree; `ahead` is the best unigram score below it."""

    def __init__(self) -> None:
        self.children: dict[int, Node] = {}
        self.words: list[tuple[str, bool]] = []  # that end here, and whether a space follows
        self.ahead = -math.inf

    @cached_property
    def onward(self) -> tuple[np.ndarray, np.ndarray, list[tuple[int, str]]]:
        """Tokens that may follow, `ahead` after each where words go on, and (token, word) for words that end there."""
        ahead = [child.ahead if child.children else -math.inf for child in self.children.values()]
        ends = [(token, word) for token, child in self.children.items() for word, _ in child.words]
        return np.array(list(self.children), dtype=np.int64), np.array(ahead), ends


class Reading(NamedTuple):
    """One way to read tokens as words: the score of the complete ones, and these."""

    score: float
    words: tuple[str, ...]


class State:
    """All ways to read a token sequence, the best of those that go on alike."""

    def __init__(self, readings: dict[tuple[Node, tuple[str, ...]], Reading]) -> None:
        self.readings = readings
        self.value = max((r.score + node.ahead for (node, _), r in readings.items()), default=-math.inf)


class WordModel:
    """Scores token sequences by the words that they spell: lm_scale * ln p(words) + word_score * their number.

    A sequence may be read in several ways (homophones); it has the score of the best. Inside a word, the score
    looks ahead to the best unigram that the word may become.
    """

    def __init__(
        self, lexicon: Iterable[Pronunciation], space: int, lm: Arpa | None, lm_scale: float, word_score: float
    ) -> None:
        self.lm, self.lm_scale, self.word_score = lm, lm_scale, word_score
        self.scale = lm_scale * math.log(10)
        self.root, self.space = Node(), Node()
        self.root.ahead = self.space.ahead = 0.0
        self.space.children[space] = self.root
        for word, tokens, spaced in lexicon:
            score, node = self._score((), word), self.root
            for token in tokens:
                node = node.children.setdefault(token, Node())
                node.ahead = max(node.ahead, score)
            node.words.append((word, spaced))

    @classmethod
    def of_words(cls, table: TokenTable, lang_dir: Path, lm_scale: float, word_score: float) -> WordModel:
        """The lexicon of a lang dir and, unless lm_scale is 0, its word n-gram model."""
        lm = read_arpa(Path(lang_dir) / LM) if lm_scale else None
        return cls(pronunciations(lang_dir, table), table.ids.get(SPACE, -1), lm, lm_scale, word_score)

    @classmethod
    def of_tokens(cls, table: TokenTable, arpa: Path, lm_scale: float, token_score: float) -> WordModel:
        """An n-gram model of tokens: each is a word of its own.

        Raises:
            UserError: as `read_arpa`, or the model knows words that are no tokens of the table.
        """
        lm = read_arpa(arpa)
        ids = {symbol: i for symbol, i in table.ids.items() if symbol != BLANK_SYMBOL}
        for (word,) in (ngram for ngram in lm.probabilities if len(ngram) == 1):
            if word not in ids and word not in (BOS, EOS, UNK):
                raise UserError(f"{arpa}: '{word}' is no token of tokens.txt: `ctcsd lm --tokens LANG` counts tokens")
        lexicon = [Pronunciation(symbol, [i], False) for symbol, i in ids.items()]
        return cls(lexicon, -1, lm, lm_scale, token_score)

    def start(self) -> State:
        """Before the first token."""
        return State({(self.root, self._context((BOS,))): Reading(0.0, ())})

    def advance(self, state: State, token: int) -> State:
        """After one more token; the value of a state that no words can spell is -inf."""
        found: dict[tuple[Node, tuple[str, ...]], Reading] = {}

        def add(node: Node, context: tuple[str, ...], reading: Reading) -> None:
            other = found.get((node, context))
            if other is None or other.score < reading.score:
                found[node, context] = reading

        for (node, context), reading in state.readings.items():
            after = node.children.get(token)
            if after is None:
                continue
            if after.children:
                add(after, context, reading)
            for word, space in after.words:
                score = reading.score + self._score(context, word)
                longer = self._context((*context, word))
                add(self.space if space else self.root, longer, Reading(score, (*reading.words, word)))
        return State(found)

    def extension(self, state: State, vocab_size: int) -> np.ndarray:
        """(V,): what each token would add to the state's value; -inf where no word goes on so."""
        values = np.full(vocab_size, -np.inf)
        for (node, context), reading in state.readings.items():
            tokens, ahead, ends = node.onward
            values[tokens] = np.maximum(values[tokens], reading.score + ahead)
            for token, word in ends:
                values[token] = max(values[token], reading.score + self._score(context, word))
        return values - state.value

    def finish(self, state: State, partial: bool = False) -> Reading | None:
        """The best reading as complete words, the end of the sentence scored; None where there is none.

        Args:
            partial: a word that has only begun may stand at the end, and is left out.
        """
        ended = [
            Reading(reading.score + (self.scale * self.lm.log10(context, EOS) if self.lm else 0.0), reading.words)
            for (node, context), reading in state.readings.items()
            if partial or node in (self.root, self.space)
        ]
        return max(ended, default=None)

    def words_of(self, tokens: Sequence[int], partial: bool = False) -> list[str]:
        """The words of a token sequence in its best reading, none where it has none; `partial` as in `finish`."""
        state = self.start()
        for token in tokens:
            state = self.advance(state, token)
        reading = self.finish(state, partial)
        return list(reading.words) if reading else []

    def log_prob(self, words: Sequence[str]) -> float:
        """ln p(words) by the language model; 0 without one."""
        return math.log(10) * self.lm.score(words) if self.lm else 0.0

    def _score(self, context: Sequence[str], word: str) -> float:
        return self.word_score + (self.scale * self.lm.log10(context, word) if self.lm else 0.0)

    def _context(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """As much of the words as the model can see."""
        keep = len(self.lm.counts) - 1 if self.lm else 0
        return words[len(words) - keep :] if keep < len(words) else words
