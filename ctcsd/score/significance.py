"""How sure an error rate is: bootstrap over utterances (Bisani and Ney 2004)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def bootstrap_interval(
    errors: Sequence[int], words: Sequence[int], level: float = 0.95, resamples: int = 10000, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of the corpus error rate, in percent, from resampled utterances.

    Args:
        errors, words: per utterance, the errors and the reference words.
        level: coverage.
        resamples, seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        ValueError: no utterance, or lists of different lengths.
    """
    e, w = np.asarray(errors, dtype=np.float64), np.asarray(words, dtype=np.float64)
    if len(e) == 0 or len(e) != len(w):
        raise ValueError("one error count and one word count per utterance are needed")
    rng = np.random.default_rng(seed)
    rates = np.empty(resamples)
    step = max(1, 2_000_000 // len(e))  # bounds the memory of a draw
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        draw = rng.integers(0, len(e), (size, len(e)))
        total = w[draw].sum(1)
        rates[start : start + size] = 100.0 * e[draw].sum(1) / np.maximum(total, 1.0)
    tail = 50.0 * (1.0 - level)
    low, high = np.percentile(rates, [tail, 100.0 - tail])
    return float(low), float(high)
