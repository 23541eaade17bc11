"""Time one optimizer step of plain CTC, InterCTC and SKD, beside other toolkits' Conformers of the same size.

    .venv/bin/python benchmarks/train_step.py --peers

All contestants take turns in one process, step by step, so that a drift of the machine's speed falls on each of
them alike; ratios of medians are what to quote. Run it on a quiet machine. With --profile: where the time goes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from operations import HEADER, Spent, by_kind, plot, rows_of
from packages import installed
from peers import ENCODERS, PeerCtc
from timing import matmul_peak, seconds_of
from torch import Tensor, nn

from ctcsd.config import ModelConfig, TrainConfig, load_config, method_file
from ctcsd.distill import Objective
from ctcsd.distill.ctc import ctc_loss
from ctcsd.distill.objective import Labels
from ctcsd.distill.teacher import make_teacher
from ctcsd.errors import first_line
from ctcsd.model import SharedEncoderCtc
from ctcsd.score.tables import markdown
from ctcsd.train.allocator import keep_freed_memory
from ctcsd.train.optim import make_optimizer

VOCAB = 29
Profiles = dict[str, tuple[dict[str, Spent], float]]  # step -> what it spends by kind, and the matmul peak


def contestants(args: argparse.Namespace, device: str) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """name -> (model, a function that gives the loss of the one batch)."""
    torch.manual_seed(0)
    features = torch.randn(args.batch, int(args.seconds * 100), 80, device=device)
    lengths = torch.full((args.batch,), features.size(1), device=device)
    lengths[1::2] -= features.size(1) // 20  # a bucket's lengths differ by some per cent
    size = int(args.seconds * args.labels_per_second)
    labels = Labels(
        torch.randint(1, VOCAB, (args.batch, size), device=device), torch.full((args.batch,), size, device=device)
    )
    found: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {}
    for name, method in (("ctc", "ctc_teacher"), ("interctc", "interctc"), ("skd", "skd")):
        cfg = load_config([method_file(method)], [f"student_layers={args.layers // 2}", f"model.layers={args.layers}"])
        cfg.model.vocab_size, cfg.model.dim, cfg.model.dropout = VOCAB, args.dim, args.dropout
        model = SharedEncoderCtc(cfg.model).to(device)
        objective = Objective(cfg.weights, cfg.model.exits, reduction=cfg.distill.reduction)
        teacher = make_teacher(cfg.distill.teacher, cfg.model.exits)

        def loss(model=model, objective=objective, teacher=teacher) -> Tensor:
            outputs = model(features, lengths)
            posteriors = teacher(features, lengths, [], outputs) if teacher else None
            return objective(outputs, labels, posteriors, objective.schedule.at(1, 2, 0.5))[0]

        found[name] = (model, loss)
    cfg = ModelConfig(layers=args.layers, dim=args.dim, vocab_size=VOCAB, dropout=args.dropout)
    for name in peers_of(args):
        try:
            peer = PeerCtc(cfg, ENCODERS[name](cfg)).to(device)
        except ImportError as error:
            print(f"{name}: left out ({first_line(error)})", file=sys.stderr)
            continue

        def peer_loss(peer=peer) -> Tensor:
            logits, out_lengths = peer(features, lengths)
            return ctc_loss(logits, out_lengths, *labels)[0] / args.batch

        found[name] = (peer, peer_loss)
    return found


def peers_of(args: argparse.Namespace) -> list[str]:
    """The peers that have a column; torchaudio is always here."""
    return list(ENCODERS) if args.peers else ["torchaudio"]


class Step:
    """One optimizer step of a contestant, on the one batch."""

    def __init__(self, model: nn.Module, loss: Callable[[], Tensor], precision: str, device: str) -> None:
        self.model, self.loss, self.device = model, loss, device
        self.optimizer = make_optimizer(model, TrainConfig(), 1000)[0]
        self.bf16 = precision == "bf16"

    def __call__(self) -> None:
        with torch.autocast(self.device, dtype=torch.bfloat16, enabled=self.bf16):
            value = self.loss()
        value.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def peak_mib(step: Step) -> float:
    """MiB of a GPU that a step needs with its own weights and moments, whoever else lies there."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    own = 12 * sum(p.numel() for p in step.model.parameters())
    return (torch.cuda.max_memory_allocated() - before + own) / 2**20


def measure(args: argparse.Namespace, precision: str, device: str, profiles: Profiles) -> list[list[str]]:
    """Rows of the table for one precision."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    peak = matmul_peak(dtype, device)
    runs = {name: Step(*parts, precision, device) for name, parts in contestants(args, device).items()}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(args.steps + 2):
        for name, step in runs.items():
            spent = seconds_of(step, device)
            if turn >= 2:  # the first two warm caches and memory up
                seconds[name].append(spent)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    audio = args.batch * args.seconds
    rows = []
    for name, step in runs.items():
        if args.profile:
            profiles[f"{name}\n{precision}"] = (by_kind(step, device), max(peak, matmul_peak(dtype, device)))
        parameters = sum(p.numel() for p in step.model.parameters())
        flops = 6 * parameters * audio * 25  # forward and backward, 25 encoder frames a second
        spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
        rows.append(
            [
                precision,
                name,
                f"{parameters / 1e6:.2f} M",
                f"{medians[name]:.2f} ({spread})",
                f"{audio / medians[name]:.0f}",
                f"{100 * flops / medians[name] / 1e9 / peak:.0f} % of {peak:.0f}",
                f"{medians[name] / medians['ctc']:.3f}",
                *(f"{medians[peer] / medians[name]:.2f}" if peer in medians else "-" for peer in peers_of(args)),
                *([f"{peak_mib(step):.0f}"] if device == "cuda" else []),
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16, help="utterances (default 16)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of audio in each (default 10)")
    parser.add_argument("--labels-per-second", type=float, default=12.0, help="characters (default 12)")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--dim", type=int, default=144)
    parser.add_argument("--dropout", type=float, default=0.0, help="of all contestants (default 0; recipes often: 0.1)")
    parser.add_argument("--steps", type=int, default=8, help="counted steps of each (default 8)")
    # Without bf16 in hardware a step takes minutes.
    fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
    default = ["fp32", "bf16"] if fast else ["fp32"]
    parser.add_argument("--precision", nargs="+", default=default, choices=["fp32", "bf16"], help=f"default {default}")
    parser.add_argument("--peers", action="store_true", help="install SpeechBrain and ESPnet, for this once")
    parser.add_argument("--profile", action="store_true", help="where the time goes, by kind of operation")
    parser.add_argument("--plot", type=Path, default=Path("train_step.png"), help="picture of the profile")
    args = parser.parse_args()
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    header = [
        "precision",
        "step",
        "parameters",
        "seconds a step",
        "audio-s/s",
        "matmul peak (GFLOP/s)",
        "/ ctc",
        *(f"{peer} /" for peer in peers_of(args)),
    ]
    if device == "cuda":  # the names there; audio-hours in an hour are audio-seconds in a second
        header[4:6] = ["audio-hours per GPU-hour", "MFU (of the matmul peak measured here, GFLOP/s)"]
        header.append("peak MiB")
    profiles: Profiles = {}
    wanted = [package for peer in peers_of(args) for package in ENCODERS[peer].packages]
    with installed(*wanted) as folder:
        sys.path.append(str(folder))
        rows = [row for precision in args.precision for row in measure(args, precision, device, profiles)]
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {args.batch} x {args.seconds:g} s")
    print(markdown(header, rows))
    for name, (found, peak) in profiles.items():
        print(f"\n{' '.join(name.split())}, matmul peak {peak:.0f} GFLOP/s")
        print(markdown(HEADER, rows_of(found, peak)))
    if profiles:
        plot(args.plot, {name: found for name, (found, _) in profiles.items()})


if __name__ == "__main__":
    main()
