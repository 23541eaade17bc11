"""Which frames a distillation loss looks at (paper B, arXiv 2506.01503).

Every pattern is a function (Frames, value) -> bool (N, T). To add one, write the function and register it in
PATTERNS; a method file then asks for it with `distill.frames: name` or `name:value`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ctcsd.errors import UserError

BLANK = 0


# Sums a tensor over the processes that share a batch
Total = Callable[[Tensor], Tensor]


def alone(tensor: Tensor) -> Tensor:
    """The total of one process."""
    return tensor


class Frames(NamedTuple):
    """What a pattern may look at."""

    log_probs: Tensor  # (N, T, V) of the teacher
    nonblank: Tensor  # bool (N, T): valid, and the most probable token is not blank
    valid: Tensor  # bool (N, T)
    generator: torch.Generator | None
    total: Total


Pattern = Callable[[Frames, float], Tensor]


def select_frames(
    teacher_log_probs: Tensor,
    lengths: Tensor,
    pattern: str,
    generator: torch.Generator | None = None,
    total: Total = alone,
) -> Tensor:
    """Frames that a distillation loss should look at; padding is never selected.

    Args:
        teacher_log_probs: (N, T, V) natural-log probabilities, blank = 0.
        lengths: (N,) int64, valid frames.
        pattern: `all`, `nonblank`, `symmetric:k`, `trim`, `threshold:th`, `random:b`, `partial:r`
            or `nonblank_prior:s`.
        generator: source of randomness of `random` and `partial`.
        total: sums over the processes that share the batch, for the prior of `nonblank_prior`: its mean posterior.

    Returns:
        bool (N, T).

    Raises:
        UserError: a misspelt pattern, or a value that is missing, superfluous or out of range.
    """
    function, value = parse_pattern(pattern)
    valid = torch.arange(teacher_log_probs.size(1), device=lengths.device) < lengths[:, None]
    nonblank = (teacher_log_probs.argmax(-1) != BLANK) & valid
    if valid.numel() == 0:
        return valid
    return function(Frames(teacher_log_probs, nonblank, valid, generator, total), value) & valid


def parse_pattern(pattern: str) -> tuple[Pattern, float]:
    """The function of a pattern and its value; raises UserError as `select_frames` does."""
    name, _, text = pattern.partition(":")
    if name not in PATTERNS:
        close = difflib.get_close_matches(name, PATTERNS, 1, cutoff=0.4)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UserError(f"no frame pattern '{name}'{hint}; known: {', '.join(PATTERNS)}")
    function, bounds = PATTERNS[name]
    if bounds is None:
        if text:
            raise UserError(f"frame pattern '{name}' takes no value, but got '{pattern}'")
        return function, 0.0
    try:
        value = float(text)
    except ValueError:
        raise UserError(f"frame pattern '{name}' needs a number, for instance '{name}:{bounds[1]:g}'") from None
    if not bounds[0] <= value <= bounds[1]:
        raise UserError(f"frame pattern '{pattern}': the value must lie between {bounds[0]:g} and {bounds[1]:g}")
    if function is _symmetric and not value.is_integer():
        raise UserError(f"frame pattern '{pattern}': k must be a whole number of frames")
    return function, value


def _all(f: Frames, value: float) -> Tensor:
    """Every valid frame."""
    return f.valid


def _nonblank(f: Frames, value: float) -> Tensor:
    """Blank elimination."""
    return f.nonblank


def _symmetric(f: Frames, value: float) -> Tensor:
    """Every frame within k of a non-blank one: a binary dilation by 2k + 1."""
    k = int(value)
    return F.max_pool1d(f.nonblank.float()[:, None], 2 * k + 1, stride=1, padding=k)[:, 0] > 0


def _trim(f: Frames, value: float) -> Tensor:
    """From the first to the last non-blank frame, both included."""
    seen = f.nonblank.cumsum(1) > 0
    to_come = f.nonblank.flip(1).cumsum(1).flip(1) > 0
    return seen & to_come


def _threshold(f: Frames, value: float) -> Tensor:
    """Non-blank frames, and blank ones whose non-blank mass is at least the threshold."""
    return f.nonblank | (1.0 - f.log_probs[..., BLANK].exp() >= value)


def _random(f: Frames, value: float) -> Tensor:
    """Non-blank frames and round(b * their number) blank ones of the same utterance, without replacement."""
    count = (value * f.nonblank.sum(1)).round()
    return f.nonblank | _draw(f.valid & ~f.nonblank, count, f.generator)


def _partial(f: Frames, value: float) -> Tensor:
    """Mask a fraction r of an utterance's blank frames: 0 keeps all frames, 1 is blank elimination."""
    blank = f.valid & ~f.nonblank
    return f.nonblank | _draw(blank, ((1.0 - value) * blank.sum(1)).round(), f.generator)


def _nonblank_prior(f: Frames, value: float) -> Tensor:
    """Blank elimination on log p - s * log prior, the prior being the teacher's mean posterior over the batch."""
    mass = f.total((f.log_probs.exp() * f.valid[..., None]).sum((0, 1)))
    log_prior = (mass / mass.sum().clamp(min=1e-10)).clamp(min=1e-10).log()
    return (f.log_probs - value * log_prior).argmax(-1) != BLANK


def _draw(candidates: Tensor, count: Tensor, generator: torch.Generator | None) -> Tensor:
    """`count` (N,) of the candidate frames (N, T) of each row, uniformly without replacement."""
    keys = torch.rand(candidates.shape, generator=generator, device=candidates.device)
    keys = keys.masked_fill(~candidates, 2.0)
    rank = keys.argsort(1).argsort(1)
    return candidates & (rank < count[:, None])


# name -> (function, None if it takes no value, else the smallest and the largest)
PATTERNS: dict[str, tuple[Pattern, tuple[float, float] | None]] = {
    "all": (_all, None),
    "nonblank": (_nonblank, None),
    "symmetric": (_symmetric, (0, 1000)),
    "trim": (_trim, None),
    "threshold": (_threshold, (0.0, 1.0)),
    "random": (_random, (0.0, 1000.0)),
    "partial": (_partial, (0.0, 1.0)),
    "nonblank_prior": (_nonblank_prior, (0.0, 10.0)),
}
