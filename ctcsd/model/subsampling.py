"""The front of the encoder: per-utterance normalisation and 4x convolutional subsampling.

Axes: N utterances, T frames, F mel bins, C channels, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def frame_mask(lengths: Tensor, num_frames: int) -> Tensor:
    """(N,) lengths in frames -> bool (N, T), True on valid frames."""
    return torch.arange(num_frames, device=lengths.device) < lengths[:, None]


def subsampled_length(num_frames: Any) -> Any:
    """Frames after 4x subsampling, ceil(ceil(T / 2) / 2), of an int or an int64 tensor."""
    return ((num_frames + 1) // 2 + 1) // 2


def minus_infinity(where: Tensor, like: Tensor) -> Tensor:
    """0, but -inf where the bool tensor is True; of the type of `like`."""
    return torch.zeros_like(where, dtype=like.dtype).masked_fill_(where, float("-inf"))


def normalize_utterance(features: Tensor, mask: Tensor, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance per utterance and mel bin over its valid frames; padding becomes 0.

    features: (N, T, F); mask: bool (N, T).
    """
    count = mask.sum(1).clamp(min=1)[:, None, None]
    features = features.masked_fill(~mask[..., None], 0.0)  # padding may be anything, NaN too
    mean = features.sum(1, keepdim=True) / count
    centred = (features - mean).masked_fill(~mask[..., None], 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * (variance + eps).rsqrt()


class ConvSubsampling(nn.Module):
    """Two 3x3 convolutions of stride 2, ReLU, then a projection to the model width.

    Output frame t sees input frames 4t-3 .. 4t+3. Padded frames are zeroed before each convolution, exactly as
    the convolution's own edge padding, so that an utterance's output does not depend on its batch. The maps lie in
    channels-last memory, and the projection reads them there: little over half the time (docs/performance.md).
    """

    def __init__(self, num_mel_bins: int, channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, channels, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.out = nn.Linear(channels * subsampled_length(num_mel_bins), dim)

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(N, T, F) normalised features, zero where padded, and (N,) lengths -> (N, T', D), (N,) lengths."""
        x = self.conv1(features[..., None].permute(0, 3, 1, 2))
        half = (lengths + 1) // 2
        padded = ~frame_mask(half, x.size(2))[:, None, :, None]
        x = torch.relu_(x.add_(minus_infinity(padded, x)))  # a product would have a product to go back through
        x = torch.relu_(self.conv2(x))
        weight = self.out.weight.unflatten(1, (x.size(1), -1)).transpose(1, 2).flatten(1)  # (D, C F) -> (D, F C)
        return F.linear(x.permute(0, 2, 3, 1).flatten(2), weight, self.out.bias), subsampled_length(lengths)
