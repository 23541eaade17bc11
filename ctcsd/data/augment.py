"""SpecAugment (Park et al. 1904.08779) on a padded batch."""

from __future__ import annotations

import torch
from torch import Tensor

from ctcsd.config import AugmentConfig


def spec_augment(features: Tensor, lengths: Tensor, cfg: AugmentConfig) -> Tensor:
    """Mask bands of time and of mel bins with the mean of the utterance in each bin, which the model turns into 0.

    Raw audio (N, samples) is left as it is: pretrained encoders mask their own frames.

    lhotse's SpecAugment draws a time mask over the padded width; here a mask falls on valid frames, and the masked
    share of an utterance is bounded, which short utterances need. No host synchronisation.

    Args:
        features: (N, T, F); lengths: (N,) frames.
        cfg: widths in frames and bins; a mask's width is uniform in [0, width].

    Returns:
        a new tensor of the same shape.
    """
    if features.ndim == 2:
        return features
    n, t, f = features.shape
    device = features.device
    widest = (lengths * cfg.time_fraction / max(cfg.time_masks, 1)).clamp(max=cfg.time_width)
    time = _bands(n, cfg.time_masks, t, widest, lengths, device)
    freq = _bands(n, cfg.freq_masks, f, torch.full((n,), float(cfg.freq_width), device=device), f, device)
    valid = (torch.arange(t, device=device) < lengths[:, None])[..., None]
    mean = (features * valid).sum(1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
    return torch.where(time[:, :, None] | freq[:, None, :], mean, features)


def _bands(n: int, count: int, size: int, widest: Tensor, limit: Tensor | int, device: torch.device) -> Tensor:
    """bool (N, size): the union of `count` bands per row, each within [0, limit)."""
    width = torch.rand((n, count), device=device) * (widest[:, None] + 1.0)
    room = (torch.as_tensor(limit, device=device).reshape(-1, 1) - width.floor()).clamp(min=0.0)
    start = (torch.rand((n, count), device=device) * (room + 1.0)).floor()
    at = torch.arange(size, device=device)[None, None]
    return ((at >= start[..., None]) & (at < (start + width.floor())[..., None])).any(1)
