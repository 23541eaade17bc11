"""How sure an error rate, or the difference of two, is: bootstrap over utterances (Bisani and Ney 2004)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class PairedDifference:
    """A system beside a baseline: error rate minus the baseline's and its interval, in percent (negative is better).

    improvement: probability of improvement, from 0 to 1.
    """

    difference: float
    low: float
    high: float
    improvement: float


def bootstrap_interval(
    errors: ArrayLike, words: ArrayLike, level: float = 0.95, resamples: int = 10000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the corpus error rate, in percent, from resampled utterances.

    Args:
        errors, words: per utterance, the errors and the reference words.
        level: coverage.
        resamples, seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        ValueError: no utterance, or lists of different lengths.
    """
    total_errors, total_words = _resampled((errors, words), resamples, seed)
    return _interval(_rate(total_errors, total_words), level)


def paired_bootstrap(
    system: ArrayLike, baseline: ArrayLike, words: ArrayLike, level: float = 0.95, resamples: int = 10000, seed: int = 0
) -> PairedDifference:
    """The difference of two corpus error rates; both systems are resampled on the same utterances.

    The probability of improvement is the share of resamples in which the system has fewer errors, ties counting half.

    Args:
        system, baseline: per utterance, the errors of each; words: the reference words, common to both.
        level, resamples, seed: as in `bootstrap_interval`.

    Raises:
        ValueError: no utterance, or lists of different lengths.
    """
    s, b, w = _resampled((system, baseline, words), resamples, seed)
    low, high = _interval(_rate(s - b, w), level)
    difference = _rate(np.sum(system) - np.sum(baseline), np.sum(words))
    return PairedDifference(float(difference), low, high, float(np.mean((s < b) + 0.5 * (s == b))))


def _resampled(counts: Sequence[ArrayLike], resamples: int, seed: int) -> np.ndarray:
    """(K lists of U counts) -> (K, resamples) sums, each over U utterances drawn with replacement."""
    columns = [np.asarray(column, dtype=np.float64) for column in counts]
    utterances = len(columns[0])
    if utterances == 0 or any(len(column) != utterances for column in columns):
        raise ValueError("one error count and one word count per utterance are needed")
    rng = np.random.default_rng(seed)
    sums = np.empty((len(columns), resamples))
    step = max(1, 2_000_000 // utterances)  # bounds the memory of a draw
    for start in range(0, resamples, step):
        draw = rng.integers(0, utterances, (min(step, resamples - start), utterances))
        for column, total in zip(columns, sums):
            total[start : start + step] = column[draw].sum(1)
    return sums


def _rate(errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    return 100.0 * errors / np.maximum(words, 1.0)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(values, [tail, 100.0 - tail])
    return float(low), float(high)
