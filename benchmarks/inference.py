"""Time and memory of recognition: the student against the full model, one utterance at a time and in batches.

    .venv/bin/python benchmarks/inference.py --help

From features to log-probs on one core, in seconds of that core. The models take turns in one process; ratios of
medians are what to quote. The peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ctcsd.config import ModelConfig
from ctcsd.model import SharedEncoderCtc
from ctcsd.score.tables import markdown
from ctcsd.train.allocator import keep_freed_memory

VOCAB = 29
NAMES = ("student", "student exit of the full model", "full model", "both exits of the full model")


def contestants(args: argparse.Namespace) -> dict[str, tuple[SharedEncoderCtc, list[str] | None]]:
    """name -> (model, exits that are asked for)."""
    torch.manual_seed(0)
    exits = {"student": args.student_layers, "teacher": args.layers}
    full = SharedEncoderCtc(ModelConfig(layers=args.layers, dim=args.dim, vocab_size=VOCAB, exits=exits)).eval()
    found = (full.truncate("student"), ["student"]), (full, ["student"]), (full, ["teacher"]), (full, None)
    return dict(zip(NAMES, found))  # type: ignore[arg-type]


def features_of(batch: int, seconds: float) -> tuple[Tensor, Tensor]:
    """(N, T, 80) and (N,): a batch of equal lengths."""
    frames = int(seconds * 100)
    return torch.randn(batch, frames, 80), torch.full((batch,), frames)


def recognise(model: SharedEncoderCtc, exits: list[str] | None, batch: tuple[Tensor, Tensor]) -> None:
    """What `ctcsd posteriors` does with a batch, up to the writing."""
    with torch.inference_mode():
        for output in model(*batch, exits=exits).values():
            output.logits.log_softmax(-1).numpy()


def peak_memory_mib(args: argparse.Namespace, name: str | None, batch: int) -> float:
    """The largest resident set of this process, once it has run a batch; without a name, once it is ready to."""
    prepare()
    models = contestants(args)
    if name is not None:
        model, exits = models[name]
        models.clear()
        recognise(model, exits, features_of(batch, args.seconds))
    # ru_maxrss would be that of the parent, which has more
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def in_a_process(function: Callable[..., float], *arguments: object) -> float:
    """The result of a function in a process that does nothing else."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "ctcsd.model", "ctcsd.train.allocator"])
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def prepare() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()


def measure(args: argparse.Namespace, batch: int) -> list[list[str]]:
    """Rows of the table for one size of batch."""
    models = contestants(args)
    heard = features_of(batch, args.seconds)
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in range(args.turns + 1):
        for name, (model, exits) in models.items():
            start = time.process_time()
            recognise(model, exits, heard)
            if turn:  # the first one warms up
                times[name].append(time.process_time() - start)
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    ready = in_a_process(peak_memory_mib, args, None, batch)
    audio = batch * args.seconds
    return [
        [
            f"{batch} x {args.seconds:g} s",
            name,
            f"{models[name][0].num_parameters() / 1e6:.2f} M",
            f"{1000 * median:.0f} ({1000 * min(times[name]):.0f} to {1000 * max(times[name]):.0f})",
            f"{median / audio:.5f}",
            f"{audio / median:.0f}",
            f"{median / medians['full model']:.3f}",
            f"{in_a_process(peak_memory_mib, args, name, batch) - ready:.0f}",
        ]
        for name, median in medians.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16], help="utterances (default 1 and 16)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio in each (default 10)")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--student-layers", type=int, default=4)
    parser.add_argument("--dim", type=int, default=144)
    parser.add_argument("--turns", type=int, default=10, help="counted turns of each (default 10)")
    args = parser.parse_args()
    prepare()
    header = ["batch", "what", "parameters", "ms", "real-time factor", "x real time", "/ full", "memory (MiB)"]
    rows = [row for batch in args.batch for row in measure(args, batch)]
    share = args.student_layers / args.layers
    print(f"cpu, 1 thread, torch {torch.__version__}, student of {share:.3f} of the layers")
    print(markdown(header, rows))


if __name__ == "__main__":
    main()
