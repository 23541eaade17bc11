"""N-gram models by interpolated modified Kneser-Ney smoothing (Chen and Goodman 1999), as KenLM's lmplz makes them.

For an n-gram `h w` with adjusted count a, of which all that follow context h sum to A(h):

    p(w | h) = max(a - D(a), 0) / A(h) + backoff(h) * p(w | h without its first word)

D(a) is one of three discounts per order (a = 1, 2, 3 and more), 0 for a = 0. The adjusted count is the number of
different words before the n-gram; at the highest order, and where it starts with <s>, how often it occurs. Unigrams
are interpolated with the uniform distribution over all words, </s> and <unk>. Counts are numpy arrays, a table per
order, because dictionaries of a million words' 5-grams would not fit into a gigabyte.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ctcsd.errors import UserError

UNK, BOS, EOS = "<unk>", "<s>", "</s>"
MAX_ORDER = 5
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)  # lmplz --discount_fallback


@dataclass
class Table:
    """The n-grams of one length, sorted by their words' ids; M of them, all arrays (M,).

    `context` (the n-gram without its last word) and `suffix` (without its first) are rows of the table one length
    below; for unigrams both are 0, the one empty n-gram.
    """

    context: np.ndarray
    suffix: np.ndarray
    word: np.ndarray
    count: np.ndarray
    kept: np.ndarray  # bool: not pruned
    probability: np.ndarray
    backoff: np.ndarray | None = None  # None at the highest order


@dataclass
class NgramModel:
    """An estimated model: words by id and a table per order."""

    words: list[str]
    tables: list[Table]

    @property
    def counts(self) -> list[int]:
        """How many n-grams of each order are kept."""
        return [int(table.kept.sum()) for table in self.tables]

    def describe(self) -> str:
        """The counts in words."""
        return ", ".join(f"{count} {n}-grams" for n, count in enumerate(self.counts, start=1))


def estimate(
    sentences: Iterable[str], order: int = 3, prune: Sequence[int] = (), vocabulary: Iterable[str] | None = None
) -> NgramModel:
    """Estimate a model from sentences, one per item; empty ones do not count.

    Args:
        order: 1 to 5; where no sentence is long enough for it, the model has the orders that there are.
        prune: a threshold per order: n-grams that occur as often or less are left out, and their probability goes to
            the backoff. The first is 0, none is below the one before it, and the last stands for all that follow.
        vocabulary: where given, exactly these words are known: any other is <unk>, and those that the sentences lack
            share their probability with it.

    Raises:
        UserError: a wrong order or threshold, no text, or one of <s>, </s> and <unk> as a word of the text.
    """
    if not 1 <= order <= MAX_ORDER:
        raise UserError(f"the order of an n-gram model is 1 to {MAX_ORDER}, not {order}")
    thresholds = [*prune, *[prune[-1] if prune else 0] * order][:order]
    if len(prune) > order or thresholds[0] != 0 or thresholds != sorted(thresholds):
        shown = " ".join(map(str, prune))
        raise UserError(f"pruning takes at most {order} thresholds, 0 and then none below the one before, not {shown}")
    words, corpus = _number(sentences, vocabulary)
    tables = _count(corpus, len(words), order)
    for table, threshold in zip(tables[1:], thresholds[1:]):
        table.kept = table.count > threshold
    _smooth(tables)
    return NgramModel(words, tables)


def discounts(adjusted: np.ndarray) -> tuple[float, ...]:
    """D(1), D(2), D(3 and more) from counts of counts as Chen and Goodman estimate them.

    Where a count of counts is 0 or a discount is negative, as in tiny texts, they are 0.5, 1 and 1.5.
    """
    n = np.bincount(np.minimum(adjusted, 5), minlength=6)[:5].tolist()
    if 0 in n[1:4]:
        return FALLBACK_DISCOUNTS
    y = n[1] / (n[1] + 2 * n[2])
    amounts = tuple(k - (k + 1) * y * n[k + 1] / n[k] for k in (1, 2, 3))
    return amounts if min(amounts) >= 0 else FALLBACK_DISCOUNTS


def _number(sentences: Iterable[str], vocabulary: Iterable[str] | None) -> tuple[list[str], np.ndarray]:
    """Words sorted after <unk>, <s>, </s>, and the text as their ids, each sentence between <s> and </s>."""
    ids = {word: i for i, word in enumerate((UNK, BOS, EOS))}
    for word in vocabulary or ():
        ids.setdefault(word, len(ids))
    text = array("q")
    for number, sentence in enumerate(sentences, start=1):
        words = sentence.split()
        for word in (UNK, BOS, EOS):
            if word in words:
                raise UserError(f"sentence {number} of the text holds the word {word}, which has a meaning of its own")
        if words:
            found = (
                (ids.setdefault(w, len(ids)) for w in words) if vocabulary is None else (ids.get(w, 0) for w in words)
            )
            text.extend((1, *found, 2))
    if not text:
        raise UserError("there is no text to estimate an n-gram model from")
    names = list(ids)
    by_name = [0, 1, 2, *sorted(range(3, len(names)), key=names.__getitem__)]
    rank = np.empty(len(names), dtype=np.int64)
    rank[by_name] = np.arange(len(names))
    return [names[i] for i in by_name], rank[np.frombuffer(text, dtype=np.int64)]


def _count(corpus: np.ndarray, vocabulary_size: int, order: int) -> list[Table]:
    """A table per order up to `order` that the text has n-grams of, none pruned, without probabilities yet."""
    unigrams = np.arange(vocabulary_size)
    nothing = np.zeros(vocabulary_size, dtype=np.int64)
    none = np.zeros(0)
    everything = np.ones(vocabulary_size, dtype=bool)
    tables = [Table(nothing, nothing, unigrams, np.bincount(corpus, minlength=vocabulary_size), everything, none)]
    at = np.arange(len(corpus))
    within = at - np.maximum.accumulate(np.where(corpus == 1, at, 0))  # places after the sentence's <s>
    ending = corpus  # at every place, the row of the (n-1)-gram that ends there
    for n in range(2, order + 1):
        ends = np.flatnonzero(within >= n - 1)
        if not len(ends):
            break
        keys = ending[ends - 1] * vocabulary_size + corpus[ends]
        unique, first, row, count = np.unique(keys, return_index=True, return_inverse=True, return_counts=True)
        context, word = np.divmod(unique, vocabulary_size)
        tables.append(Table(context, ending[ends[first]], word, count, np.ones(len(unique), dtype=bool), none))
        ending = np.zeros_like(corpus)
        ending[ends] = row
    return tables


def _smooth(tables: list[Table]) -> None:
    """Fill in probabilities and backoffs."""
    lower = np.array([1.0 / (len(tables[0].word) - 1)])  # of the empty n-gram: uniform over all words but <s>
    starts = np.array([False])
    for n, table in enumerate(tables, start=1):
        starts = starts[table.context] if n > 1 else table.word == 1
        adjusted = table.count
        if n < len(tables):
            adjusted = np.where(starts, table.count, np.bincount(tables[n].suffix, minlength=len(table.word)))
        if n == 1:
            adjusted = np.where(starts, 0, adjusted)  # <s> is given, never predicted
        discount = np.array([0.0, *discounts(adjusted)])[np.minimum(adjusted, 3)]
        total = np.bincount(table.context, adjusted, len(lower))
        left = np.bincount(table.context, np.where(table.kept, discount, adjusted), len(lower))
        backoff = np.divide(left, total, out=np.ones(len(lower)), where=total > 0)
        direct = (adjusted - discount) / total[table.context]
        table.probability = direct + backoff[table.context] * lower[table.suffix]
        if n == 1:
            table.probability[1] = 1.0  # as lmplz, so that a sentence may be scored with its <s>
        else:
            tables[n - 2].backoff = backoff
        lower = table.probability
