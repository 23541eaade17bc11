"""Made-up posteriors for the tests of both interpreters."""

from __future__ import annotations

import numpy as np


def random_log_probs(rng: np.random.Generator, frames: int, vocab_size: int, peak: float = 3.0) -> np.ndarray:
    """(T, V) float32 log-probabilities, the peakier the larger `peak`."""
    logits = rng.normal(size=(frames, vocab_size)) * peak
    logits -= np.log(np.exp(logits).sum(1, keepdims=True)) if frames else 0.0
    return logits.astype(np.float32)
