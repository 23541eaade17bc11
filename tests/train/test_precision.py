"""What a training computes with: bf16 beside fp32, what `auto` takes, the threads of the CPU."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
from backbones import write_backbone
from console import ctcsd
from lhotse import CutSet
from lightning.pytorch.callbacks import Callback
from tiny import features, tiny_model

from ctcsd.config import TrainConfig, method_config
from ctcsd.data.features import compute_features
from ctcsd.train.allocator import KERNELS
from ctcsd.train.fit import build, fit
from ctcsd.train.processes import trainer_options

TINY = ["model.heads=2", "model.dim=32", "model.subsampling_channels=4", "model.layers=3", "student_layers=1"]
TINY += ["data.max_duration=12", "train.epochs=1", "train.preflight=false"]
BLANKS = {"fbank": 0.7, "wave": 2.0}  # added to the logit of blank, so that it is the best token of some frames only
KD = ["weights.kd_delay=0", "weights.kd_warmup=0", "distill.frames=symmetric:1", "distill.reduction=per_frame"]


class Watch(Callback):
    """Keeps what each step gives; the weights hardly move, so that steps can be compared between trainings."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.dtypes: set[torch.dtype] = set()
        self.threads: set[int] = set()

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        for head in pl_module.model.heads.values():
            head.register_forward_hook(lambda _module, _given, logits: self.dtypes.add(logits.dtype))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *args: object) -> None:
        self.threads.add(torch.get_num_threads())
        named = {**outputs["parts"], "norm": outputs["norm"], "bad": outputs["bad"]}
        self.steps.append({name: float(value) for name, value in named.items()})


@pytest.fixture(scope="module")
def corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen of the sixty utterances, as log-mel and as raw audio."""
    data = tmp_path_factory.mktemp("few") / "data"
    (data / "manifests").mkdir(parents=True)
    cuts = list(CutSet.from_file(small_corpus / "manifests" / "cuts_train.jsonl.gz"))[:16]
    for split in ("train", "dev"):
        CutSet.from_cuts(cuts).to_file(data / "manifests" / f"cuts_{split}.jsonl.gz")
        for kind in ("fbank", "wave"):
            compute_features(data, method_config("ctc", overrides=[f"features.type={kind}"]), split, jobs=1)
    (data / "lang_char").symlink_to(small_corpus / "lang_char")
    return data


def watched(corpus: Path, run: Path, precision: str, *overrides: str) -> Watch:
    """A training whose model starts as if trained: a new encoder's branches are all zero, and no token is blank."""
    run.mkdir()
    watch = Watch()
    options = [*TINY, *KD, "train.lr=1e-9", f"train.precision={precision}", *overrides]
    module, data = build(method_config("skd", overrides=options), corpus, corpus / "lang_char")
    with torch.no_grad():
        for parameter in module.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        for head in module.model.heads.values():
            head.bias[0] += BLANKS[module.model.input_type]
    fit(module, data, run, [watch])
    return watch


@pytest.mark.parametrize("kind", ["conformer", "hubert"])
def test_losses_in_bf16_are_those_in_fp32(corpus: Path, tmp_path: Path, kind: str) -> None:
    encoder = []
    if kind != "conformer":
        encoder = ["features.type=wave", f"model.backbone={write_backbone(tmp_path / kind, kind)}"]
    exact, rounded = (watched(corpus, tmp_path / bits, bits, *encoder) for bits in ("32", "bf16"))
    assert (exact.dtypes, rounded.dtypes) == ({torch.float32}, {torch.bfloat16})
    assert len(exact.steps) == len(rounded.steps) > 2
    assert all(step["bad"] == 0 and 0 < step["norm"] < float("inf") for step in rounded.steps)
    for step, other in zip(exact.steps, rounded.steps):  # some frames change sides between blank and spike
        assert 0.1 < step["kd_frames"] < 0.9 and other["kd_frames"] == pytest.approx(step["kd_frames"], abs=0.05)
    for name in ("ctc_student", "ctc_teacher", "kd"):
        wanted, found = (sum(step[name] for step in watch.steps) for watch in (exact, rounded))
        assert wanted > 0 and found == pytest.approx(wanted, rel=0.01), name


def test_the_sum_of_the_branches_is_float32_under_autocast() -> None:
    model = tiny_model()
    seen: list[tuple[torch.dtype, torch.dtype]] = []
    for layer in model.layers:
        layer.register_forward_hook(lambda _module, given, out: seen.append((given[0].dtype, out.dtype)))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*features())["teacher"].logits
    assert seen == [(torch.float32, torch.float32)] * 2 and logits.dtype == torch.bfloat16


@pytest.mark.parametrize(("capability", "precision"), [(7, "32-true"), (8, "bf16-mixed")])
def test_auto_takes_no_emulated_bf16(monkeypatch: pytest.MonkeyPatch, capability: int, precision: str) -> None:
    """A GPU before Ampere (7: V100, T4) has bf16 in software: torch's own question whether it has it says yes."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=capability))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert torch.cuda.is_bf16_supported()
    assert trainer_options(TrainConfig(), pauses=False)["precision"] == precision


@pytest.mark.parametrize(("given", "wanted"), [(None, "5000"), ("5", "5")])
def test_onednn_keeps_its_kernels(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, wanted: str
) -> None:
    monkeypatch.setenv(KERNELS, given or "")  # put back as it was at the end
    if given is None:
        monkeypatch.delenv(KERNELS)
    build(method_config("ctc", overrides=TINY), corpus, corpus / "lang_char")
    assert os.environ[KERNELS] == wanted


def test_the_threads_of_a_training(corpus: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        assert watched(corpus, tmp_path / "asked", "32", f"train.threads={before + 1}").threads == {before + 1}
        torch.set_num_threads(before)
        assert watched(corpus, tmp_path / "not_asked", "32").threads == {before}
    finally:
        torch.set_num_threads(before)


def test_other_threads_are_no_other_training(corpus: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    command = ["train", "-m", "ctc", "--data", corpus, "--lang", corpus / "lang_char", "--run", tmp_path / "run", *TINY]
    try:
        refused = ctcsd(*command, "train.threads=-1")
        assert ctcsd(*command).returncode == 0
        assert "up to date" in ctcsd(*command, "train.threads=1").stdout
    finally:
        torch.set_num_threads(before)
    assert refused.returncode == 1 and "train.threads=-1" in refused.stderr
