"""Noisy copies of a test set: with noise from files, or with babble and stationary noise made of training speech."""

from __future__ import annotations

import io
import random
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import soundfile
from lhotse import CutSet, Recording, RecordingSet, load_manifest
from lhotse.cut import Cut, append_cuts

from ctcsd.data.audio import FORMATS
from ctcsd.data.checks import SAMPLING_RATE, sound_digest
from ctcsd.data.features import load_cuts
from ctcsd.data.integrity import check_cuts, read_wave
from ctcsd.data.manifests import write_jsonl
from ctcsd.errors import UserError, first_line
from ctcsd.files import replacing

SECONDS = 300  # of noise that is made
VOICES = 6  # in babble
FRAME = 512  # samples, over which the spectrum of speech is taken
SPEECH = 300  # training cuts whose spectrum counts
TRIES = 20  # at a piece of noise that is not silent


def write_noisy(
    data_dir: Path, noises: Sequence[str], snrs: Sequence[int], split: str, train: str, name: str, seed: int
) -> None:
    """Write `manifests/cuts_SPLIT_NAMEsnr.jsonl.gz` for each ratio of speech to noise (dB, mean power of each cut).

    Text, ids and lengths are those of the clean cuts. The noise of a cut follows from the seed and its id, and is the
    same at all ratios. The mixing itself is lhotse's, whenever the audio is read.

    Args:
        noises: folders of audio, lhotse manifests, or a name in MADE, which is made of the speech of `train`, into
            `noise/`; each cut draws its noise from all of them.

    Raises:
        UserError: no such split, noise that cannot be read, or nothing in it but silence.
    """
    if split == train:
        raise UserError(f"babble and stationary noise are made of '{train}', so that it cannot be the noisy split too")
    if not re.fullmatch(r"\w+", name):
        raise UserError(f"'{name}' cannot be a part of a split's name: letters, digits and _ can")
    manifests = data_dir / "manifests"
    clean = load_cuts(manifests / f"cuts_{split}.jsonl.gz", stage=0)
    bed = [cut for noise in noises for cut in _noise(data_dir, noise, train, seed)]
    pieces = {cut.id: _piece(bed, cut, random.Random(f"{seed} {cut.id}")) for cut in clean}
    for snr in snrs:
        target = manifests / f"cuts_{split}_{name}{snr}.jsonl.gz"
        with replacing(target) as partial:
            mixed = (cut.mix(pieces[cut.id], snr=snr, preserve_id="left") for cut in clean)
            write_jsonl(partial, (cut.to_dict() for cut in mixed))
        print(f"{target}: {len(clean)} cuts", flush=True)


def _noise(data_dir: Path, noise: str, train: str, seed: int) -> list[Cut]:
    """One kind of noise, as cuts of 16 kHz and one channel."""
    if noise in MADE:
        samples = MADE[noise](_speech(data_dir, train, random.Random(seed)), np.random.default_rng(seed))
        digest = sound_digest(samples, SAMPLING_RATE)[:8]  # other speech, another noise
        path = data_dir.absolute() / "noise" / f"{noise}_{train}_{seed}_{digest}.flac"
        _write_flac(path, samples)
        return [Recording.from_file(path).to_cut()]
    cuts = []
    for cut in _cuts_of(Path(noise)):
        mono = cut.to_mono()[0] if cut.num_channels > 1 else cut
        cuts.append((mono.resample(SAMPLING_RATE) if mono.sampling_rate != SAMPLING_RATE else mono).drop_supervisions())
    check_cuts(cuts)
    if not cuts:
        raise UserError(f"no noise at {noise}: no audio in this folder, or an empty manifest")
    return cuts


def _cuts_of(path: Path) -> CutSet:
    """What lies in a folder of audio or stands in a manifest."""
    try:
        if not path.is_dir():
            found = load_manifest(path)
            return CutSet.from_manifests(recordings=found) if isinstance(found, RecordingSet) else found
        files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in FORMATS]
        return CutSet.from_cuts(Recording.from_file(file, str(file.relative_to(path))).to_cut() for file in files)
    except Exception as error:  # whatever lhotse and libsndfile raise
        raise UserError(f"no noise at {path} ({first_line(error)})") from None


def _piece(bed: Sequence[Cut], cut: Cut, rng: random.Random) -> Cut:
    """Noise that lasts as long as a cut: from a random place of one of the noises, which begins anew where it ends."""
    for _ in range(TRIES):
        noise = rng.choice(bed)
        if noise.num_samples < cut.num_samples:
            noise = append_cuts([noise] * -(-cut.num_samples // noise.num_samples))
        start = rng.randrange(noise.num_samples - cut.num_samples + 1) / SAMPLING_RATE
        piece = noise.truncate(offset=start, duration=cut.duration, preserve_id=True)
        if float(read_wave(CutSet.from_cuts([piece]))[0].abs().max()) > 0:
            return piece
    raise UserError(f"the noise is silent where it was tried, {TRIES} times, such as in {noise.id}")


def _speech(data_dir: Path, train: str, rng: random.Random) -> Iterator[np.ndarray]:
    """Training utterances in a random order, again and again: samples of mean power 1."""
    cuts = list(load_cuts(data_dir / "manifests" / f"cuts_{train}.jsonl.gz", stage=0))
    if len(cuts) < VOICES:
        raise UserError(f"{len(cuts)} cuts of '{train}' are too few to make noise of: {VOICES} are needed")
    rng.shuffle(cuts)
    for cut in cycle(cuts):
        samples = read_wave(CutSet.from_cuts([cut]))[0][0].numpy()
        yield samples / max(float(np.sqrt(np.mean(samples**2))), 1e-5)


def _babble(speech: Iterator[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """VOICES people who talk at once, each without a pause."""
    length = SECONDS * SAMPLING_RATE
    mixed = np.zeros(length, np.float32)
    ends = np.zeros(VOICES, int)
    while ends.min() < length:
        voice = int(ends.argmin())
        samples = next(speech)[: length - ends[voice]]
        mixed[ends[voice] : ends[voice] + len(samples)] += samples
        ends[voice] += len(samples)
    return mixed


def _stationary(speech: Iterator[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise with the mean power spectrum of speech."""
    power = np.zeros(FRAME // 2 + 1)
    for _ in range(SPEECH):
        samples = np.pad(next(speech), (0, FRAME))
        frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[:: FRAME // 2]
        power += (np.abs(np.fft.rfft(frames * np.hanning(FRAME))) ** 2).sum(0)
    spectrum = np.fft.rfft(rng.normal(size=SECONDS * SAMPLING_RATE))
    bins = np.linspace(0, len(power) - 1, len(spectrum))
    return np.fft.irfft(spectrum * np.sqrt(np.interp(bins, np.arange(len(power)), power)))


MADE: dict[str, Callable[[Iterator[np.ndarray], np.random.Generator], np.ndarray]] = {
    "babble": _babble,
    "stationary": _stationary,
}


def _write_flac(path: Path, samples: np.ndarray) -> None:
    """16 bits at 16 kHz, with its peak at half of full scale."""
    encoded = io.BytesIO()
    soundfile.write(encoded, samples * (0.5 / np.abs(samples).max()), SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial:
        partial.write_bytes(encoded.getvalue())
