"""Training as a pipeline: it overfits, it resumes, it repeats itself, it refuses what does not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import sherpa_onnx
from console import ctcsd
from lhotse import CutSet
from safetensors.torch import load_file

from ctcsd.data.features import load_cuts
from ctcsd.posteriors import PosteriorReader
from ctcsd.score.wer import wer

TINY = ["model.layers=2", "student_layers=1", "model.dim=32", "model.heads=2", "model.subsampling_channels=4"]
TINY += ["data.max_duration=30", "train.epochs=3"]


def train(corpus: Path, run: Path, method: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    return ctcsd("train", "-m", method, "--data", corpus, "--lang", corpus / "lang_char", "--run", run, *overrides)


@pytest.mark.slow
def test_skd_overfits_sixty_utterances(small_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "skd"
    done = train(
        small_corpus, run, "skd", "model.layers=4", "student_layers=2", "model.dim=96", "data.max_duration=20",
        "train.epochs=45", "train.lr=3e-3", "augment.time_masks=0", "augment.freq_masks=0",
        "train.evaluate_every=15", "train.average=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    dev = json.loads((run / "train.json").read_text())["dev"]
    assert dev["dev_wer/student"] < 10.0, done.stdout
    assert dev["dev_wer/teacher"] < 10.0, done.stdout
    for command in (
        ["posteriors", "--run", run, "--data", small_corpus, "--lang", small_corpus / "lang_char"],
        ["search", "--run", run, "--lang", small_corpus / "lang_char", "--method", "greedy"],
        ["score", "--run", run, "--data", small_corpus, "--method", "greedy"],
    ):
        done = ctcsd(*command)
        assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert {(row["split"], row["exit"]) for row in rows} == {
        (split, exit) for split in ("dev", "test") for exit in ("student", "teacher")
    }
    for row in rows:
        assert row["wer"] < 10.0, row
        if row["split"] == "dev":
            assert row["wer"] == pytest.approx(dev[f"dev_wer/{row['exit']}"], abs=0.01), "training and stage 5 agree"
    breakdown = (run / "decode" / "greedy" / "breakdown-dev-student.tsv").read_text().splitlines()
    assert [line.split("\t")[1:3] for line in breakdown if line.startswith("speaker\t")] == [["joe", "60"]]
    student = PosteriorReader(run / "posteriors" / "test-student")
    both = {cut_id: log_probs for cut_id, log_probs in student}
    shutil.rmtree(run / "posteriors")
    command = ["posteriors", "--run", run, "--data", small_corpus, "--lang", small_corpus / "lang_char"]
    assert ctcsd(*command, "--exit", "student").returncode == 0
    assert not (run / "posteriors" / "test-teacher").exists()
    for cut_id, log_probs in student:
        assert (both[cut_id] == log_probs).all(), "the student alone is the full model's student exit, bit for bit"
    done = ctcsd("export", "--run", run, "--exit", "student", "--out", tmp_path / "out", "--int8")
    assert done.returncode == 0, done.stderr
    cuts = load_cuts(small_corpus / "manifests" / "cuts_test.jsonl.gz", stage=0)
    for name in ("model.onnx", "model.int8.onnx"):
        spoken = by_sherpa(tmp_path / "out", name, cuts)
        assert wer([(text.split(), found.split()) for text, found in spoken]).rate < 10.0, name
    sources = [cut.recording.sources[0].source for cut in cuts]
    done = ctcsd("transcribe", "--run", tmp_path / "out", *sources)
    assert done.returncode == 0, done.stderr
    spoken = [(cut.supervisions[0].text, line.split("\t")[1]) for cut, line in zip(cuts, done.stdout.splitlines())]
    assert wer([(text.split(), found.split()) for text, found in spoken]).rate < 10.0, "from the audio files"


def by_sherpa(folder: Path, name: str, cuts: CutSet) -> list[tuple[str, str]]:
    """What was said in each recording, and what sherpa-onnx hears with an exported model."""
    recognizer = sherpa_onnx.OfflineRecognizer.from_zipformer_ctc(
        model=str(folder / name), tokens=str(folder / "tokens.txt")
    )
    pairs = []
    for cut in cuts:
        stream = recognizer.create_stream()
        stream.accept_waveform(cut.sampling_rate, cut.load_audio()[0])
        recognizer.decode_stream(stream)
        pairs.append((cut.supervisions[0].text, stream.result.text))
    return pairs


def test_the_same_seed_gives_the_same_model(small_corpus: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        done = train(small_corpus, tmp_path / name, "skd", *TINY, f"seed={seed}")
        assert done.returncode == 0, done.stderr
    a, b, c = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert all(a[key].equal(b[key]) for key in a)
    assert not all(a[key].equal(c[key]) for key in a)


def test_another_configuration_moves_the_old_run_aside(small_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "seed1"
    assert train(small_corpus, run, "ctc", *TINY, "train.epochs=1").returncode == 0
    done = train(small_corpus, run, "ctc", *TINY, "train.epochs=1", "train.lr=0.002")
    assert done.returncode == 0, done.stderr
    assert "train.lr was 0.001, is 0.002" in done.stdout
    assert (tmp_path / ".old" / "seed1-1" / "model.safetensors").is_file()
    refused = train(small_corpus, run, "ctc", *TINY, "model.conv_kernel=16")
    assert refused.returncode == 1 and "model.conv_kernel must be odd" in refused.stderr
    other_language_model = train(small_corpus, run, "ctc", *TINY, "train.epochs=1", "train.lr=0.002", "lang.lm_arpa=x")
    assert "up to date" in other_language_model.stdout, "what was refused has left the run as it was"
    assert (run / "model.safetensors").is_file(), "what does not fit together moves nothing"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    other = train(small_corpus, mine, "ctc", *TINY)
    assert other.returncode == 1 and "holds no run" in other.stderr
    assert [path.name for path in mine.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.lrr=1"], "unknown key 'train.lrr'; did you mean 'train.lr'?"),
        (["data.train=nowhere"], "cuts_nowhere.jsonl.gz: run stage 1"),
        (["data.max_duration=1"], "shorter than the longest cut"),
        (["data.speaker=nobody"], "cuts_train_nobody.jsonl.gz: run stage 1"),
        (["distill.teacher=null"], "weights.kd is above 0, but distill.teacher names nobody"),
        (["model.heads=5"], "must be an even multiple of model.heads=5"),
        (["weights.ramp=abc"], "weights.ramp must be a number"),
        (["train.epochs=0"], "train.epochs=0: at least 1"),
        (["train.precision=fp8"], "no train.precision 'fp8'"),
        (["train.strategy=dp"], "no train.strategy 'dp'; known: auto, ddp, fsdp"),
        (["train.lr=-1"], "train.lr=-1.0: must be above 0"),
        (["distill.teacher=selff"], "no distill.teacher 'selff'; known: self, "),
        (["lang.unit=bpee"], "no lang.unit 'bpee'; known: char, bpe, phone"),
        (["decode.graph=HCLG"], "no decode.graph 'HCLG'"),
        (["train.devices=0"], "train.devices=0: at least 1"),
        (["decode.methods=[gredy]"], "no search method 'gredy'"),
        (["decode.methods=[greedy"], "'decode.methods=[greedy'"),
        (["student_layers=9"], "exit 'student' at layer 9"),
        (["distill.top_k=-1"], "distill.top_k=-1: from 0 to inf is wanted"),
        (["weights.ctc_student=.nan"], "weights.ctc_student must be a number, 0 or more, not nan"),
        (["distill.frames=symetric:2"], "did you mean 'symmetric'"),
        (["distill.teacher=checkpoint", "distill.checkpoint=/nowhere"], "no trained model at /nowhere"),
    ],
)
def test_bad_input_is_one_line(small_corpus: Path, tmp_path: Path, overrides: list[str], message: str) -> None:
    done = train(small_corpus, tmp_path / "run", "skd", *TINY, *overrides)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_cut_without_text_in_a_supervised_method(small_corpus: Path, tmp_path: Path) -> None:
    from lhotse import CutSet

    data = tmp_path / "data"
    (data / "fbank80").mkdir(parents=True)
    cuts = list(CutSet.from_file(small_corpus / "fbank80" / "cuts_train.jsonl.gz"))
    cuts[7].supervisions[0].text = ""
    for split in ("train", "dev"):
        CutSet.from_cuts(cuts).to_file(data / "fbank80" / f"cuts_{split}.jsonl.gz")
    done = ctcsd(
        "train", "-m", "ctc", "--data", data, "--lang", small_corpus / "lang_char", "--run", tmp_path / "run", *TINY
    )
    assert done.returncode == 1
    assert f"cut {cuts[7].id} has no text" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_lang_dir_that_does_not_fit_the_model(small_corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(small_corpus, run, "ctc", *TINY, "train.epochs=1").returncode == 0
    other = tmp_path / "lang"
    other.mkdir()
    (other / "tokens.txt").write_text("<blk> 0\n\u2581 1\na 2\n", encoding="utf-8")
    done = ctcsd("posteriors", "--run", run, "--data", small_corpus, "--lang", other)
    assert done.returncode == 1
    assert "was trained with another token table" in done.stderr
