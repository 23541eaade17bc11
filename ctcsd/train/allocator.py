"""What a training on a CPU keeps rather than asks for again: freed memory, and the kernels of oneDNN.

Page faults on fresh activations cost some 7 % of a training step. In bf16, oneDNN makes 40 kernels for each new shape
of a batch, which takes half as long as a step of three layers, and by default keeps those of 25 shapes.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

# From glibc's malloc.h
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
KERNELS, KEPT_KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 5000


def keep_kernels() -> None:
    """Let oneDNN keep those of some 120 shapes; before its first use, and unless the environment says otherwise."""
    os.environ.setdefault(KERNELS, str(KEPT_KERNELS))


def keep_freed_memory() -> bool:
    """Tell glibc to serve large blocks from the heap and not to give them back; False where there is no glibc."""
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((M_MMAP_THRESHOLD, 1 << 30), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 1 << 28))
    return all([mallopt(option, value) == 1 for option, value in settings])


def give_back_freed_memory() -> None:
    """Hand what the process has freed back to the system, for those that ask it and not glibc (oneDNN's code)."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> Any:
    """A function of glibc; None where there is none."""
    try:
        return getattr(ctypes.CDLL(None), name) if sys.platform.startswith("linux") else None
    except (OSError, AttributeError):
        return None
