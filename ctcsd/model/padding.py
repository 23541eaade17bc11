"""Padding that a Hugging Face speech encoder does not see, so that no utterance depends on its batch.

Two parts of these encoders look at padded frames even under an attention mask: the group norm of the 'base' models'
first convolution, whose statistics run over time, and data2vec's stack of positional convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctcsd.model.subsampling import frame_mask


class ValidGroupNorm(nn.GroupNorm):
    """Group norm over the valid frames of each utterance; behind them zeros. (N, C, T) -> (N, C, T).

    `lengths` are set before each forward; an utterance's own frames go through the very operation of one that is
    alone in its batch.
    """

    lengths: list[int]

    def forward(self, x: Tensor) -> Tensor:
        rows = []
        for row, length in zip(x.split(1), self.lengths):
            valid = max(length, 1)  # an utterance of no frames: of what is there, so that nothing turns NaN
            normed = F.group_norm(row[..., :valid], self.num_groups, self.weight, self.bias, self.eps)
            rows.append(F.pad(normed, (0, x.size(-1) - valid)))
        return torch.cat(rows)

    @classmethod
    def replace(cls, norm: nn.GroupNorm) -> ValidGroupNorm:
        """One with the parameters of `norm`."""
        made = cls(norm.num_groups, norm.num_channels, norm.eps)
        made.weight, made.bias = norm.weight, norm.bias
        return made


@contextmanager
def zero_padding(layers: Iterable[nn.Module], frames: Tensor) -> Iterator[None]:
    """Inside, the output (N, D, T) of each of these layers is zero behind each utterance's frames (N,)."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        return output * frame_mask(frames, output.size(-1))[:, None].to(output.dtype)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(hook).remove)
        yield
