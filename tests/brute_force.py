"""Every path of a small utterance, and every way to read tokens as words; and a lang dir with words for it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from fakes import random_log_probs

from ctcsd.decode.greedy import collapse
from ctcsd.text.lexicon import read_lexicon, word_lines
from ctcsd.text.tokenizer import SPACE, TokenTable

# Homophones (ba, baa), a word that begins another one, a variant, and words without a space at their end.
LEXICON = f"a a {SPACE}\nab a b {SPACE}\nba b a {SPACE}\nbaa b a {SPACE}\nc c {SPACE}\nc b b {SPACE}\nx c\nxa c a\n"
# The same words by phones, with a homophone, variants, and words that begin others.
PHONES = TokenTable(["<blk>", "AA", "B", "B#", "AA#"])
PHONE_LEXICON = "a AA#\na B#\nab AA B#\nba B AA#\nbaa B AA#\nbaa AA#\nc B\nx AA\nxa AA B\n"
# In each bigram, going on beats backing off: what G gives a sentence is then what the model gives it.
ARPA = """\\data\\
ngram 1=10
ngram 2=6

\\1-grams:
-2.0\t<unk>
0\t<s>\t-0.3
-0.8\t</s>
-0.6\ta\t-0.2
-0.9\tab\t-0.1
-0.7\tba
-0.9\tbaa\t-0.4
-1.1\tc\t-0.3
-1.4\tx
-1.2\txa

\\2-grams:
-0.3\t<s> a
-0.5\t<s> baa
-0.4\ta ba
-0.5\tbaa </s>
-0.2\tab </s>
-0.3\tc c

\\end\\
"""

# The smallest vocabulary: a blank and a token.
ONE_TOKEN = np.log(np.array([[0.2, 0.8], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7]], dtype=np.float32))  # best: a, blank, a, a
ONE_TOKEN_LEXICON = "a a\n"
ONE_TOKEN_ARPA = "\\data\\\nngram 1=3\n\n\\1-grams:\n0\t<s>\n-0.3\t</s>\n-0.3\ta\n\n\\end\\\n"


def add_words(lang_dir: Path, lexicon: str = LEXICON, arpa: str | None = ARPA) -> Path:
    """Put lexicon.txt, words.txt and lm.arpa into a lang dir."""
    (lang_dir / "lexicon.txt").write_text(lexicon, encoding="utf-8")
    words = word_lines(line.split()[0] for line in lexicon.splitlines())
    (lang_dir / "words.txt").write_text(words, encoding="utf-8")
    if arpa is not None:
        (lang_dir / "lm.arpa").write_text(arpa, encoding="utf-8")
    return lang_dir


def token_sequences(log_probs: np.ndarray) -> dict[tuple[int, ...], tuple[float, float]]:
    """Token sequence -> log of the sum over its paths, and the log-probability of the best of them."""
    frames, vocab = log_probs.shape
    found: dict[tuple[int, ...], tuple[float, float]] = {}
    for path in itertools.product(range(vocab), repeat=frames):
        score = float(log_probs[np.arange(frames), path].sum(dtype=np.float64))
        tokens = tuple(collapse(np.array(path))[0])
        total, best = found.get(tokens, (-np.inf, -np.inf))
        found[tokens] = (float(np.logaddexp(total, score)), max(best, score))
    return found


def readings(tokens: tuple[int, ...], lang_dir: Path) -> Iterator[tuple[str, ...]]:
    """Every word sequence that the lexicon spells so; the space at the end may be missing."""
    table = TokenTable.load(lang_dir)
    for word, variants in read_lexicon(lang_dir / "lexicon.txt").items():
        for spelling in variants:
            ids = tuple(table.ids[token] for token in spelling)
            if tokens == ids or (tokens == ids[:-1] and spelling[-1] == SPACE):
                yield (word,)
            elif tokens[: len(ids)] == ids:
                for rest in readings(tokens[len(ids) :], lang_dir):
                    yield (word, *rest)
    if not tokens:
        yield ()


def small_utterances(seed: int, number: int, vocab: int = 5, most_frames: int = 5) -> list[tuple[str, np.ndarray]]:
    """Random posteriors, flat and peaky in turn."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, most_frames + 1, size=number)
    return [(f"u{i}", random_log_probs(rng, int(n), vocab, (0.4, 4.0)[i % 2])) for i, n in enumerate(lengths)]


class Sentences:
    """ln p of sentences by KenLM's reader, which is not the toolkit's."""

    def __init__(self, lang_dir: Path) -> None:
        from flashlight.lib.text.decoder.kenlm import KenLM  # which the k2 interpreter lacks
        from flashlight.lib.text.dictionary import Dictionary

        self.words = list(read_lexicon(lang_dir / "lexicon.txt"))
        self.model = KenLM(str(lang_dir / "lm.arpa"), Dictionary(self.words))

    def log_prob(self, words: Sequence[str]) -> float:
        state, total = self.model.start(False), 0.0
        for word in words:
            state, log10 = self.model.score(state, self.words.index(word))
            total += log10
        return math.log(10) * (total + self.model.finish(state)[1])
