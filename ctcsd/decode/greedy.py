"""Best-path decoding: the most probable token of every frame, repeats merged, blanks dropped (Graves et al. 2006)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ctcsd.decode.hypothesis import Found

BLOCK_FRAMES = 4096


def collapse(path: np.ndarray) -> tuple[list[int], list[int]]:
    """(T,) token ids per frame -> tokens without repeats and blanks, and the frame in which each starts."""
    starts = np.ones(len(path), dtype=bool)
    starts[1:] = path[1:] != path[:-1]
    frames = np.flatnonzero(starts & (path != 0))
    return path[frames].tolist(), frames.tolist()


def greedy(utterances: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, Found]]:
    """The best path of each utterance, by cut id, from its (T, V) log-probs.

    Some thousand frames are decoded together: numpy's calls on one utterance cost more than its frames.
    """
    block: list[tuple[str, np.ndarray]] = []
    frames = 0
    for cut_id, log_probs in utterances:
        block.append((cut_id, log_probs))
        frames += len(log_probs)
        if frames >= BLOCK_FRAMES:
            yield from _decode(block)
            block, frames = [], 0
    if block:
        yield from _decode(block)


def _decode(block: list[tuple[str, np.ndarray]]) -> Iterator[tuple[str, Found]]:
    gap = np.full((1, block[0][1].shape[1]), -np.inf, dtype=np.float32)
    gap[0, 0] = 0.0  # a blank after each utterance, lest its last token be merged with the next one's first
    joined = np.concatenate([part for _, log_probs in block for part in (log_probs, gap)])
    path = joined.argmax(1)
    scores = joined[np.arange(len(path)), path]
    tokens, frames = collapse(path)
    ends = np.cumsum([len(log_probs) + 1 for _, log_probs in block])
    start = first = 0
    for (cut_id, _), end, last in zip(block, ends.tolist(), np.searchsorted(frames, ends).tolist()):
        score = float(scores[start:end].sum(dtype=np.float64))
        yield cut_id, Found(tokens[first:last], [frame - start for frame in frames[first:last]], score)
        start, first = end, last
