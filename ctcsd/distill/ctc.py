"""The CTC loss, with utterances that no path can emit counted and left out instead of turning it infinite."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLANK = 0


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Sum over the batch of -log P(labels | features), in nats (Graves et al. 2006).

    Args:
        logits: (N, T, V), not normalised; blank = 0.
        lengths: (N,) int64 frames.
        targets: (N, U) int64 labels, padded with anything.
        target_lengths: (N,) int64.

    Returns:
        the loss, and the number of utterances that are infeasible (too few frames for their labels); those add
        nothing to the loss or its gradient.
    """
    log_probs = logits.float().log_softmax(-1).transpose(0, 1)
    losses = F.ctc_loss(log_probs, targets, lengths, target_lengths, blank=BLANK, reduction="none", zero_infinity=True)
    return losses.sum(), infeasible(lengths, targets, target_lengths).sum()


def infeasible(lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """bool (N,): fewer frames than labels plus adjacent equal labels, so that no CTC path exists."""
    inside = torch.arange(targets.size(1), device=targets.device) < target_lengths[:, None]
    repeats = ((targets[:, 1:] == targets[:, :-1]) & inside[:, 1:]).sum(1)
    return lengths < target_lengths + repeats
