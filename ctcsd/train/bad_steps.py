"""Steps whose loss or gradient is not finite change nothing and are listed; too many in a row end the training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from ctcsd.data.batches import Batch
from ctcsd.errors import UserError

IN_A_ROW = 10


def clip(parameters: Iterable[Tensor], limit: float) -> Tensor:
    """Scale the gradients down to a norm of `limit` (0: leave them); returns their norm before, as a scalar."""
    norm = torch.nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def not_finite(loss: Tensor, norm: Tensor) -> Tensor:
    """1.0 where the loss or the gradient's norm is infinite or NaN, else 0.0: a scalar that stays on its device."""
    return 1.0 - (loss.isfinite() & norm.isfinite()).float()


def skip_where(optimizer: torch.optim.Optimizer, bad: Tensor) -> None:
    """Let the next step change neither parameters nor state where `bad` is 1.

    The fused optimizers look at this scalar on its device, as they do for a gradient scaler: the host never waits.
    """
    there = bad.is_cuda or bool(bad)  # on the host to look is cheaper than to let every parameter's count of steps look
    optimizer.found_inf = bad if there else None  # type: ignore[attr-defined]


class BadSteps:
    """Lists the steps that were skipped in a file, a JSON object per line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.in_a_row = 0

    def good(self) -> None:
        """The last step was a good one."""
        self.in_a_row = 0

    def bad(self, step: int, epoch: int, batch: Batch, numbers: Mapping[str, float]) -> None:
        """The last step was skipped.

        Args:
            step: of the whole training, the first is 1.
            epoch: the first is 1.
            numbers: loss, norm of the gradient, and the parts of the loss.

        Raises:
            UserError: too many in a row.
        """
        self.count += 1
        self.in_a_row += 1
        features = _features(batch)
        record = {"step": step, "epoch": epoch, "cut_ids": batch.cut_ids, "shape": list(batch.features.shape)}
        record.update({name: _json_number(value) for name, value in numbers.items()})
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps({**record, "features": features}) + "\n")
        what = "loss" if not math.isfinite(numbers["loss"]) else "gradient"
        if self.in_a_row == 1:
            print(f"step {step} skipped: the {what} is not finite; see {self.path}", flush=True)
        if self.in_a_row >= IN_A_ROW:
            remedy = "lower train.lr or train.clip, or set train.precision=32"
            if features["not_finite"]:
                remedy = "its features are not finite: delete them and run stage 1 again"
            raise UserError(
                f"the {what} was not finite {IN_A_ROW} steps in a row, up to step {step} (last cut: "
                f"{batch.cut_ids[0]}; all: {self.path}): {remedy}"
            )


def _features(batch: Batch) -> dict[str, Any]:
    """Extremes of the finite features within the utterances, and how many are not finite."""
    valid = torch.cat([rows[:length] for rows, length in zip(batch.features, batch.lengths.tolist())])
    finite = valid[valid.isfinite()]
    extremes = (float(finite.min()), float(finite.max())) if finite.numel() else (None, None)
    return {"min": extremes[0], "max": extremes[1], "not_finite": valid.numel() - finite.numel()}


def _json_number(value: float) -> float | str:
    """JSON has no word for infinity."""
    return value if math.isfinite(value) else str(value)
