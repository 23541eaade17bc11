"""Stage 0 of the recipe aishell: read Mandarin, 170 hours, as lhotse manifests over its own WAV files.

lhotse's recipe for AISHELL ends at the first damaged file, and leaves out in silence what has no partner.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from ctcsd.console import run_script
from ctcsd.data.checks import Limits
from ctcsd.data.download import fetch, unpack
from ctcsd.data.prepare import MAX_BAD, Utterance, prepare
from ctcsd.data.recipe import DlDir, Incomplete, Jobs, MaxBad, Out, check_counts, paired
from ctcsd.data.splits import SPLITS
from ctcsd.errors import UserError, one_line_errors
from ctcsd.files import lines_of
from ctcsd.text.normalize import normalize

OPENSLR = "https://www.openslr.org/resources"
ARCHIVE, CHECKSUM = "data_aishell.tgz", "2f494334227864a8a8fec932999db9d8"
UTTERANCES = {"train": 120098, "dev": 14326, "test": 7176}  # that have a transcript
TRANSCRIPTS = "transcript/aishell_transcript_v0.8.txt"
# A character is a syllable, three or four of them a second: far slower than letters.
LIMITS = Limits(slow_base=4.0, slow_per_char=1.0)


def folder_of(folder: Path, openslr: str = OPENSLR) -> Path:
    """The folder data_aishell, below `folder` or its `aishell` (lhotse's layout); downloaded if it is not there.

    The archives of speakers in it, `wav/SPEAKER.tar.gz`, stay there, but are unpacked where that is still to be done.
    """
    for found in (folder / "data_aishell", folder / "aishell/data_aishell"):
        if found.is_dir():
            for packed in sorted(found.glob("wav/*.tar.gz")):
                unpack(packed, found / "wav", f"*/{packed.name.removesuffix('.tar.gz')}")
            return found
    if (folder / "aishell" / ARCHIVE).is_file():
        folder = folder / "aishell"
    return unpack(fetch(f"{openslr}/33/{ARCHIVE}", folder, CHECKSUM), folder, "data_aishell", nested="wav/*.tar.gz")


def utterances(folder: Path) -> Iterator[Utterance]:
    """The utterances of `wav/{train,dev,test}/SPEAKER/ID.wav`; the texts of all of them are in one file."""
    texts = {}
    for line in lines_of(folder / TRANSCRIPTS):
        name, _, text = line.strip().partition(" ")
        if name:
            texts[name] = text
    for split in SPLITS:
        audio = {path.stem: path for path in (folder / "wav" / split).glob("*/*.wav")}
        if not audio:
            raise UserError(f"{folder / 'wav' / split} holds no audio (SPEAKER/ID.wav)")
        mine = {name: texts.pop(name) for name in audio.keys() & texts.keys()}
        yield from paired(mine, audio, speaker_of, split)
    yield from paired(texts, {}, speaker_of)  # these have no audio


def speaker_of(name: str) -> str:
    """BAC009S0002W0122 -> S0002."""
    return name[6:11]


def characters(text: str, alphabet: frozenset[str] | None) -> str:
    """Without the spaces between words, which nobody speaks; full-width letters as plain ones."""
    return normalize(unicodedata.normalize("NFKC", text), alphabet).replace(" ", "")


def main(
    dl_dir: DlDir = None,
    mirror: Annotated[str, typer.Option(help="Where the page 33 of OpenSLR is.")] = OPENSLR,
    out: Out = Path(__file__).parents[1] / "data",
    incomplete: Incomplete = False,
    max_bad: MaxBad = MAX_BAD,
    jobs: Jobs = 2,
) -> None:
    """Prepare AISHELL-1: 170 hours of Mandarin, read by 400 speakers, with the publisher's splits.

    Downloads what is not in DL_DIR (15 GB), checks it against the publisher's checksum and unpacks it; a second call
    goes on where one stopped. Writes lhotse manifests and cuts per split to OUT/manifests, which point at the WAV files
    in DL_DIR, and an account of what was left out and why to OUT/report.txt and OUT/dropped.tsv.

    Example: python egs/aishell/local/prepare.py --dl-dir corpora --jobs 4
    """
    with one_line_errors():
        found = list(utterances(folder_of(dl_dir or out / "download", mirror)))
        lines = check_counts(((one.split, one) for one in found), UTTERANCES, incomplete)
        options = {"limits": LIMITS, "normalizer": characters, "max_bad": max_bad, "incomplete": lines, "jobs": jobs}
        prepare(found, out, "zh", **options)


if __name__ == "__main__":
    run_script(main)
