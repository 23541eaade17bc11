"""Where tokens lie in time: the best CTC path of a given token sequence, by torchaudio's forced alignment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from ctcsd.data.feasibility import ctc_feasible
from ctcsd.errors import UserError


class TokenSpan(NamedTuple):
    """A token on frames start to end (not included), and its mean posterior there, 0 to 1."""

    token: int
    start: int
    end: int
    confidence: float


def align_tokens(log_probs: np.ndarray, tokens: Sequence[int]) -> list[TokenSpan]:
    """The frames of each token on the most probable path that spells `tokens`.

    Args:
        log_probs: (T, V) natural-log probabilities, blank = 0.
        tokens: (U,) ids without blanks.

    Raises:
        UserError: fewer frames than CTC needs for the tokens, or posteriors that are not numbers.
    """
    if not tokens:
        return []
    if not ctc_feasible(len(log_probs), tokens):
        raise UserError(f"{len(log_probs)} frames are too few for {len(tokens)} tokens")
    if np.isnan(log_probs).any():
        raise UserError("NaN among the posteriors")
    from torchaudio.functional import forced_align

    path, scores = forced_align(
        torch.from_numpy(np.ascontiguousarray(log_probs, dtype=np.float32))[None].clamp(min=-1e4),
        torch.tensor([list(tokens)], dtype=torch.int32),
        blank=0,
    )
    spans: list[TokenSpan] = []
    labels, frame_scores = path[0].tolist(), scores[0].exp().tolist()
    start = 0
    for frame in range(1, len(labels) + 1):
        if frame == len(labels) or labels[frame] != labels[start]:
            if labels[start] != 0:
                confidence = sum(frame_scores[start:frame]) / (frame - start)
                spans.append(TokenSpan(labels[start], start, frame, confidence))
            start = frame
    return spans
