"""What a training that runs out of memory says, and how it is told from other errors."""

from __future__ import annotations

import resource

import torch

from ctcsd.data.batches import Batch

# Of torch's CPU allocator, C++, CUDA's libraries and oneDNN, where they raise no class of their own.
SIGNS = ("can't allocate memory", "bad_alloc", "out of memory", "ALLOC_FAILED", "could not create a primitive")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on the host or on an accelerator."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def padded_seconds(batch: Batch) -> float:
    """Seconds of a batch with its padding, which is what data.max_duration bounds."""
    return batch.features.size(0) * batch.features.size(1) / batch.rate


def advice(batch: Batch, fitted: float) -> str:
    """One line about a batch that did not fit.

    Args:
        fitted: padded seconds of the largest batch that did; 0: none yet.
    """
    count, frames = (shape := tuple(batch.features.shape))[:2]
    seconds = padded_seconds(batch)
    what = f"out of memory on a batch of {count} cuts and {seconds:.1f} s with padding, shape {shape}"
    if count == 1:
        return f"{what}: set data.max_seconds below {frames / batch.rate:.1f}, or take a smaller model"
    if fitted >= seconds:  # memory that something else takes now
        return f"{what}, though {fitted:.1f} s fitted before: free memory, or set data.max_duration={seconds / 2:.0f}"
    fits = fitted if fitted > seconds / 2 else seconds / 2
    known = f"{fitted:.1f} s fitted" if fitted else "nothing has fitted yet"
    return f"{what} ({known}): set data.max_duration={fits:.0f}"


def peak_memory_mib() -> int:
    """The most memory that this process has held: of the accelerator where it computes on one, else of the host."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() >> 20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
