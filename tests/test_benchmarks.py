"""The benchmarks run; what they measure is not asserted here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


def test_train_step() -> None:
    command = [sys.executable, "benchmarks/train_step.py", "--batch", "2", "--seconds", "1", "--layers", "2"]
    command += ["--dim", "32", "--steps", "1", "--precision", "fp32"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for name in ("ctc", "interctc", "skd", "torchaudio"):
        assert f"| fp32      | {name} " in done.stdout
