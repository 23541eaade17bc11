"""The benchmarks run; what they measure is not asserted here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from console import REPOSITORY, script
from fakes import random_log_probs
from lhotse import CutSet, MonoCut, SupervisionSegment

from ctcsd.posteriors import PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.text.lang import make_lang

SMALL = ["--batch", "2", "--seconds", "1", "--layers", "2", "--steps", "1"]


def test_train_step() -> None:
    table = script("benchmarks/train_step.py", *SMALL, "--dim", "32", "--precision", "fp32")
    for name in ("ctc", "interctc", "skd", "torchaudio"):
        assert f"| fp32      | {name} " in table


def test_profile(tmp_path: Path) -> None:
    picture = tmp_path / "profile.png"
    table = script(
        "benchmarks/train_step.py", *SMALL, "--dim", "32", "--precision", "fp32", "--profile", "--plot", picture
    )
    for kind in ("matrix products", "convolution backward", "optimizer", "CTC", "KD"):
        assert f"| {kind} " in table
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mm", "matrix products"),
        ("_scaled_dot_product_flash_attention_for_cpu_backward", "attention backward"),
        ("_softmax_backward_data", "attention backward"),
        ("_log_softmax_backward_data", "CTC"),
        ("convolution_backward", "convolution backward"),
        ("native_layer_norm_backward", "normalisation"),
        ("linalg_vector_norm", "rest"),
        ("threshold_backward", "activations"),
        ("_to_copy", "copies and casts"),
        ("_ctc_loss_backward", "CTC"),
        ("sum", "element-wise, sums"),
    ],
)
def test_kinds_of_operations(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    from operations import kind_of

    assert kind_of(name, pointwise=False) == kind


def test_operations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    from operations import ByKind

    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    with ByKind() as counted:
        (a @ b).sum().backward()
    product = 2 * 3 * 5 * 7  # forward, and as much for the gradient of a
    assert counted.flops["matrix products"] == 2 * product
    forward = 4 * (15 + 35 + 21)
    ones = 4 * 1  # the gradient of a sum is one number, expanded
    assert counted.bytes["matrix products"] == forward + ones + 4 * (35 + 15)


def test_inference() -> None:
    sizes = ["--batch", "1", "--seconds", "1", "--layers", "2", "--student-layers", "1", "--dim", "32"]
    table = script("benchmarks/inference.py", *sizes, "--turns", "1")
    for name in ("student", "full model"):
        assert f"| 1 x 1 s | {name} " in table


def test_decode(tmp_path: Path) -> None:
    texts = {"u1": "a bad cab", "u2": "a cab", "u3": "dad"}
    table = make_lang(texts.values(), tmp_path / "lang", "char", 0)
    rng = np.random.default_rng(0)
    with PosteriorWriter(RunDir(tmp_path / "run").archive("test", "student"), table) as writer:
        for cut_id in texts:
            writer.write(cut_id, random_log_probs(rng, 30, len(table)))
    cuts = [
        MonoCut(cut_id, 0.0, 1.2, 0, [SupervisionSegment(cut_id, cut_id, 0.0, 1.2, text=text)])
        for cut_id, text in texts.items()
    ]
    (tmp_path / "manifests").mkdir()
    CutSet.from_cuts(cuts).to_file(tmp_path / "manifests" / "cuts_test.jsonl.gz")
    places = ["--run", tmp_path / "run", "--data", tmp_path, "--lang", tmp_path / "lang"]
    found = script("benchmarks/decode.py", *map(str, places), "--rounds", "1", "--memory", "120", "--only", "greedy")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines()]
    ours, peer = (line for line in lines if line[:1] == ["greedy"])
    assert (ours[1], peer[1]) == ("ctcsd", "torch")
    assert float(ours[2].split()[0].replace(",", "")) > 0
    assert ours[4] == peer[4]  # the same words, and so the same WER
    assert (ours[5], peer[5]) == ("-", "+0.00 (+0.00 to +0.00)")
    assert all(int(mib) > 0 for mib in ours[6].split(", "))
    group = ["--rounds", "1", "--memory", "0", "--no-peers", "--only", "lexicon, n-gram", "n-gram of tokens"]
    found = script("benchmarks/decode.py", *map(str, places), *group)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.splitlines()]
    wfst, beam = (line for line in lines if line[:1] == ["lexicon, n-gram"])
    assert (wfst[1], wfst[3], beam[1]) == ("ctcsd wfst", "1.00", "ctcsd beam") and float(beam[3]) > 0
    assert [line[1] for line in lines if line[:1] == ["n-gram of tokens"]] == ["ctcsd"]


def test_distill() -> None:
    table = script("benchmarks/distill.py", *SMALL, "--parts", "steps")
    for name in ("interctc", "skd", "kd, live teacher", "kd, stored teacher"):
        assert f"| {name} " in table


def test_guards() -> None:
    assert "| guarded " in script("benchmarks/guards.py", *SMALL, "--steps", "2")
