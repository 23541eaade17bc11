"""What distillation costs: optimizer steps by teacher, the KD term's time over V and frames, and its memory.

    .venv/bin/python benchmarks/distill.py --help

Contestants take turns step by step in one process; ratios of medians are what to quote. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ctcsd.config import TrainConfig, load_config, method_file
from ctcsd.distill import Objective, frame_kd
from ctcsd.distill.objective import Labels
from ctcsd.distill.teacher import make_teacher
from ctcsd.model import SharedEncoderCtc
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.score.plot import picture
from ctcsd.score.tables import markdown
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.allocator import keep_freed_memory
from ctcsd.train.optim import make_optimizer

VOCAB = 29
TABLE = TokenTable(["<blk>", *map(chr, range(ord("a"), ord("a") + VOCAB - 1))])
# name -> (method, teacher that replaces the method's own, the step that it is measured against)
STEPS = {
    "interctc": ("interctc", None, "interctc"),
    "skd": ("skd", None, "interctc"),
    "ctc": ("ctc", None, "ctc"),
    "kd, live teacher": ("kd_symmetric", "checkpoint", "ctc"),
    "kd, stored teacher": ("kd_symmetric", "archive", "ctc"),
}


def step_of(args: argparse.Namespace, name: str, archive: Path) -> tuple[nn.Module, Callable[[], Tensor]]:
    """A model, and a function that gives the loss of the one batch."""
    method, kind, _ = STEPS[name]
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(args.batch, int(args.seconds * 100), 80, generator=generator)
    lengths = torch.full((args.batch,), features.size(1))
    size = int(args.seconds * 12)
    labels = Labels(torch.randint(1, VOCAB, (args.batch, size), generator=generator), torch.full((args.batch,), size))
    sizes = [f"student_layers={args.layers // 2}", f"model.vocab_size={VOCAB}"]
    base = archive.parent / "corpus.yaml"
    base.write_text(f"model: {{layers: {args.layers}}}")
    cfg = load_config([base, method_file(method)], sizes)
    torch.manual_seed(0)
    model = SharedEncoderCtc(cfg.model)
    objective = Objective(cfg.weights, cfg.model.exits, cfg.distill.frames, reduction=cfg.distill.reduction)
    full = load_config([base, method_file("ctc_teacher")], sizes).model
    cut_ids = [f"cut{n}" for n in range(args.batch)]
    if kind == "archive":
        frozen = SharedEncoderCtc(full).eval()
        with PosteriorWriter(archive, TABLE) as writer, torch.no_grad():
            for cut_id, rows in zip(cut_ids, frozen(features, lengths)["teacher"].logits.log_softmax(-1).numpy()):
                writer.write(cut_id, rows)
    teacher = make_teacher(
        kind or cfg.distill.teacher, model.exits, lambda: SharedEncoderCtc(full), lambda: PosteriorReader(archive)
    )

    def loss() -> Tensor:
        outputs = model(features, lengths)
        posteriors = teacher(features, lengths, cut_ids, outputs) if teacher else None
        return objective(outputs, labels, posteriors, objective.schedule.at(1, 2, 0.5))[0]

    return model, loss


def steps(args: argparse.Namespace) -> str:
    """The table of optimizer steps."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: step_of(args, name, Path(folder) / "archive") for name in STEPS}
        optimizers = {name: make_optimizer(model, TrainConfig(), 1000)[0] for name, (model, _) in runs.items()}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(args.steps + 2):
            for name, (_, loss) in runs.items():
                start = time.perf_counter()
                loss().backward()
                optimizers[name].step()
                optimizers[name].zero_grad(set_to_none=True)
                if turn >= 2:  # the first two warm caches and memory up
                    seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [
        [name, f"{medians[name]:.3f}", against, f"{medians[name] / medians[against]:.3f}"]
        for name, (_, _, against) in STEPS.items()
    ]
    return markdown(["step", "seconds", "against", "ratio"], rows)


def kd_milliseconds(frames: int, vocab: int, share: float, repeats: int = 5) -> float:
    """Forward and backward of the KD term over a share of `frames` frames."""
    logits = torch.randn(1, frames, vocab, requires_grad=True)
    teacher = torch.randn(1, frames, vocab).log_softmax(-1)
    selected = torch.rand(1, frames) < share
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        frame_kd(logits, teacher, selected, temperature=2.0).backward()
        times.append(time.perf_counter() - start)
        logits.grad = None
    return 1000 * statistics.median(times)


def costs(out: Path) -> str:
    """The table of the KD term's cost over V and the selected share of 4,000 frames, and its picture: also over T."""
    vocabularies, shares, frames = (30, 100, 500, 2000, 5000), (0.1, 0.3, 1.0), (500, 1000, 2000, 4000)
    rows = []
    with picture(out, (10, 4)) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        for share in shares:
            times = [kd_milliseconds(4000, vocab, share) for vocab in vocabularies]
            left.loglog(vocabularies, times, marker="o", label=f"{share:.0%} of 4,000 frames")
            rows.append([f"{share:.0%}", *(f"{ms:.1f}" for ms in times)])
        for vocab in vocabularies[::2]:
            times = [kd_milliseconds(count, vocab, 1.0) for count in frames]
            right.loglog(frames, times, marker="o", label=f"V = {vocab}, all frames")
        left.set_xlabel("tokens V")
        left.set_ylabel("forward + backward, ms")
        right.set_xlabel("frames T of the batch")
        for axes in (left, right):
            axes.legend()
    return markdown(["selected", *(f"V = {vocab}, ms" for vocab in vocabularies)], rows)


def memory() -> str:
    """Peak memory of the KD term beyond its two inputs, in tensors of the logits' size, at N=16, T=1500, V=5000."""
    shape = "16, 1500, 5000"
    script = (
        "import resource, sys, torch; from ctcsd.distill import frame_kd; "
        f"x = torch.randn({shape}, requires_grad=True); p = torch.randn({shape})\n"
        "if sys.argv[1] == 'kd': frame_kd(x, p, torch.ones(x.shape[:2], dtype=torch.bool)).backward()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = {}
    for what in ("nothing", "kd"):
        done = subprocess.run([sys.executable, "-c", script, what], capture_output=True, text=True, check=True)
        peaks[what] = int(done.stdout) * 1024
    size = 16 * 1500 * 5000 * 4
    return (
        f"peak extra memory of the KD term: {(peaks['kd'] - peaks['nothing']) / size:.2f} tensors of {size >> 20} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="utterances (default 16)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio in each (default 10)")
    parser.add_argument("--layers", type=int, default=8, help="of the full encoder; the student has half (default 8)")
    parser.add_argument("--steps", type=int, default=6, help="counted steps of each (default 6)")
    parts = {"steps": lambda: steps(args), "memory": memory, "cost": lambda: costs(args.plot)}
    parser.add_argument("--parts", nargs="+", default=list(parts), choices=parts, help="what to measure (default all)")
    parser.add_argument("--plot", type=Path, default=Path("distill_cost.png"), help="picture of the cost over V and T")
    args = parser.parse_args()
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {args.batch} x {args.seconds:g} s")
    for part in args.parts:
        print(parts[part]())
    print(f"peak memory of all this: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MiB")


if __name__ == "__main__":
    main()
