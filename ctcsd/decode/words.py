"""What tokens mean in words: the lexicon and a word n-gram model as a model of token sequences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ctcsd.decode.graphs import LM, pronunciations
from ctcsd.text.arpa import Arpa, read_arpa
from ctcsd.text.ngram import BOS, EOS
from ctcsd.text.tokenizer import SPACE, TokenTable


class Node:
    """A beginning of words in the lexicon's tree; `ahead` is the best unigram score below it."""

    def __init__(self) -> None:
        self.children: dict[int, Node] = {}
        self.words: list[tuple[str, bool]] = []  # that end here, and whether a space follows
        self.ahead = -math.inf


class Reading(NamedTuple):
    """One way to read tokens as words: the score of the complete ones, and these."""

    score: float
    words: tuple[str, ...]


class State:
    """All ways to read a token sequence, the best of those that go on alike; `tokens` are those that may follow."""

    def __init__(self, readings: dict[tuple[Node, tuple[str, ...]], Reading]) -> None:
        self.readings = readings
        self.value = max((r.score + node.ahead for (node, _), r in readings.items()), default=-math.inf)
        self.tokens = {token for node, _ in readings for token in node.children}


class WordModel:
    """Scores token sequences by the words that they spell: lm_scale * ln p(words) + word_score * their number.

    A sequence may be read in several ways (homophones); it has the score of the best. Inside a word, the score
    looks ahead to the best unigram that the word may become.
    """

    def __init__(self, table: TokenTable, lang_dir: Path, lm_scale: float, word_score: float) -> None:
        self.lm: Arpa | None = read_arpa(Path(lang_dir) / LM) if lm_scale else None
        self.scale, self.word_score = lm_scale * math.log(10), word_score
        self.root, self.space = Node(), Node()
        self.root.ahead = self.space.ahead = 0.0
        self.space.children[table.ids.get(SPACE, -1)] = self.root
        for word, tokens, space in pronunciations(lang_dir, table):
            score, node = self._score((), word), self.root
            for token in tokens:
                node = node.children.setdefault(token, Node())
                node.ahead = max(node.ahead, score)
            node.words.append((word, space))

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

    def finish(self, state: State) -> Reading | None:
        """The best reading as complete words, the end of the sentence scored; None where there is none."""
        ended = [
            Reading(reading.score + (self.scale * self.lm.log10(context, EOS) if self.lm else 0.0), reading.words)
            for (node, context), reading in state.readings.items()
            if node in (self.root, self.space)
        ]
        return max(ended, default=None)

    def _score(self, context: Sequence[str], word: str) -> float:
        return self.word_score + (self.scale * self.lm.log10(context, word) if self.lm else 0.0)

    def _context(self, words: tuple[str, ...]) -> tuple[str, ...]:
        """As much of the words as the model can see."""
        keep = len(self.lm.counts) - 1 if self.lm else 0
        return words[len(words) - keep :] if keep < len(words) else words
