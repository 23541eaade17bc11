"""What the benchmarks share: seconds of a piece of work, and the peak that arithmetic is held against."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], object], device: str) -> float:
    """Seconds that some work takes, on the device too."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def matmul_peak(dtype: torch.dtype, device: str) -> float:
    """GFLOP/s of a large square matrix product, the best of six."""
    a, b = (torch.randn(2048, 2048, device=device).to(dtype) for _ in range(2))
    return 2 * 2048**3 / min(seconds_of(lambda: a @ b, device) for _ in range(6)) / 1e9
