"""The ARPA format of n-gram models: writing an estimated one, reading any, scoring with it.

A section's lines hold log10 probability, n-gram and, below the highest order, log10 backoff, separated by tabs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ctcsd.errors import UserError
from ctcsd.files import lines_of, replacing
from ctcsd.text.ngram import BOS, EOS, UNK, NgramModel

_FIELDS = re.compile(r"[ \t]+")  # str.split would cut a word at a no-break space
_COUNT = re.compile(r"ngram +(\d+) *= *(\d+)")
UNKNOWN_MISSING = -100.0  # what KenLM gives an unknown word where the model has no <unk>


def write_arpa(model: NgramModel, path: Path) -> None:
    """Write a model with seven decimals, whole or not at all."""
    with replacing(path) as partial, open(partial, "w", encoding="utf-8") as out:
        out.write("\\data\\\n" + "".join(f"ngram {n}={count}\n" for n, count in enumerate(model.counts, start=1)))
        names: list[str] = []
        for n, table in enumerate(model.tables, start=1):
            words = [model.words[i] for i in table.word.tolist()]
            names = [f"{names[c]} {word}" for c, word in zip(table.context.tolist(), words)] if n > 1 else words
            probabilities = _log10(table.probability)
            backoffs = None if table.backoff is None else _log10(table.backoff)
            out.write(f"\n\\{n}-grams:\n")
            for i in np.flatnonzero(table.kept).tolist():
                backoff = "" if backoffs is None else f"\t{backoffs[i]:.7f}"
                out.write(f"{probabilities[i]:.7f}\t{names[i]}{backoff}\n")
        out.write("\n\\end\\\n")


def copy_arpa(source: Path, target: Path) -> list[str]:
    """Copy an ARPA file, plain or .gz, in lower case; returns its words.

    Raises:
        UserError: as `lines_of`, not a whole ARPA file, sections of other sizes than its header says, or words that
            differ by their case alone.
    """
    words, section, rows = [], "", 0
    counts: dict[str, int] = {}  # of the header, by section
    with replacing(target) as partial, open(partial, "w", encoding="utf-8") as out:
        for number, line in enumerate(lines_of(source), start=1):
            line = line.lower()
            if line.startswith("\\"):
                if rows != counts.get(section, rows):
                    raise UserError(
                        f"{source}: line {number}: {rows} {section} where the header says {counts[section]}"
                    )
                section, rows = line.strip(), 0
            elif section == "\\data\\" and (count := _COUNT.fullmatch(line.strip(" \t"))):
                counts[f"\\{count[1]}-grams:"] = int(count[2])
            elif line.strip(" \t"):
                rows += 1
                if section == "\\1-grams:":
                    fields = _FIELDS.split(line.strip(" \t"))
                    if len(fields) < 2:
                        raise UserError(f"{source}: a 1-gram without a word: '{line}'")
                    words.append(fields[1])
            out.write(f"{line}\n")
        if section != "\\end\\" or not words:
            raise UserError(f"{source}: not a whole ARPA file")
        if len(set(words)) < len(words):
            raise UserError(f"{source}: some of its words differ by their case alone, and ctcsd knows lower case only")
    return [word for word in words if word not in (BOS, EOS, UNK)]


class Arpa:
    """A model in memory: log10 probabilities by n-gram, and the log10 backoffs that are not 0."""

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = list(counts)
        self.probabilities: dict[tuple[str, ...], float] = {}
        self.backoffs: dict[tuple[str, ...], float] = {}

    def log10(self, context: Sequence[str], word: str) -> float:
        """log10 p(word | context), which may be longer than the model's order; unknown words count as <unk>."""
        ngram = tuple(w if (w,) in self.probabilities else UNK for w in (*context, word))[-len(self.counts) :]
        total = 0.0
        while ngram not in self.probabilities:
            if len(ngram) == 1:
                return total + UNKNOWN_MISSING
            total += self.backoffs.get(ngram[:-1], 0.0)
            ngram = ngram[1:]
        return total + self.probabilities[ngram]

    def score(self, words: Sequence[str], bos: bool = True, eos: bool = True) -> float:
        """log10 probability of a sentence: after <s>, and with the </s> that ends it, unless told otherwise."""
        sentence = [*[BOS] * bos, *words, *[EOS] * eos]
        keep = len(self.counts) - 1
        return sum(self.log10(sentence[max(0, i - keep) : i], sentence[i]) for i in range(int(bos), len(sentence)))


@dataclass
class Perplexity:
    """What a model gives a text. log10 probabilities include each sentence's </s>."""

    sentences: int = 0
    words: int = 0
    unknown: int = 0
    log10: float = 0.0
    log10_known: float = 0.0  # the unknown words' own probabilities left out

    def __str__(self) -> str:
        tokens = self.words + self.sentences
        every = 10 ** (-self.log10 / max(1, tokens))
        known = 10 ** (-self.log10_known / max(1, tokens - self.unknown))
        return (
            f"{self.sentences} sentences, {self.words} words, {self.unknown} unknown: "
            f"perplexity {every:.2f}, without the unknown words {known:.2f}"
        )


def perplexity(arpa: Arpa, sentences: Iterable[str]) -> Perplexity:
    """Score a text, a sentence per item; empty ones do not count."""
    found = Perplexity()
    keep = len(arpa.counts) - 1
    for words in filter(None, (sentence.split() for sentence in sentences)):
        found.sentences += 1
        found.words += len(words)
        padded = [BOS, *words, EOS]
        for i, word in enumerate(padded[1:], start=1):
            score = arpa.log10(padded[max(0, i - keep) : i], word)
            known = (word,) in arpa.probabilities
            found.unknown += not known
            found.log10 += score
            found.log10_known += score if known else 0.0
    return found


def read_arpa(path: Path) -> Arpa:
    """Read a model, plain or .gz.

    Raises:
        UserError: not an ARPA file, or a broken one: sections that do not hold what the header says, a line that is no
            n-gram, an n-gram that stands twice or has a word that is no unigram; file and line are named.
    """
    parser, number = _Parser(), 0
    try:
        for line in lines_of(path):
            number += 1
            if line.strip() and not parser.ended:
                parser.take(line.strip(" \t"))
    except ValueError as error:
        raise UserError(f"{path}: line {number}: {error}") from None
    if not parser.ended:
        missing = "\\data\\: not an ARPA file" if parser.section is None else "\\end\\"
        raise UserError(f"{path}: line {number}: the file ends without {missing}")
    return parser.arpa


class _Parser:
    """Takes the lines one by one; raises ValueError at one that is wrong."""

    def __init__(self) -> None:
        self.arpa = Arpa([])
        self.section: int | None = None  # None before \data\, 0 in the header, then the order
        self.ended = False
        self._rows = 0
        self._unigrams: dict[str, str] = {}  # so that all n-grams share the same strings

    def take(self, line: str) -> None:
        if self.section is None:
            self.section = 0 if line == "\\data\\" else None
        elif line.startswith("\\"):
            self._begin(line, self.section)
        elif self.section == 0:
            count = _COUNT.fullmatch(line)
            if not count or int(count[1]) != len(self.arpa.counts) + 1:
                raise ValueError(f"this should read 'ngram {len(self.arpa.counts) + 1}=COUNT'")
            self.arpa.counts.append(int(count[2]))
        else:
            self._ngram(_FIELDS.split(line), self.section)

    def _begin(self, line: str, section: int) -> None:
        counts = self.arpa.counts
        if section and self._rows != counts[section - 1]:
            raise ValueError(f"{self._rows} {section}-grams end here, where the header says {counts[section - 1]}")
        if not counts:
            raise ValueError("this should read 'ngram 1=COUNT'")
        expected = f"\\{section + 1}-grams:" if section < len(counts) else "\\end\\"
        if line != expected:
            raise ValueError(f"this should read '{expected}'")
        self.section, self._rows = section + 1, 0
        self.ended = line == "\\end\\"

    def _ngram(self, fields: list[str], order: int) -> None:
        most = order + 1 + (order < len(self.arpa.counts))
        if not order < len(fields) <= most:
            raise ValueError(f"an n-gram's line has {order + 1} to {most} fields here, not {len(fields)}")
        probability, backoff = float(fields[0]), float(fields[order + 1]) if len(fields) > order + 1 else 0.0
        if not probability <= 0 or not math.isfinite(backoff):
            raise ValueError("a log10 probability is at most 0, and a backoff is a number")
        words = fields[1 : order + 1]
        if order == 1:
            self._unigrams[words[0]] = words[0]
        unknown = [word for word in words if word not in self._unigrams]
        if unknown:
            raise ValueError(f"'{unknown[0]}' is not among the unigrams")
        ngram = tuple(self._unigrams[word] for word in words)
        if ngram in self.arpa.probabilities:
            raise ValueError(f"'{' '.join(words)}' stands twice")
        self.arpa.probabilities[ngram] = probability
        if backoff:
            self.arpa.backoffs[ngram] = backoff
        self._rows += 1


def _log10(values: np.ndarray) -> list[float]:
    return np.log10(np.maximum(values, 1e-99)).tolist()  # a backoff may be 0
