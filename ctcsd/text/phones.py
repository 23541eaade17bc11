"""Phones as units: from a pronunciation dictionary to the tokens of a lang dir."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ctcsd.errors import UserError
from ctcsd.text.lexicon import RESERVED, Lexicon, lexicon_lines, read_pronunciations
from ctcsd.text.spelling import Speller
from ctcsd.text.tokenizer import BLANK_SYMBOL, DICTIONARY, TokenTable

WORD_END = "#"  # behind the last phone of a word, where wanted
MISSING = ("drop", "spell", "error")
MISSING_FILE = "missing.txt"


class PhoneOptions(NamedTuple):
    """A pronunciation dictionary, and how it is used.

    stress: keep the digits of vowels; word_end: mark the last phone of a word (`AH` -> `AH#`); missing: what becomes
    of the transcripts' words that the dictionary lacks: `drop` (utterances with such a word are not trained on),
    `spell` (by the rules of `Speller`), or `error`.
    """

    dictionary: Path
    stress: bool = False
    word_end: bool = False
    missing: str = "drop"


def train_phones(texts: Iterable[str], options: PhoneOptions, lang_dir: Path) -> TokenTable:
    """The phones of the texts' words, in all their pronunciations, sorted, after the blank.

    Writes `dictionary.txt`, all words of the dictionary that these phones pronounce and those that were spelt, and
    `missing.txt`, the words that the dictionary lacks, the most frequent first: `WORD COUNT PHONES` by tabs.

    Raises:
        UserError: as `read_pronunciations`; an unknown treatment of missing words; words are missing where none may
            be, or all of them.
    """
    path, missing = options.dictionary, options.missing
    if missing not in MISSING:
        raise UserError(f"lang.missing={missing}: missing words are treated by {', '.join(MISSING)}")
    known = read_pronunciations(path, options.stress)
    words = Counter(word for text in texts for word in text.split())
    absent = [(word, count) for word, count in words.most_common() if word not in known]
    if absent and missing == "error":
        raise UserError(f"{path} has no pronunciation of {len(absent)} of {len(words)} words, such as '{absent[0][0]}'")
    speller = Speller(known) if absent and missing == "spell" else None
    spelled = {word: speller(word) if speller else [] for word, _ in absent}
    known.update({word: [phones] for word, phones in spelled.items() if phones})
    if options.word_end:
        known = {word: [[*v[:-1], v[-1] + WORD_END] for v in variants] for word, variants in known.items()}
    tokens = {phone for word in words for variant in known.get(word, ()) for phone in variant}
    if not tokens:
        raise UserError(f"{path} has none of the words of the text")
    pronounced: Lexicon = {}
    for word, variants in known.items():
        if word not in RESERVED and (possible := [v for v in variants if tokens.issuperset(v)]):
            pronounced[word] = possible
    (lang_dir / DICTIONARY).write_text(lexicon_lines(pronounced), encoding="utf-8")
    rows = (f"{word}\t{count}\t{' '.join(spelled[word])}\n" for word, count in absent)
    (lang_dir / MISSING_FILE).write_text("".join(rows), encoding="utf-8")
    if absent:
        times = sum(count for _, count in absent)
        what = "spelt by rule" if missing == "spell" else "their utterances are not trained on"
        print(f"{len(absent)} words ({times} times) are not in {path}: {what}; see {MISSING_FILE}", flush=True)
    return TokenTable([BLANK_SYMBOL, *sorted(tokens)])
