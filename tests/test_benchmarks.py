"""The benchmarks run; what they measure is not asserted here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


SMALL = ["--batch", "2", "--seconds", "1", "--layers", "2", "--steps", "1"]


def output(*command: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_train_step() -> None:
    table = output("benchmarks/train_step.py", *SMALL, "--dim", "32", "--precision", "fp32")
    for name in ("ctc", "interctc", "skd", "torchaudio"):
        assert f"| fp32      | {name} " in table


def test_distill() -> None:
    table = output("benchmarks/distill.py", *SMALL, "--parts", "steps")
    for name in ("interctc", "skd", "kd, live teacher", "kd, stored teacher"):
        assert f"| {name} " in table
