"""Stage 0 of the recipe festvox_ru: read Russian literature out of a Debian package, as FLAC and lhotse manifests."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ctcsd.console import run_script
from ctcsd.data.debian import fetch_package, member, unpack
from ctcsd.data.prepare import MAX_BAD, Utterance, load_file, prepare
from ctcsd.data.recipe import Jobs, MaxBad
from ctcsd.errors import UserError, one_line_errors

PACKAGE = "festvox-ru"
CHECKSUMS = {"0.5+dfsg-6": "21ef3f0f2978ecf2e2eddb367cb0ff4a72572196d28dc69feb84f4177af5e6c4"}
TEXTS = "usr/share/festival/voices/russian/msu_ru_nsh_clunits/etc/txt.done.data"
READER = "nsh"  # the voice's name for its one reader
RATE = 16000  # Hz
# The default shares would leave 25 utterances for dev, too few to tune on.
BOUNDS = (("dev", 10), ("test", 22), ("train", 100))
LINE = re.compile(r'\( *([\w-]+) +"([^"\\]*)" *\)')


def utterances(texts: Path) -> Iterator[Utterance]:
    """One per line `( ID "TEXT" )` of festival's `etc/txt.done.data`; the audio is `wav/ID.wav` beside `etc`.

    A `+` marks the stress of the vowel behind it, in words that would be misread, and is removed. Raises UserError for
    a line of any other form.
    """
    wav = texts.parents[1] / "wav"
    for number, line in enumerate(texts.read_text(encoding="utf-8").splitlines(), start=1):
        found = LINE.fullmatch(line.strip())
        if found:
            name, text = found.groups()
            yield Utterance(name, text.replace("+", ""), READER, partial(load_file, wav / f"{name}.wav"))
        elif line.strip():
            raise UserError(f'{texts.name}, line {number}: not of the form ( ID "TEXT" )')


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
    """Prepare festvox_ru: 100 minutes of Russian literature (620 sentences), read by one speaker.

    Fetches the Debian package (179 MB) with apt, without root, and keeps it in OUT/download; writes 16 kHz FLAC to
    OUT/audio, lhotse manifests and cuts per split to OUT/manifests, and an account of what was dropped and why to
    OUT/report.txt and OUT/dropped.tsv. Other folders in OUT are left alone.

    Example: python egs/festvox_ru/local/prepare.py --jobs 4
    """
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="ctcsd-festvox-ru-") as folder:
        package = fetch_package(PACKAGE, CHECKSUMS, out / "download", deb)
        unpack(package, Path(folder))
        texts = member(Path(folder), TEXTS)
        prepare(utterances(texts), out, "ru", expected_rate=RATE, bounds=BOUNDS, max_bad=max_bad, jobs=jobs)


if __name__ == "__main__":
    run_script(main)
