"""Conformer layer (Gulati et al., 2005.08100) with rotary attention (2104.09864) and LayerNorm in the convolution.

LayerNorm instead of BatchNorm: batch statistics would make an utterance's output depend on its neighbours.
Axes: N utterances, T frames, D model width, H heads, K kernel size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctcsd.errors import UserError
from ctcsd.model.subsampling import minus_infinity

LONGEST_BY_PRODUCTS = 1500  # frames


class DepthwiseConv(nn.Module):
    """Depthwise convolution over time in (N, T, D) layout, odd kernel, zero edges.

    Seen as an image of height 1 in channels-last memory, (N, T, D) needs no copy, and oneDNN's kernel for that
    layout takes half the time of conv1d on the transposed tensor. On a CPU it is done in float32 also under autocast:
    oneDNN 3.12 never ends making its bf16 kernel for an odd N, an even T and two threads (docs/performance.md).
    """

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UserError(f"model.conv_kernel must be odd, not {kernel}")
        self.conv = nn.Conv2d(dim, dim, (1, kernel), padding=(0, kernel // 2), groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self(x.float()).to(x.dtype)
        return self.conv(x[:, None].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)[:, 0]


class FeedForward(nn.Module):
    """Pre-norm feed-forward module with SiLU."""

    def __init__(self, dim: int, mult: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, mult * dim)
        self.down = nn.Linear(mult * dim, dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(F.silu(self.up(self.norm(x))))
        return drop(x, self.dropout, self.training)


class Attention(nn.Module):
    """Pre-norm multi-head self-attention with rotary positions."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dim % heads or (dim // heads) % 2:
            raise UserError(f"model.dim={dim} must be an even multiple of model.heads={heads}")
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.heads, self.dropout = heads, dropout

    def forward(self, x: Tensor, mask: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """x: (N, T, D); mask: bool (N, 1, 1, T), True where a key may be attended to."""
        n, t, d = x.shape
        weight, bias = self._halves_apart(self.qkv.weight), self._halves_apart(self.qkv.bias)
        a, b, v = F.linear(self.norm(x), weight, bias).split(d, dim=-1)
        halves = [
            half.view(n, t, 2, self.heads, d // self.heads // 2).permute(2, 0, 3, 1, 4) for half in rotate(a, b, rotary)
        ]
        q, k = torch.stack(halves, dim=-2).flatten(-2)
        x = attend(q, k, v.view(n, t, self.heads, d // self.heads).transpose(1, 2), mask, self.training)
        return drop(self.out(x.transpose(1, 2).reshape(n, t, d)), self.dropout, self.training)

    def _halves_apart(self, parameter: Tensor) -> Tensor:
        """Rows of the projection: first halves of all queries' and keys' heads, then second halves, then values.

        So what the rotation multiplies lies in rows as long as the model is wide, and not as half a head.
        """
        d = self.out.out_features
        q_and_k = parameter[: 2 * d].unflatten(0, (2 * self.heads, 2, -1)).transpose(0, 1).flatten(0, 2)
        return torch.cat((q_and_k, parameter[2 * d :]))


class ConvModule(nn.Module):
    """Pre-norm convolution module: pointwise, GLU, depthwise, LayerNorm, SiLU, pointwise."""

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 2 * dim)
        self.depthwise = DepthwiseConv(dim, kernel)
        self.mid_norm = nn.LayerNorm(dim)
        self.down = nn.Linear(dim, dim)
        self.dropout = dropout

    def forward(self, x: Tensor, keep: Tensor) -> Tensor:
        """x: (N, T, D); keep: float (N, T, 1), 0 on padded frames."""
        x = self.depthwise(F.glu(self.up(self.norm(x)), dim=-1).mul_(keep))
        return drop(self.down(F.silu(self.mid_norm(x))), self.dropout, self.training)


class ConformerLayer(nn.Module):
    """Half feed-forward, attention, convolution, half feed-forward, LayerNorm."""

    def __init__(self, dim: int, heads: int, ff_mult: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.ff1 = FeedForward(dim, ff_mult, dropout)
        self.attention = Attention(dim, heads, dropout)
        self.conv = ConvModule(dim, kernel, dropout)
        self.ff2 = FeedForward(dim, ff_mult, dropout)
        self.norm = nn.LayerNorm(dim)
        # Each branch starts as zero, so that a deep encoder starts out as a shallow one and leaves the all-blank
        # plateau as fast (the idea of Fixup, 1901.09321, and ReZero, 2003.04887).
        for branch in (self.ff1.down, self.attention.out, self.conv.down, self.ff2.down):
            nn.init.zeros_(branch.weight)
            nn.init.zeros_(branch.bias)

    def forward(self, x: Tensor, mask: Tensor, keep: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        x = torch.add(x, self.ff1(x), alpha=0.5)
        x = x + self.attention(x, mask, rotary)
        x = x + self.conv(x, keep)
        return self.norm(torch.add(x, self.ff2(x), alpha=0.5))


def drop(x: Tensor, p: float, training: bool) -> Tensor:
    """Dropout that costs nothing when p is 0 (nn.Dropout draws its mask all the same)."""
    return F.dropout(x, p) if p > 0.0 and training else x


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, training: bool) -> Tensor:
    """softmax(q k' / sqrt(head_dim)) v over the keys that the mask lets through.

    Args:
        q, k, v: (N, H, T, head_dim).
        mask: bool (N, 1, 1, T).

    torch's fused kernel, but where a CPU trains in bf16: there its backward pass takes three times as long as the
    products do by themselves (docs/performance.md), which keep (N, H, T, T) probabilities, so not of long utterances.
    """
    if not (training and q.is_cpu and q.dtype == torch.bfloat16 and k.size(2) <= LONGEST_BY_PRODUCTS):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    extra = -k.size(2) % 32  # keys, to whole vectors of AVX-512
    k, v, mask = F.pad(k, (0, 0, 0, extra)), F.pad(v, (0, 0, 0, extra)), F.pad(mask, (0, extra))
    scores = q * q.size(-1) ** -0.5 @ k.transpose(-1, -2)
    return scores.add_(minus_infinity(~mask, scores)).softmax(-1) @ v


def rotary_tables(num_frames: int, dim: int, heads: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding at base 10,000, each (T, D), for `rotate`."""
    positions = torch.arange(num_frames, device=like.device, dtype=torch.float32)
    rates = torch.arange(0, dim // heads, 2, device=like.device, dtype=torch.float32) * heads / dim
    angles = (positions[:, None] * torch.pow(10000.0, -rates)).repeat(1, 2 * heads)  # queries, keys
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(a: Tensor, b: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Turn the vectors (a, b) by each frame's angles. a, b: (N, T, D), halves of all heads of queries, then of keys."""
    cos, sin = rotary
    return torch.addcmul(a * cos, b, sin, value=-1), torch.addcmul(a * sin, b, cos)
