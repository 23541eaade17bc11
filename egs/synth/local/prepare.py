"""Stage 0 of the recipe synth: sentences spoken by espeak-ng in many voices, as FLAC files and lhotse manifests."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import espeak
import numpy as np
import typer
from fortunes import sentences

from ctcsd.console import run_script
from ctcsd.data.debian import fetch_package, member, unpack
from ctcsd.data.prepare import MAX_BAD, Utterance, prepare
from ctcsd.data.recipe import MaxBad
from ctcsd.data.splits import split_of
from ctcsd.errors import UserError, one_line_errors
from ctcsd.text.normalize import alphabet_of, normalize

PACKAGE = "fortunes"
CHECKSUMS = {"1:1.99.1-7.3": "41d0551dc0ff52f875a2ecef7c39da2f672ab468c37e170119f7e0245a9d63c5"}
FORTUNES = "usr/share/games/fortunes/wisdom"  # one of the files in the folder
# Small: nobody is to recognise synthetic speech, dev only chooses the checkpoint.
BOUNDS = (("test", 3), ("dev", 6), ("train", 100))
RATES, PITCHES = (140, 210), (30, 70)  # words per minute; of 100
EDGES = 0.3  # seconds, the longest silence before and after the speech
CHARACTERS_PER_WORD = 6.4  # spaces and pauses included: measured; turns characters into seconds


def utterances(texts: Iterable[str], language: str, hours: float) -> Iterator[Utterance]:
    """The texts in their order until about `hours` of speech; where they run out, again in other voices.

    The voice, its rate and pitch and the channel come from the hash of the text (and of how often it came before), so
    an utterance does not depend on which others there are. All takes of a text are in one split.
    """
    texts, voices, seconds = list(texts), espeak.voices(language), 0.0
    for take in itertools.count() if texts else ():
        for text in texts:
            if seconds >= 3600 * hours:
                return
            name = hashlib.sha1(f"{text} {take}".encode()).hexdigest()[:16]
            rng = np.random.default_rng(int(name, 16))
            voice = str(rng.choice(voices))
            rate, pitch = (int(rng.integers(*ends, endpoint=True)) for ends in (RATES, PITCHES))
            seconds += EDGES + len(text) / CHARACTERS_PER_WORD * 60 / rate
            load = partial(spoken, text, voice, rate, pitch, int(rng.integers(2**31)))
            # salted: the recipe that a training text comes from put it there by the same hash
            yield Utterance(f"synth-{name}", text, voice, load, split_of(f"synth {text}", BOUNDS))


def spoken(text: str, voice: str, rate: int, pitch: int, seed: int) -> tuple[np.ndarray, int]:
    """Speak `text` and send it through a random channel: float32 samples and their rate in Hz."""
    # lower case, as the normalised text: espeak-ng spells capitals (US) where people shout
    speech, hertz = espeak.speak(text.lower(), voice, rate, pitch, seed)
    rng = np.random.default_rng(seed)
    return channel(np.pad(speech, rng.integers(0, int(EDGES * hertz), 2)), rng), hertz


def channel(speech: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tilted by one pole, under white noise at 15 to 40 dB SNR, its peak at -20 to -1 dB of full scale; float32."""
    delay = np.exp(-2j * np.pi * np.fft.rfftfreq(len(speech)))
    tilted = np.fft.irfft(np.fft.rfft(speech) / (1 - rng.uniform(-0.5, 0.5) * delay), len(speech))
    noise = rng.normal(size=len(speech)) * tilted.std() * 10 ** (-rng.uniform(15, 40) / 20)
    noisy = tilted + noise
    return (noisy / np.abs(noisy).max() * 10 ** (-rng.uniform(1, 20) / 20)).astype(np.float32)


def choose(sources: Iterable[Iterable[str]], held_out: Iterable[str], language: str) -> Iterator[str]:
    """Each text once, unless its words are those of a held-out one: source after source, each in order of hashes."""
    words_of = partial(normalize, alphabet=alphabet_of(language))
    taken = set(map(words_of, held_out))
    for source in sources:
        by_words = {words_of(text): text for text in source}
        new = by_words.keys() - taken - {""}
        taken |= new
        yield from (by_words[words] for words in sorted(new, key=lambda words: hashlib.sha1(words.encode()).digest()))


def transcripts(data: Path, split: str) -> list[str]:
    """The texts of a split of a prepared recipe, as shipped; `data` is its data folder or the manifests in it."""
    path = (data / "manifests" if (data / "manifests").is_dir() else data) / f"cuts_{split}.jsonl.gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            found = [json.loads(line)["supervisions"][0] for line in lines]
    except FileNotFoundError:
        raise UserError(f"--transcripts {data}: no {path.name} in it; run stage 0 of that recipe first") from None
    except (EOFError, ValueError, LookupError):
        raise UserError(f"--transcripts {data}: {path.name} is damaged") from None
    return [one.get("custom", {}).get("text_raw", one["text"]) for one in found]


def main(
    out: Annotated[Path, typer.Option(help="Folder for audio, manifests and the report.")] = Path(__file__).parents[1]
    / "data",
    hours: Annotated[
        float, typer.Option(min=0.001, help="Speech to make, roughly; texts are repeated as needed.")
    ] = 10,
    language: Annotated[str, typer.Option(help="Language of the texts; all of its accents speak.")] = "en",
    transcripts_of: Annotated[
        list[Path] | None,
        typer.Option(
            "--transcripts",
            help="Data folder of a prepared recipe, or its manifests: the training texts are spoken first. Repeatable.",
        ),
    ] = None,
    use_fortunes: Annotated[
        bool, typer.Option("--fortunes/--no-fortunes", help=f"English sentences of the Debian package {PACKAGE}.")
    ] = True,
    deb: Annotated[
        Path | None,
        typer.Option(help=f"The package {PACKAGE} ({', '.join(CHECKSUMS)}) as a file, where apt cannot fetch it."),
    ] = None,
    max_bad: MaxBad = MAX_BAD,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that speak and resample.")] = 2,
) -> None:
    """Make synth: sentences spoken by espeak-ng in 152 voices (English), to start encoders from.

    The texts are the training texts of other recipes, then fortunes (a Debian package of 0.8 MB, fetched with apt,
    without root, and kept in OUT/download); sentences of those recipes' dev or test sets are left out. Writes 16 kHz
    FLAC to OUT/audio, lhotse manifests and cuts per split to OUT/manifests, and an account of what was dropped and why
    to OUT/report.txt and OUT/dropped.tsv. Other folders in OUT are left alone.

    Example: python egs/synth/local/prepare.py --transcripts egs/fotaq/data/manifests --jobs 4
    """
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="ctcsd-synth-") as folder:
        data = transcripts_of or []
        sources = [transcripts(one, "train") for one in data]
        held_out = [text for one in data for split in ("dev", "test") for text in transcripts(one, split)]
        if use_fortunes:
            if language.partition("-")[0] != "en":
                raise UserError(f"fortunes are English, not '{language}': add --no-fortunes")
            unpack(fetch_package(PACKAGE, CHECKSUMS, out / "download", deb), Path(folder))
            sources.append(list(sentences(member(Path(folder), FORTUNES).parent)))
        if not sources:
            raise UserError("no texts: give --transcripts, or leave --no-fortunes out")
        texts = choose(sources, held_out, language)
        prepare(utterances(texts, language, hours), out, language, max_bad=max_bad, jobs=jobs)


if __name__ == "__main__":
    run_script(main)
