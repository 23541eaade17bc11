"""Audio files to text: what stages 1 and 4 do, without a corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from brute_force import add_words
from console import ctcsd

from ctcsd.config import load_config, save_config
from ctcsd.data.features import fbank
from ctcsd.decode.greedy import collapse
from ctcsd.export.transcribe import read_audio
from ctcsd.run_dir import RunDir
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import load_model


def noise(path: Path, seconds: float, rate: int = 16000, channels: int = 1, seed: int = 0) -> Path:
    samples = np.random.default_rng(seed).uniform(-0.4, 0.4, (int(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def test_text_is_what_the_model_says_of_the_features(run: Path, tmp_path: Path, table: TokenTable) -> None:
    files = [noise(tmp_path / f"{seed}.wav", 1.0 + 0.3 * seed, seed=seed) for seed in range(3)]
    model = load_model(run)[0]
    for exit in ("student", "teacher"):
        done = ctcsd("transcribe", "--run", run, "--exit", exit, *files, files[0])
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == 3, "each file once"
        for path, line in zip(files, lines):
            features = torch.from_numpy(fbank(80).extract(soundfile.read(path, dtype="float32")[0][None], 16000))
            with torch.inference_mode():
                logits = model(features[None], torch.tensor([len(features)]))[exit].logits[0]
            assert line == f"{path}\t{table.text_of(collapse(logits.argmax(-1).numpy())[0])}"


def test_any_rate_and_any_channels(tmp_path: Path) -> None:
    path = noise(tmp_path / "two.wav", 1.0, channels=2)
    both = soundfile.read(path, dtype="float32")[0]
    np.testing.assert_allclose(read_audio(path).numpy(), both.mean(1), atol=1e-6)
    for rate in (8000, 44100, 48000):
        assert abs(len(read_audio(noise(tmp_path / "a.flac", 0.5, rate))) - 8000) <= 1


def test_what_cannot_be_read_is_listed_and_the_others_are_recognised(run: Path, tmp_path: Path) -> None:
    good, text = noise(tmp_path / "good.wav", 1.0), tmp_path / "text.wav"
    text.write_text("no audio")
    cut = noise(tmp_path / "cut.wav", 1.0)
    cut.write_bytes(cut.read_bytes()[:40_000])
    odd = tmp_path / "nan.wav"
    soundfile.write(odd, np.full(16000, np.nan), 16000, subtype="FLOAT")
    short, long = noise(tmp_path / "short.wav", 0.01), noise(tmp_path / "long.flac", 601.0, 1000)
    done = ctcsd("transcribe", "--run", run, text, short, good, tmp_path / "none.wav", tmp_path, long, cut, odd)
    assert done.returncode == 3
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"{good}\t")
    assert done.stderr.splitlines() == [
        f"{text}: not audio that can be read",
        f"{short}: no more than 10 ms of audio",
        f"{tmp_path / 'none.wav'}: no file {tmp_path / 'none.wav'}",
        f"{tmp_path}: no file {tmp_path}",
        f"{long}: 10 minutes long: cut it at pauses into parts of at most 600 s",
        f"{cut}: 39920 of 64000 bytes",
        f"{odd}: NaN in its posteriors, first in frame 0, token 0",
        "error: 7 of 8 files could not be recognised (listed above)",
    ]


def test_an_export_has_what_a_search_wants(run: Path, lang_dir: Path, tmp_path: Path) -> None:
    add_words(lang_dir)
    cfg = load_config([run / "config.yaml"])
    cfg.decode.per_method = {"wfst": {"prior_scale": 0.5}}
    save_config(cfg, run / "config.yaml")
    RunDir(run).prior("student").parent.mkdir()
    np.save(RunDir(run).prior("student"), np.full(5, 0.2, dtype=np.float32))
    assert ctcsd("export", "--run", run, "--exit", "student", "--out", tmp_path / "out").returncode == 0
    path = noise(tmp_path / "a.wav", 1.0)
    said = []
    for folder in (run, tmp_path / "out"):
        done = ctcsd("transcribe", "--run", folder, "--method", "wfst", "--lang", lang_dir, path)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
        assert ("HLG: " in done.stderr) == (folder == run), "it was made once"
    assert said[0] == said[1] and said[0].startswith(f"{path}\t") and said[0].count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--exit", "middle"], "has no exit 'middle', only student, teacher"),
        (["--method", "k2-1best"], "'k2-1best' runs where k2 is"),
        (["--method", "k2-foo"], "no search method 'k2-foo'"),
        (["--method", "wfst"], "has no words.txt, which a search on HLG needs"),
        (["--method", "greedy+beam=3"], "search method 'greedy' takes no option 'beam'"),
    ],
)
def test_what_it_does_not_do(run: Path, tmp_path: Path, options: list[str], said: str) -> None:
    done = ctcsd("transcribe", "--run", run, *options, noise(tmp_path / "a.wav", 0.5))
    assert (done.returncode, done.stdout) == (1, "") and said in done.stderr
