"""Pretrained encoders through the commands: raw audio in, posteriors every 20 ms out, teachers across frame rates."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import lightning as L
import pytest
import torch
from backbones import write_backbone
from console import REPOSITORY, ctcsd
from lhotse import CutSet
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

from ctcsd.config import Config, FeaturesConfig, method_config
from ctcsd.data.batches import CtcDataset
from ctcsd.data.features import compute_features
from ctcsd.data.integrity import read_wave
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader
from ctcsd.train.checkpoint import load_model
from ctcsd.train.fit import build, fit

WAVE = ["features.type=wave", "model.layers=3", "student_layers=2", "data.max_duration=12", "decode.methods=[greedy]"]
LOWEST = "backbone.encoder.layers.0.attention.k_proj.weight"
SHORT = ["train.epochs=1", "train.precision=32", "model.freeze_steps=0.5"]


@pytest.fixture(scope="module")
def corpus(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight of the sixty utterances, without features."""
    data = tmp_path_factory.mktemp("few") / "data"
    shutil.copytree(small_corpus / "lang_char", data / "lang_char")
    (data / "manifests").mkdir()
    cuts = list(CutSet.from_file(small_corpus / "manifests" / "cuts_train.jsonl.gz"))[:8]
    for split in ("train", "dev", "test"):
        CutSet.from_cuts(cuts).to_file(data / "manifests" / f"cuts_{split}.jsonl.gz")
    return data


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_backbone(tmp_path_factory.mktemp("hub") / "tiny", "hubert")


def run(command: str, corpus: Path, run: Path, *arguments: str) -> str:
    done = ctcsd(command, *arguments, "--data", corpus, "--lang", corpus / "lang_char", "--run", run)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def teacher(corpus: Path, backbone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a pretrained teacher, whose checkpoint is gone since."""
    assert ctcsd("features", "--data", corpus, *WAVE).returncode == 0
    here, gone = tmp_path_factory.mktemp("exp") / "teacher" / "seed1", Path(backbone).with_name("gone")
    shutil.copytree(backbone, gone)
    run("train", corpus, here, "-m", "ctc_teacher", f"model.backbone={gone}", *WAVE, *SHORT)
    shutil.rmtree(gone)
    return here


def test_stage_1_of_raw_audio_stores_cut_sets_only(corpus: Path, teacher: Path) -> None:
    files = {path.name for path in (corpus / "wave").rglob("*") if path.is_file()}
    names = {f"cuts_{split}.jsonl.gz" for split in ("train", "dev", "test")}
    assert files == names | {f".{name}.done" for name in names}


def test_self_distillation_of_a_pretrained_encoder(corpus: Path, teacher: Path, backbone: str, tmp_path: Path) -> None:
    here = tmp_path / "skd" / "seed1"
    said = run("train", corpus, here, "-m", "skd", f"model.backbone={backbone}", *WAVE, *SHORT)
    assert "epoch 1/1" in said and json.loads((here / "train.json").read_text())["left_out"]
    trained, given = load_file(here / "model.safetensors"), load_file(Path(backbone) / "model.safetensors")
    changed = {key for key, value in given.items() if not value.equal(trained[f"backbone.{key}"])}
    assert changed and not any(key.startswith("feature_extractor.") for key in changed)
    run("posteriors", corpus, here)
    both = dict(PosteriorReader(here / "posteriors" / "test-student"))
    archive = PosteriorReader(here / "posteriors" / "test-student")
    assert archive.frame_shift == 0.02
    cuts = {cut.id: cut for cut in CutSet.from_file(corpus / "wave" / "cuts_test.jsonl.gz")}
    for cut_id, log_probs in both.items():
        assert len(log_probs) == (cuts[cut_id].num_samples - 400) // 320 + 1
    shutil.rmtree(here / "posteriors")
    run("posteriors", corpus, here, "--exit", "student", "--split", "test")
    assert all((both[cut_id] == log_probs).all() for cut_id, log_probs in archive)
    assert ctcsd("export", "--run", here, "--exit", "student", "--out", tmp_path / "out").returncode == 0
    exported, whole = load_model(tmp_path / "out")[0], load_model(here)[0]
    batch = CtcDataset(read=read_wave)[CutSet.from_cuts(cuts.values())]
    with torch.inference_mode():
        given, wanted = (model(batch.features, batch.lengths)["student"].logits for model in (exported, whole))
    assert torch.equal(given, wanted) and exported.num_parameters() < whole.num_parameters()
    done = ctcsd("align", "--run", here, "--data", corpus, "--lang", corpus / "lang_char", "--split", "test")
    times = [line.split() for line in (here / "times" / "test-student.ctm").read_text().splitlines()]
    assert done.returncode == 0 and times
    for cut_id, _, start, duration, *_ in times:
        assert float(start) + float(duration) <= cuts[cut_id].duration


@pytest.mark.parametrize("kind", ["hubert", "hubert-large"])
def test_a_pretrained_encoder_trains_in_training_mode(corpus: Path, tmp_path: Path, kind: str) -> None:
    """With its dropout, and checkpointed layers that go forward twice; evaluation has neither."""
    assert ctcsd("features", "--data", corpus, *WAVE).returncode == 0
    source = write_backbone(tmp_path / "tiny", kind)
    own = [f"model.backbone={source}", "model.gradient_checkpointing=true", "train.preflight=false"]
    cfg = method_config("ctc_teacher", overrides=[*WAVE, *SHORT, *own, "model.freeze_steps=0"])
    module, data = build(cfg, corpus, corpus / "lang_char")
    layer = module.model.backbone.encoder.layers[0]
    modes = []
    layer.attention.register_forward_hook(lambda block, *_: modes.append(block.training))
    seen = set()
    layer.dropout.register_forward_hook(lambda block, given, out: seen.add((block.training, out.equal(given[0]))))
    (tmp_path / "run").mkdir()
    fit(module, data, tmp_path / "run")
    steps = module.total_steps
    assert modes[: 2 * steps] == [True] * 2 * steps, "forward, and again in the backward pass"
    assert modes[2 * steps :] and not any(modes[2 * steps :]), "of dev"
    assert seen == {(True, False), (False, True)}
    assert not any(part.training for part in load_model(tmp_path / "run")[0].modules())


def test_a_sharded_pretrained_encoder_trains_as_a_whole_one(corpus: Path, tmp_path: Path) -> None:
    """Two processes hold half of each tensor; what draws at random is off, for each process draws its own."""
    assert ctcsd("features", "--data", corpus, *WAVE).returncode == 0
    source = Path(write_backbone(tmp_path / "tiny", "hubert-large"))
    config = json.loads((source / "config.json").read_text())
    dropouts = {key: 0.0 for key in config if "dropout" in key}
    assert dropouts["hidden_dropout"] != config["hidden_dropout"]
    (source / "config.json").write_text(json.dumps(config | dropouts))
    own = [f"model.backbone={source}", "model.mask_prob=0", "model.gradient_checkpointing=true"]
    own += [*WAVE, *SHORT, "train.epochs=2", "--data", str(corpus), "--lang", str(corpus / "lang_char"), "--run"]
    made = {}
    for name, several in {"one": [], "two": ["train.devices=2", "train.strategy=fsdp"]}.items():
        command = [sys.executable, "-m", "ctcsd", "train", "-m", "skd", *own, str(tmp_path / name), *several]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        made[name] = load_file(tmp_path / name / "model.safetensors")
    begun = load_file(source / "model.safetensors")
    assert not torch.equal(begun["encoder.layers.0.attention.k_proj.weight"], made["one"][LOWEST])
    assert made["one"].keys() == made["two"].keys()
    for key, value in made["one"].items():
        torch.testing.assert_close(made["two"][key], value, atol=1e-4, rtol=1e-3, msg=key)


class Vanish(Callback):
    """Files go as the second epoch begins."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for path in self.paths if trainer.current_epoch == 1 else ():
            path.unlink()


@pytest.mark.parametrize("gone", [1, 4])
def test_audio_that_vanishes_while_it_trains(corpus: Path, tmp_path: Path, backbone: str, gone: int) -> None:
    """It is audio of train alone: dev reads the original."""
    data = Path(shutil.copytree(corpus, tmp_path / "data", ignore=shutil.ignore_patterns("wave", ".*")))
    manifest, audio = data / "manifests" / "cuts_train.jsonl.gz", []
    cuts = list(CutSet.from_file(manifest))
    for cut in cuts:
        source = cut.recording.sources[0]
        audio.append(Path(shutil.copy(source.source, tmp_path / f"{cut.id}.flac")))
        source.source = str(audio[-1])
    CutSet.from_cuts(cuts).to_file(manifest)
    assert ctcsd("features", "--data", data, *WAVE).returncode == 0
    own = [f"model.backbone={backbone}", "train.preflight=false", "data.max_bad=0.2", "train.epochs=2"]
    module, batches = build(method_config("ctc", overrides=[*WAVE, *SHORT, *own]), data, data / "lang_char")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match="run stage 0 again$") if gone > 1 else nullcontext():
        fit(module, batches, tmp_path / "run", [Vanish(audio[:gone])])
    rows = [line.split("\t") for line in (tmp_path / "run" / "unreadable.tsv").read_text().splitlines()]
    assert rows and all(row[0] == "train" and "audio of cut" in row[2] for row in rows)
    assert {row[1] for row in rows} <= {cut.id for cut in cuts[:gone]}


def test_a_teacher_of_raw_audio_for_a_student_of_log_mel(corpus: Path, teacher: Path, tmp_path: Path) -> None:
    student = ["model.dim=16", "model.heads=2", "model.layers=1", "student_layers=1", "data.max_duration=12"]
    student += ["train.epochs=1", "train.precision=32", f"distill.checkpoint={teacher}", "depends=null"]
    assert ctcsd("features", "--data", corpus).returncode == 0
    arguments = ["--data", corpus, "--lang", corpus / "lang_char", "--run", tmp_path / "kd" / "seed1"]
    refused = ctcsd("train", "-m", "kd_symmetric", *arguments, *student)
    assert refused.returncode == 1 and "set distill.teacher=archive" in refused.stderr
    assert "reads wave and has a frame every 20 ms, the student fbank and 40 ms" in refused.stderr
    done = ctcsd("train", "-m", "kd_symmetric", *arguments, *student, "distill.teacher=archive")
    assert done.returncode == 0, done.stderr
    assert PosteriorReader(teacher / "posteriors" / "train-teacher").frame_shift == 0.02


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["features.type=fbank"], "reads features.type=wave, not fbank"),
        (["model.layers=4"], "model.layers=4, but"),
        (["student_layers=9"], "exit 'student' at layer 9"),
        (["model.backbone=conformer"], "model.backbone=conformer reads features.type=fbank, not wave"),
        (["model.freeze_steps=1.5"], "model.freeze_steps=1.5 is a share"),
        (["model.pool=0"], "model.pool=0: at least 1"),
    ],
)
def test_bad_input_is_one_line(
    corpus: Path, teacher: Path, backbone: str, tmp_path: Path, overrides: list[str], message: str
) -> None:
    arguments = ["-m", "skd", "--data", corpus, "--lang", corpus / "lang_char", "--run", tmp_path / "run"]
    done = ctcsd("train", *arguments, f"model.backbone={backbone}", *WAVE, *SHORT, *overrides)
    assert done.returncode == 1 and message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_audio_that_does_not_fit_is_named(corpus: Path, tmp_path: Path) -> None:
    cuts = CutSet.from_file(corpus / "manifests" / "cuts_train.jsonl.gz").to_eager()
    dataset = CtcDataset(read=read_wave)
    batch = dataset[cuts]
    assert batch.features.shape == (8, int(batch.lengths.max())) and batch.rate == 16000
    first = next(iter(cuts))
    assert torch.equal(batch.features[0, : int(batch.lengths[0])], torch.from_numpy(first.load_audio()[0]))
    with pytest.raises(UserError, match=f"cut {first.id} is at 8000 Hz, not 16000"):
        dataset[CutSet.from_cuts([first.resample(8000)])]
    gone = first.to_dict()
    gone["recording"]["sources"][0]["source"] = str(tmp_path / "gone.flac")
    with pytest.raises(UserError, match=f"the audio of cut {first.id} cannot be read"):
        dataset[CutSet.from_dicts([gone])]
    (tmp_path / "manifests").mkdir()
    slow = cuts.resample(8000)
    slow.to_file(tmp_path / "manifests" / "cuts_train.jsonl.gz")
    with pytest.raises(UserError, match="is at 8000 Hz, not 16000"):
        compute_features(tmp_path, Config(features=FeaturesConfig(type="wave")), "train")
