"""The benchmark of the training loop runs on a real corpus, and what it says adds up."""

from __future__ import annotations

from pathlib import Path

from console import script


def test_a_real_epoch_beside_bare_steps(small_corpus: Path) -> None:
    sizes = ["model.layers=2", "student_layers=1", "model.dim=32", "model.heads=2", "data.max_duration=20"]
    places = ["--data", small_corpus, "--config", "egs/_template/conf/corpus.yaml"]
    said = script("benchmarks/train_epoch.py", *places, "--batches", 6, "--epochs", 2, *sizes)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    shares = {row[0]: float(row[2].rstrip("%")) for row in cells[2:]}
    assert shares.pop("bare step") == 100.0
    forward, lost = shares.pop("forward passes of evaluation"), shares.pop("lost in all")
    assert abs(sum(shares.values()) - lost) < 1.0  # of rounding
    assert forward > 0 and shares["loading"] > 0 and shares["checkpoints (4)"] > 0
    assert " of a bare step" in said and "padding: " in said
