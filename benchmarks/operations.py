"""Where the time of a training step goes: seconds, bytes and arithmetic by kind of operation."""

from __future__ import annotations

import statistics
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timing import seconds_of, wait
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from ctcsd.score.plot import picture

KINDS = (
    "matrix products",
    "attention forward",
    "attention backward",
    "convolution forward",
    "convolution backward",
    "normalisation",
    "activations",
    "copies and casts",
    "element-wise, sums",
    "optimizer",
    "CTC",
    "KD",
    "rest",
)
BETWEEN = "between operations"  # Python, autograd, views
# By the module that asks: these say more than the name of an operation.
CALLERS = {
    "ctcsd.distill.ctc": "CTC",
    "ctcsd.distill.match": "KD",
    "ctcsd.distill.teacher": "KD",
    "ctcsd.distill.selection": "KD",
    "torch.optim.optimizer": "optimizer",
    "torch.nn.utils.clip_grad": "optimizer",
}
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "_addmm_activation", "dot", "mv")
UNTOUCHED = ("detach", "_unsafe_view", "empty", "empty_like", "new_empty", "empty_strided", "lift_fresh")  # no data
ACTIVATIONS = ("silu", "glu", "relu", "gelu", "threshold", "sigmoid", "tanh", "hardswish")
SUMS = ("sum", "mean", "amax", "cumsum")
COPIES = ("copy", "clone", "cat", "stack", "fill", "zero", "full", "ones", "pad", "index", "gather", "repeat", "roll")


class Spent(NamedTuple):
    """Of one step: seconds, bytes read and written, and floating-point operations of products and convolutions."""

    seconds: float
    bytes: float
    flops: float


def kind_of(name: str, pointwise: bool) -> str:
    """The kind of an operation of torch by its name, without namespace."""
    backward = "backward" in name
    if name in PRODUCTS or "linear" in name:
        return "matrix products"
    for word in ("attention", "convolution"):
        if word in name:
            return f"{word} {'backward' if backward else 'forward'}"
    if "ctc_loss" in name or "log_softmax" in name:
        return "CTC"
    if "softmax" in name:  # where attention goes by its products, which count as such
        return f"attention {'backward' if backward else 'forward'}"
    if name.startswith(("_fused_adam", "_foreach")):
        return "optimizer"
    if "_norm" in name and "vector" not in name:
        return "normalisation"
    plain = name.strip("_").removesuffix("_backward")
    if plain in ACTIVATIONS:
        return "activations"
    if any(word in name for word in COPIES):
        return "copies and casts"
    return "element-wise, sums" if pointwise or plain in SUMS else "rest"


def _caller() -> str | None:
    """What the Python code that asked for an operation says of its kind; of a backward pass mostly nothing."""
    frame = sys._getframe(2)
    while frame is not None:
        found = CALLERS.get(frame.f_globals.get("__name__", ""))
        if found:
            return found
        frame = frame.f_back  # type: ignore[assignment]
    return None


class ByKind(TorchDispatchMode):
    """Runs each operation in a range of the profiler that is named by its kind, and counts what goes in and out.

    It stands below autograd and autocast, so that backward passes and casts go through it too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.flops: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[1]
        if func.is_view or func.namespace == "profiler" or name in UNTOUCHED:
            return func(*args, **kwargs)
        kind = _caller() or kind_of(name, torch.Tag.pointwise in func.tags)
        with torch.profiler.record_function(kind):
            out = func(*args, **kwargs)
        self.bytes[kind] += sum(map(_size, tree_leaves((args, kwargs, out))))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.flops[kind] += count(*args, **kwargs, out_val=out)
        elif "scaled_dot_product" in name and "backward" not in name:  # of a CPU, which the registry lacks
            self.flops[kind] += sdpa_flop_count(*(tensor.shape for tensor in args[:3]))
        elif "scaled_dot_product" in name:
            self.flops[kind] += sdpa_backward_flop_count(*(tensor.shape for tensor in args[:4]))
        return out


def _size(value: Any) -> int:
    """Bytes of a tensor; an expanded one has fewer than elements."""
    if not isinstance(value, Tensor):
        return 0
    return min(value.numel() * value.element_size(), value.untyped_storage().nbytes())


def by_kind(step: Callable[[], None], device: str, steps: int = 5) -> dict[str, Spent]:
    """kind -> what one step spends on it, from torch's profiler.

    Steps that are watched take turns with steps that are not, whose time the operations do not add up to: the
    difference is BETWEEN. Medians count.

    Args:
        step: a whole training step, warmed up.
        steps: of each.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    micro: dict[str, list[float]] = {kind: [] for kind in KINDS}
    alone = []
    for _ in range(steps + 1):
        alone.append(seconds_of(step, device))
        with torch.profiler.profile(activities=activities) as profiler, ByKind() as counted:
            step()
            wait(device)
        events = {event.key: event for event in profiler.key_averages()}
        for kind, times in micro.items():
            event = events.get(kind)
            times.append(getattr(event, "device_time_total" if device == "cuda" else "cpu_time_total", 0.0))
    spent = {kind: statistics.median(times[1:]) / 1e6 for kind, times in micro.items()}
    found = {kind: Spent(spent[kind], counted.bytes[kind], counted.flops[kind]) for kind in KINDS}
    found[BETWEEN] = Spent(max(0.0, statistics.median(alone[1:]) - sum(spent.values())), 0.0, 0.0)
    return found


def rows_of(found: Mapping[str, Spent], peak: float) -> list[list[str]]:
    """Rows `kind, ms, share, GB, GB/s, GFLOP, % of peak` (GFLOP/s of a matrix product) of a table."""
    total = sum(spent.seconds for spent in found.values())
    rows = []
    for kind, (seconds, moved, flops) in found.items():
        if seconds > 0:
            rate = f"{flops / seconds / 1e9 / peak:.0%}" if flops else ""
            sizes = [f"{moved / 1e9:.2f}", f"{moved / seconds / 1e9:.1f}"] if moved else ["", ""]
            work = f"{flops / 1e9:.1f}" if flops else ""
            rows.append([kind, f"{1000 * seconds:.1f}", f"{seconds / total:.1%}", *sizes, work, rate])
    flops = sum(spent.flops for spent in found.values())
    moved = sum(spent.bytes for spent in found.values())
    rate = f"{flops / total / 1e9 / peak:.0%}"
    sums = [f"{moved / 1e9:.2f}", f"{moved / total / 1e9:.1f}", f"{flops / 1e9:.1f}", rate]
    return [*rows, ["all", f"{1000 * total:.1f}", "100.0%", *sums]]


HEADER = ["kind", "ms", "share", "GB in and out", "GB/s", "GFLOP", "of the matmul peak"]


def plot(path: Path, steps: Mapping[str, Mapping[str, Spent]]) -> None:
    """A PNG of stacked bars, one for each step.

    Raises:
        UserError: matplotlib is not installed.
    """
    with picture(path, (3.5 + 1.1 * len(steps), 5.0)) as figure:
        from matplotlib import colormaps

        axes = figure.subplots()
        below = [0.0] * len(steps)
        for number, kind in enumerate((*KINDS, BETWEEN)):
            heights = [1000 * found[kind].seconds for found in steps.values()]
            if any(heights):
                axes.bar(list(steps), heights, 0.7, bottom=below, label=kind, color=colormaps["tab20"](number))
                below = [low + height for low, height in zip(below, heights)]
        axes.set_ylabel("ms a step")
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5))
