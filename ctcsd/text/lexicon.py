"""Words and their pronunciations: words.txt (k2's and Kaldi's symbol table) and lexicon.txt (`WORD TOKEN TOKEN ...`).

A word spelt with a lang dir's own tokens says where words part, so that its tokens alone give the text back:

- BPE pieces as sentencepiece cuts the word: U+2581 at the word's start belongs to its first piece.
- Characters, then the space token U+2581 (as in wav2letter's lexicons). With the space at its end no word's spelling
  begins another's. An utterance ends without a space, so whoever decodes with this lexicon takes the last one as
  optional: `Hypothesis.text` is the same with and without it.

Phones do not: a word has its pronunciations, and homophones have the same.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from ctcsd.errors import UserError
from ctcsd.files import lines_of, read_symbols, symbol_lines
from ctcsd.text.ngram import BOS, EOS, UNK

EPSILON, BACKOFF = "<eps>", "#0"
RESERVED = frozenset({EPSILON, BACKOFF, BOS, EOS, UNK})

Pronunciations = Mapping[str, Sequence[Sequence[str]]]
Lexicon = dict[str, list[list[str]]]


def read_pronunciations(path: Path, stress: bool = False) -> Lexicon:
    """A dictionary in cmudict's or Kaldi's format: `WORD PHONE PHONE`, and lines of the word, or `WORD(2)`, for others.

    Words come out in lower case; of equal pronunciations one stays. Lines that start with `;;;` and what follows ` #`
    are comments. Without `stress`, the digits at the ends of phones go.

    Raises:
        UserError: a word without pronunciation, or no word at all.
    """
    found: Lexicon = {}
    for number, line in enumerate(lines_of(path), start=1):
        word, *phones = ("" if line.startswith(";;;") else line.split(" #")[0]).split() or [""]
        if not word:
            continue
        if not phones:
            raise UserError(f"{path}: line {number}: '{word}' has no pronunciation")
        word = re.sub(r"(?<=.)\(\d+\)$", "", word).lower()
        _add(found, word, phones if stress else [phone.rstrip("0123456789") or phone for phone in phones])
    if not found:
        raise UserError(f"{path}: there is no pronunciation in it")
    return found


def lexicon_lines(lexicon: Pronunciations) -> str:
    """The content of lexicon.txt: a line per pronunciation."""
    return "".join(f"{word} {' '.join(tokens)}\n" for word, variants in lexicon.items() for tokens in variants)


def read_lexicon(path: Path, tokens: Container[str] | None = None) -> Lexicon:
    """Read lexicon.txt: a word's pronunciations in the order of its lines.

    Args:
        tokens: the tokens that may stand in it, such as `TokenTable.ids`; None: any.

    Raises:
        UserError: an empty lexicon, or a line without pronunciation, with an unknown token, or with a reserved word.
    """
    found: Lexicon = {}
    for number, line in enumerate(lines_of(path), start=1):
        word, *spelling = line.split() or [""]
        if not word:
            continue
        if word in RESERVED:
            raise UserError(f"{path}: line {number}: {word} is reserved and cannot be a word")
        if not spelling:
            raise UserError(f"{path}: line {number}: '{word}' has no pronunciation")
        unknown = [token for token in spelling if tokens is not None and token not in tokens]
        if unknown:
            raise UserError(f"{path}: line {number}: '{unknown[0]}' of '{word}' is not in tokens.txt")
        _add(found, word, spelling)
    if not found:
        raise UserError(f"{path}: the lexicon is empty")
    return found


def word_lines(words: Iterable[str]) -> str:
    """The content of words.txt: <eps> (0), the words sorted, #0, <s>, </s>.

    Raises:
        UserError: a word is one of these, or <unk>.
    """
    ordered = sorted(set(words))
    clash = RESERVED.intersection(ordered)
    if clash:
        raise UserError(f"{min(clash)} is reserved and cannot be a word")
    return symbol_lines([EPSILON, *ordered, BACKOFF, BOS, EOS])


def read_words(path: Path) -> list[str]:
    """The words of words.txt by their ids, `<eps>` first, then the words, then `#0`, `<s>`, `</s>`.

    Raises:
        UserError: a broken table, or one in another order.
    """
    symbols = read_symbols(path)
    if symbols[:1] != [EPSILON] or symbols[-3:] != [BACKOFF, BOS, EOS] or len(set(symbols)) != len(symbols):
        raise UserError(f"{path}: it should hold {EPSILON}, every word once, {BACKOFF}, {BOS} and {EOS}")
    return symbols


def _add(lexicon: Lexicon, word: str, tokens: list[str]) -> None:
    variants = lexicon.setdefault(word, [])
    if tokens not in variants:
        variants.append(tokens)
