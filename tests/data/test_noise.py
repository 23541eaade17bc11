"""Noisy test sets, measured: the ratio that was asked for, the same noise each time, made of training speech only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from console import ctcsd
from lhotse import CutSet, Fbank, FbankConfig, Recording, RecordingSet
from speech import fotaq_data

from ctcsd.config import Config
from ctcsd.data import noise
from ctcsd.data.batches import references
from ctcsd.data.features import compute_features, load_cuts
from ctcsd.data.integrity import read_wave


@pytest.fixture(scope="module", autouse=True)
def short_noise() -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(noise, "SECONDS", 20)
    patch.setattr(noise, "SPEECH", 40)
    yield
    patch.undo()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """40 cuts of training, 12 of 0.5 s and more of test."""
    (tmp_path / "manifests").mkdir()
    for split, count in (("train", 40), ("test", 12)):
        cuts = list(CutSet.from_file(fotaq_data() / "manifests" / f"cuts_{split}.jsonl.gz"))[:count]
        CutSet.from_cuts(cuts).to_file(tmp_path / "manifests" / f"cuts_{split}.jsonl.gz")
    return tmp_path


def split(data: Path, name: str) -> list:
    return list(load_cuts(data / "manifests" / f"cuts_{name}.jsonl.gz", stage=0))


def noises(data: Path, name: str) -> list[np.ndarray]:
    """What the mixed audio has and the clean has not."""
    return [
        mixed.load_audio()[0] - clean.load_audio()[0]
        for mixed, clean in zip(split(data, name), split(data, "test"), strict=True)
    ]


def measured(data: Path, name: str) -> list[float]:
    """Speech to noise in dB."""
    speech = [np.mean(cut.load_audio() ** 2) for cut in split(data, "test")]
    return [10 * np.log10(s / np.mean(n**2)) for s, n in zip(speech, noises(data, name))]


def make(data: Path, *options: object) -> None:
    done = ctcsd("noisy", "--data", data, *options)
    assert done.returncode == 0, done.stderr


def test_ratios_texts_and_noise_that_follows_from_the_seed(data: Path) -> None:
    make(data)
    for snr in (20, 10, 5):
        np.testing.assert_allclose(measured(data, f"test_noise{snr}"), snr, atol=0.1)
        for mixed, clean in zip(split(data, f"test_noise{snr}"), split(data, "test"), strict=True):
            assert (mixed.id, mixed.duration, mixed.num_samples) == (clean.id, clean.duration, clean.num_samples)
            assert [s.to_dict() for s in mixed.supervisions] == [s.to_dict() for s in clean.supervisions]
    for quiet, loud in zip(noises(data, "test_noise20"), noises(data, "test_noise5")):
        np.testing.assert_allclose(loud, quiet * 10 ** (15 / 20), atol=1e-4)
    sources = {track.cut.recording.id for cut in split(data, "test_noise5") for track in cut.tracks[1:]}
    babble, stationary = sorted(sources)
    assert babble.startswith("babble_train_1_") and stationary.startswith("stationary_train_1_"), "both kinds are drawn"
    manifest = data / "manifests" / "cuts_test_noise20.jsonl.gz"
    first = manifest.read_bytes(), (data / "noise" / f"{babble}.flac").read_bytes()
    make(data)
    assert first == (manifest.read_bytes(), (data / "noise" / f"{babble}.flac").read_bytes())
    make(data, "--seed", 2)
    assert first[0] != manifest.read_bytes()


def test_noise_is_made_without_the_test_speech(data: Path) -> None:
    cuts = split(data, "test")
    for cut in cuts:
        cut.recording.sources[0].source = str(data / "gone.flac")
    CutSet.from_cuts(cuts).to_file(data / "manifests" / "cuts_test.jsonl.gz")
    make(data, "--noise", "babble", "--name", "babble", "--snr", 10)
    assert len(split(data, "test_babble10")) == 12


def test_babble_and_stationary_noise_sound_like_speech(data: Path) -> None:
    make(data)
    speech = np.concatenate([cut.load_audio()[0] for cut in split(data, "train")])

    def spectrum(samples: np.ndarray) -> np.ndarray:
        frames = samples[: len(samples) // 400 * 400].reshape(-1, 400) * np.hamming(400)
        return 10 * np.log10((np.abs(np.fft.rfft(frames)) ** 2).mean(0))[5:110]  # to the corpus's 4.5 kHz

    variation = {}
    for kind in ("babble", "stationary"):
        (path,) = (data / "noise").glob(f"{kind}_train_1_*.flac")
        samples, rate = soundfile.read(path)
        assert rate == 16000 and len(samples) == 20 * 16000 and np.abs(samples).max() == pytest.approx(0.5, abs=1e-3)
        assert np.corrcoef(spectrum(samples), spectrum(speech))[0, 1] > 0.95
        power = (samples.reshape(-1, 1600) ** 2).mean(1)
        variation[kind] = power.std() / power.mean()
    assert variation["stationary"] < 0.2 < variation["babble"]


def test_noise_from_files(data: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder = tmp_path / "mine"
    (folder / "a").mkdir(parents=True)
    soundfile.write(folder / "a" / "hum.wav", rng.normal(size=(8000 * 9, 2)) * 0.1, 8000)  # another rate, two channels
    soundfile.write(folder / "hum.wav", rng.normal(size=4000) * 0.1, 16000)  # shorter than any cut
    gaps = rng.normal(size=16000 * 30) * 0.1
    gaps[16000 * 4 :] = 0  # mostly silent
    soundfile.write(folder / "gaps.flac", gaps, 16000)
    make(data, "--noise", folder, "--snr", 0)
    np.testing.assert_allclose(measured(data, "test_noise0"), 0, atol=0.3)
    manifest = tmp_path / "recordings.jsonl.gz"
    RecordingSet.from_recordings([Recording.from_file(folder / "hum.wav")]).to_file(manifest)
    hum = ["--noise", manifest, "--snr", 10, "--snr", -5, "--name", "hum"]
    make(data, *hum)
    first = (data / "manifests" / "cuts_test_hum10.jsonl.gz").read_bytes()
    make(data, *hum)
    assert first == (data / "manifests" / "cuts_test_hum10.jsonl.gz").read_bytes()
    np.testing.assert_allclose(measured(data, "test_hum-5"), -5, atol=0.1)
    soundfile.write(folder / "silence.wav", np.zeros(16000 * 9), 16000)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.wav").write_bytes(b"no audio")
    RecordingSet.from_recordings([Recording.from_file(folder / "silence.wav")]).to_file(tmp_path / "silence.jsonl")
    for options, message in (
        (["--noise", tmp_path / "silence.jsonl"], "the noise is silent"),
        (["--noise", tmp_path / "empty"], "no noise at"),
        (["--noise", tmp_path / "broken"], "no noise at"),
        (["--noise", tmp_path / "nowhere"], "no noise at"),
        (["--split", "other"], "cuts_other.jsonl.gz: run stage 0"),
        (["--split", "train"], "cannot be the noisy split too"),
        (["--name", "../x"], "cannot be a part of a split's name"),
    ):
        done = ctcsd("noisy", "--data", data, *options)
        assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and message in done.stderr, done.stderr


def test_stage_1_and_audio_as_it_is_read(data: Path) -> None:
    make(data, "--snr", 10)
    mixed = {cut.id: cut.load_audio() for cut in split(data, "test_noise10")}
    features = load_cuts(compute_features(data, Config(), "test_noise10", jobs=1), stage=1)
    extractor = Fbank(FbankConfig(sampling_rate=16000, num_mel_bins=80))
    for cut in features:
        np.testing.assert_allclose(cut.load_features(), extractor.extract(mixed[cut.id], 16000), atol=0.1)
    compute_features(data, Config(), "test", jobs=1)
    clean = references(data / "fbank80" / "cuts_test.jsonl.gz")
    assert references(data / "fbank80" / "cuts_test_noise10.jsonl.gz") == clean
    audio, lengths = read_wave(CutSet.from_cuts(split(data, "test_noise10")))
    np.testing.assert_array_equal(audio[3, : lengths[3]], mixed[split(data, "test")[3].id][0])
