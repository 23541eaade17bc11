"""Numbers of a step that the host reads later, so that an accelerator never waits for it."""

from __future__ import annotations

import torch
from torch import Tensor


class Later:
    """Scalars on their way to the host.

    Args:
        values: (K,); their copy is queued behind the work that makes them.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values.to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if values.is_cuda else None
        if self._copied:
            self._copied.record()

    def read(self) -> list[float]:
        """The numbers; waits for those that are not there yet."""
        if self._copied:
            self._copied.synchronize()
        return self._values.tolist()
