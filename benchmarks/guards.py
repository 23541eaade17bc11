"""What the guards of a training step cost: the same step with and without them, in turns.

    .venv/bin/python benchmarks/guards.py --help

Guarded: finite loss and gradient, the numbers of each step on their way to the host, the moving bounds of the loss,
the list of unreadable cuts, a batch that may go through in pieces. The model, the loss and the optimizer are the same.
The ratio of the medians is what to quote; a small batch shows a fixed cost at its largest.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ctcsd.config import AugmentConfig, Config, TrainConfig, load_config, method_file
from ctcsd.data.augment import spec_augment
from ctcsd.data.batches import Batch
from ctcsd.distill import Objective
from ctcsd.distill.objective import Labels
from ctcsd.distill.teacher import make_teacher
from ctcsd.model import SharedEncoderCtc
from ctcsd.score.tables import markdown
from ctcsd.train.accumulate import Accumulator
from ctcsd.train.allocator import keep_freed_memory
from ctcsd.train.bad_steps import clip, not_finite, skip_where
from ctcsd.train.guards import StepGuard
from ctcsd.train.optim import make_optimizer
from ctcsd.train.unreadable import Unreadable

VOCAB = 29
AUGMENT = AugmentConfig()


def batch_of(args: argparse.Namespace, device: str) -> Batch:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(args.batch, int(args.seconds * 100), 80, generator=generator)
    size = int(args.seconds * 12)
    targets = torch.randint(1, VOCAB, (args.batch, size), generator=generator)
    lengths = torch.full((args.batch,), features.size(1), device=device)
    sizes = torch.full((args.batch,), size, device=device)
    ids = [f"cut{n}" for n in range(args.batch)]
    return Batch(features.to(device), lengths, targets.to(device), sizes, [], ids)


def step_of(cfg: Config, batch: Batch, guarded: bool, folder: Path) -> Callable[[], None]:
    """A training step of a model of its own."""
    torch.manual_seed(0)
    model = SharedEncoderCtc(cfg.model).to(batch.features.device)
    objective = Objective(cfg.weights, cfg.model.exits, cfg.distill.frames, reduction=cfg.distill.reduction)
    teacher = make_teacher(cfg.distill.teacher, model.exits)
    weights = objective.schedule.at(1, 2, 0.5)
    optimizer, scheduler = make_optimizer(model, TrainConfig(), 1000)
    limit = TrainConfig().clip

    def plain() -> None:
        outputs = model(spec_augment(batch.features, batch.lengths, AUGMENT), batch.lengths)
        assert batch.targets is not None and batch.target_lengths is not None
        labels = Labels(batch.targets, batch.target_lengths)
        posteriors = teacher(batch.features, batch.lengths, batch.cut_ids, outputs) if teacher else None
        loss, _ = objective(outputs, labels, posteriors, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()

    accumulate = Accumulator(model, objective, teacher, AUGMENT, split=True)
    guard = StepGuard(folder, TrainConfig())
    unreadable = Unreadable(folder / "unreadable.tsv", {"train": 1000}, 0.05, {"train": "run stage 1 again"})
    steps = 0

    def with_guards() -> None:
        nonlocal steps
        steps += 1
        unreadable.note("train", batch)
        loss, parts = accumulate(batch, weights)
        norm = clip(model.parameters(), limit)
        bad = not_finite(loss, norm)
        skip_where(optimizer, bad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        scheduler.step()
        guard.take(steps, 1, batch, {"loss": loss, "norm": norm, "bad": bad, "parts": parts})

    return with_guards if guarded else plain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=6, help="utterances (default 6)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of audio in each (default 5)")
    parser.add_argument("--layers", type=int, default=6, help="of the encoder; the student has half (default 6)")
    parser.add_argument("--steps", type=int, default=40, help="counted steps of each (default 40)")
    args = parser.parse_args()
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "corpus.yaml"
        base.write_text(f"model: {{layers: {args.layers}, vocab_size: {VOCAB}}}")
        cfg = load_config([base, method_file("skd")], [f"student_layers={max(1, args.layers // 2)}"])
        batch = batch_of(args, device)
        runs = {name: step_of(cfg, batch, name == "guarded", Path(folder)) for name in ("plain", "guarded")}
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(args.steps + 3):
            for name in list(runs)[:: 1 if turn % 2 else -1]:  # neither is always the first
                start = time.perf_counter()
                runs[name]()
                if device == "cuda":
                    torch.cuda.synchronize()
                if turn >= 3:  # the first ones warm caches and memory up
                    seconds[name].append(time.perf_counter() - start)
    ratios = sorted(guarded / plain for guarded, plain in zip(seconds["guarded"], seconds["plain"]))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    rows = [[name, f"{1000 * medians[name]:.1f}", f"{medians[name] / medians['plain']:.3f}"] for name in runs]
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.batch} x {args.seconds:g} s")
    print(markdown(["step", "ms (median)", "ratio"], rows))
    quarter = len(ratios) // 4
    spread = f"half of them {ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}"
    print(f"ratio of a pair: median {statistics.median(ratios):.3f}, {spread}")


if __name__ == "__main__":
    main()
