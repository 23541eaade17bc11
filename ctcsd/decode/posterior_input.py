"""What every search does to posteriors first: tell those that no search can use, and divide the label prior out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from ctcsd.errors import UserError, first_line


def unusable(log_probs: np.ndarray) -> str | None:
    """Why no search can use these (T, V) log-probs; None where it can."""
    with np.errstate(invalid="ignore", over="ignore"):
        if math.isfinite(log_probs.sum()):  # then each is; asking each takes twice the time
            return None
    for wrong, what in ((np.isnan(log_probs), "NaN"), (np.isposinf(log_probs), "infinity")):
        if wrong.any():
            frame, token = np.argwhere(wrong)[0].tolist()
            return f"{what} in its posteriors, first in frame {frame}, token {token}"
    impossible = np.isneginf(log_probs).all(1)
    if impossible.any():
        return f"no token is possible in frame {int(impossible.argmax())}"
    return None


def scaled_log_prior(prior: str | Path | None, prior_scale: float, vocab_size: int) -> np.ndarray | None:
    """What is subtracted from each frame's log-probs: (V,) float32, prior_scale * ln prior; None for scale 0.

    Args:
        prior: a .npy file of the V probabilities of the tokens, blank first.

    Raises:
        UserError: a scale without a prior, or a file that does not hold V positive probabilities.
    """
    if not prior_scale:
        return None
    if prior is None:
        raise UserError("decode.prior_scale wants decode.prior: a .npy file of the tokens' probabilities")
    try:
        with open(prior, "rb") as file:
            probabilities = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # numpy's reader of headers raises more than it says
        reason = first_line(error)
        raise UserError(f"{prior}: no prior can be read ({reason}); `ctcsd posteriors` makes a run's own") from None
    if probabilities.shape != (vocab_size,):
        raise UserError(f"{prior}: a prior has shape ({vocab_size},) here, not {probabilities.shape}")
    if probabilities.dtype.kind != "f" or not (probabilities > 0).all() or abs(probabilities.sum() - 1) > 1e-3:
        raise UserError(f"{prior}: a prior holds positive probabilities (not their logarithms) that sum to 1")
    return (prior_scale * np.log(probabilities)).astype(np.float32)
