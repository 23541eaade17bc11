"""Search with the pronunciations of a lexicon of phones: several per word, homophones, words that begin others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from brute_force import PHONE_LEXICON, PHONES, Sentences, add_words, readings, small_utterances, token_sequences

from ctcsd.decode import search
from ctcsd.decode.times import parts_of
from ctcsd.text.lexicon import read_lexicon
from ctcsd.text.tokenizer import TokenTable


@pytest.fixture
def table() -> TokenTable:
    return PHONES


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("beam", {"lexicon": True, "beam": 100_000, "beam_threshold": 1e6, "beam_tokens": 0}),
        ("wfst", {"graph": "HLG", "search_beam": 1000.0}),
    ],
)
def test_words_by_all_their_pronunciations(make_archive, lang_dir: Path, method: str, options: dict[str, Any]) -> None:
    """Against every path and every reading; beam sums the paths of a token sequence, wfst takes the best."""
    lm = Sentences(add_words(lang_dir, PHONE_LEXICON))
    utterances = small_utterances(11, 16)
    dictionary = read_lexicon(lang_dir / "lexicon.txt", PHONES.ids)
    variants = set()
    for (_, log_probs), found in zip(
        utterances, search(make_archive(utterances), lang_dir, method, lm_scale=0.7, **options)
    ):
        scores = {}
        for tokens, (total, best) in token_sequences(log_probs).items():
            for words in readings(tokens, lang_dir):
                scores[words, tokens] = (total if method == "beam" else best) + 0.7 * lm.log_prob(words)
        assert found.score == pytest.approx(max(scores.values()), abs=2e-3)
        assert scores[tuple(found.text.split()), tuple(found.tokens)] == pytest.approx(found.score, abs=2e-3)
        phones, words = [PHONES.symbols[token] for token in found.tokens], found.text.split()
        assert sum(count for _, count in parts_of(phones, words, dictionary)) == len(phones)
        variants |= {token for token in found.tokens} if "a" in found.text.split() else set()
    assert {PHONES.ids["B#"], PHONES.ids["AA#"]} <= variants, "both pronunciations of 'a' occur"


def test_without_a_lexicon_phones_are_found(make_archive, lang_dir: Path) -> None:
    reader = make_archive(small_utterances(12, 8))
    for method, options in (("greedy", {}), ("beam", {}), ("wfst", {"graph": "H"})):
        for found in search(reader, lang_dir, method, **options):
            assert found.text == " ".join(PHONES.symbols[i] for i in found.tokens)
