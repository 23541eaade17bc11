"""Stage 0 of the recipe fotaq: English game dialogue out of a Debian package, as FLAC files and lhotse manifests."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from queen import clips

from ctcsd.console import run_script
from ctcsd.data.debian import fetch_package, member, unpack
from ctcsd.data.prepare import MAX_BAD, Utterance, prepare
from ctcsd.data.recipe import Jobs, MaxBad
from ctcsd.errors import one_line_errors

PACKAGE = "flight-of-the-amazon-queen"
CHECKSUMS = {"1.0.0-9": "40c08fd258d6fe95c46c1eaf5e9137f84ba330657995a281bd887c94a560a0f1"}
DATA_FILE = "usr/share/scummvm/flight-of-the-amazon-queen/queen.1c"
RATE = 11025  # Hz
# Every clip begins with the codec's delay; then, in 2.6 % of them, comes a file header that was encoded as if it were
# sound, a click louder than the speech. The speech begins behind it.
HEADER_END = 1105 + 22  # samples


def utterances(queen: Path) -> Iterator[Utterance]:
    """Every clip of `queen.1c` that has a text."""
    for clip in clips(queen.read_bytes()):
        yield Utterance(clip.name, clip.text, clip.speaker, partial(load_clip, queen, clip.offset, clip.size))


def load_clip(queen: Path, offset: int, size: int) -> tuple[np.ndarray, int]:
    """Decode the MP3 at `offset` (bytes), its header click muted: float32 samples and their rate in Hz."""
    with open(queen, "rb") as file:
        file.seek(offset)
        samples, rate = soundfile.read(io.BytesIO(file.read(size)), dtype="float32")
    samples[:HEADER_END] = 0
    return samples, rate


def main(
    out: Annotated[Path, typer.Option(help="Folder for audio, manifests and the report.")] = Path(__file__).parents[1]
    / "data",
    deb: Annotated[
        Path | None,
        typer.Option(help=f"The package {PACKAGE} ({', '.join(CHECKSUMS)}) as a file, where apt cannot fetch it."),
    ] = None,
    max_bad: MaxBad = MAX_BAD,
    jobs: Jobs = 2,
) -> None:
    """Prepare fotaq: 4.5 hours of acted English dialogue (6,500 utterances) from the game Flight of the Amazon Queen.

    Fetches the Debian package (35 MB) with apt, without root, and keeps it in OUT/download; reads texts and speech out
    of the game's data file; writes 16 kHz FLAC to OUT/audio, lhotse manifests and cuts per split to OUT/manifests, and
    an account of what was dropped and why to OUT/report.txt and OUT/dropped.tsv. Other folders in OUT are left alone.

    Example: python egs/fotaq/local/prepare.py --jobs 4
    """
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="ctcsd-fotaq-") as folder:
        package = fetch_package(PACKAGE, CHECKSUMS, out / "download", deb)
        unpack(package, Path(folder))
        prepare(utterances(member(Path(folder), DATA_FILE)), out, "en", expected_rate=RATE, max_bad=max_bad, jobs=jobs)


if __name__ == "__main__":
    run_script(main)
