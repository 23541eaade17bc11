"""Best-path decoding: the most probable token of every frame, repeats merged, blanks dropped (Graves et al. 2006)."""

from __future__ import annotations

import numpy as np


def collapse(path: np.ndarray) -> tuple[list[int], list[int]]:
    """(T,) token ids per frame -> tokens without repeats and blanks, and the frame in which each starts."""
    starts = np.ones(len(path), dtype=bool)
    starts[1:] = path[1:] != path[:-1]
    frames = np.flatnonzero(starts & (path != 0))
    return path[frames].tolist(), frames.tolist()


def greedy(log_probs: np.ndarray) -> tuple[list[int], list[int], float]:
    """(T, V) log-probs -> tokens, their frames, and the log-probability of the best path."""
    if len(log_probs) == 0:
        return [], [], 0.0
    tokens, frames = collapse(log_probs.argmax(1))
    return tokens, frames, float(log_probs.max(1).sum(dtype=np.float64))
