"""Words and their pronunciations: words.txt (k2's and Kaldi's symbol table) and lexicon.txt (`WORD TOKEN TOKEN ...`).

A word spelt with a lang dir's own tokens says where words part, so that its tokens alone give the text back:

- BPE pieces as sentencepiece cuts the word: U+2581 at the word's start belongs to its first piece.
- Characters, then the space token U+2581 (as in wav2letter's lexicons). With the space at its end no word's spelling
  begins another's. An utterance ends without a space, so whoever decodes with this lexicon takes the last one as
  optional: `Hypothesis.text` is the same with and without it.

Phones come from a dictionary in cmudict's plain text format.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

from ctcsd.errors import UserError
from ctcsd.text.files import lines_of, read_symbols, symbol_lines
from ctcsd.text.ngram import BOS, EOS, UNK
from ctcsd.text.tokenizer import SPACE, Tokenizer

EPSILON, BACKOFF = "<eps>", "#0"
RESERVED = frozenset({EPSILON, BACKOFF, BOS, EOS, UNK})
WORD_END = "#"  # behind the last phone of a word, where wanted
MISSING = ("spell", "drop", "error")

Pronunciations = Mapping[str, Sequence[Sequence[str]]]
Lexicon = dict[str, list[list[str]]]


def spell(words: Iterable[str], tokenizer: Tokenizer) -> tuple[Lexicon, list[str]]:
    """The words spelt with a lang dir's tokens, sorted, and those that these tokens cannot spell."""
    lexicon: Lexicon = {}
    missing: list[str] = []
    for word in sorted(set(words)):
        try:
            tokens = [tokenizer.table.symbols[i] for i in tokenizer.encode(word)]
        except UserError:
            missing.append(word)
            continue
        if not tokens[0].startswith(SPACE):
            tokens.append(SPACE)
        if tokenizer.table.text_of(map(tokenizer.table.ids.__getitem__, tokens)) == word:
            lexicon[word] = [tokens]
        else:  # the space mark itself stands in it
            missing.append(word)
    return lexicon, missing


def make_lexicon(
    words: Iterable[str], pronunciations: Pronunciations, missing: str = "spell", word_end: bool = False
) -> tuple[Lexicon, list[str]]:
    """The words with their pronunciations from a dictionary, sorted, and those that the dictionary lacks.

    Args:
        missing: what becomes of these: `spell` (each letter stands for a phone), `drop`, or `error`.
        word_end: mark the last phone of a word (`AH` -> `AH#`), so that phones alone tell where words part.

    Raises:
        UserError: words are missing where none may be, or none is left.
    """
    if missing not in MISSING:
        raise UserError(f"missing words are treated by {', '.join(MISSING)}, not '{missing}'")
    wanted = sorted(set(words))
    absent = [word for word in wanted if not pronunciations.get(word)]
    if absent and missing == "error":
        raise UserError(f"{len(absent)} of {len(wanted)} words have no pronunciation; the first is '{absent[0]}'")
    lexicon: Lexicon = {}
    for word in wanted:
        found = pronunciations.get(word) or ([list(word)] if missing == "spell" else [])
        if found:
            lexicon[word] = [[*phones[:-1], phones[-1] + WORD_END] if word_end else list(phones) for phones in found]
    if not lexicon:
        raise UserError("the lexicon is empty: the dictionary has none of the words")
    return lexicon, absent


def read_pronunciations(path: Path, stress: bool = False) -> Lexicon:
    """A dictionary in cmudict's format: `word PHONE PHONE`, `word(2) ...` for another pronunciation; words lower-case.

    Lines that start with `;;;` and what follows ` #` are comments. Without `stress`, the digits of vowels go.

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
        _add(found, word, phones if stress else [phone.rstrip("0123456789") for phone in phones])
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
