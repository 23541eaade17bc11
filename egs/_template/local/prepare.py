"""Stage 0 of your recipe: fill in `utterances`; the checks, the resampling, the splits and the manifests are shared.

As it stands it reads a folder of audio files and a table of transcripts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ctcsd.console import run_script
from ctcsd.data.prepare import MAX_BAD, Utterance, load_file, prepare
from ctcsd.data.recipe import Jobs, MaxBad
from ctcsd.errors import UserError, one_line_errors

RECIPE = Path(__file__).resolve().parents[1]


def utterances(audio: Path, transcripts: Path) -> Iterator[Utterance]:
    """One Utterance per recording of your corpus: the text as shipped, the audio as a picklable loader.

    Here: lines of `file<TAB>text` or `file<TAB>text<TAB>speaker`, files below `audio`; empty lines and `#` lines are
    skipped. Raises UserError for a line that is neither.
    """
    for number, line in enumerate(transcripts.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        cells = line.split("\t")
        if len(cells) not in (2, 3):
            raise UserError(f"{transcripts}, line {number}: {len(cells)} columns instead of file, text[, speaker]")
        file, text, speaker = (*cells, "unknown")[:3]
        yield Utterance(str(Path(file).with_suffix("")), text, speaker, partial(load_file, audio / file))


def main(
    audio: Annotated[Path, typer.Option(help="Folder of audio files (WAV, FLAC, Ogg, MP3).")] = RECIPE / "corpus",
    transcripts: Annotated[
        Path | None, typer.Option(help="Table of file, text and (optional) speaker.  [default: AUDIO/transcripts.tsv]")
    ] = None,
    language: Annotated[str, typer.Option(help="Language code; it decides which letters a text may hold.")] = "en",
    out: Annotated[Path, typer.Option(help="Folder for audio, manifests and the report.")] = RECIPE / "data",
    max_bad: MaxBad = MAX_BAD,
    jobs: Jobs = 2,
) -> None:
    """Prepare a folder of audio files and a table of transcripts for training.

    Writes 16 kHz FLAC to OUT/audio, lhotse manifests and cuts per split to OUT/manifests, and an account of what was
    dropped and why to OUT/report.txt and OUT/dropped.tsv. Recordings should be single sentences of at most 30 s; the
    training takes those that conf/corpus.yaml allows.

    Example: python local/prepare.py --audio my_corpus --transcripts my_corpus/transcripts.tsv --jobs 4
    """
    with one_line_errors():
        table = transcripts or audio / "transcripts.tsv"
        if not table.is_file():
            raise UserError(f"no table at {table}: name the folder with --audio (run.sh: --prepare '--audio DIR')")
        try:
            prepare(utterances(audio, table), out, language, max_bad=max_bad, jobs=jobs)
        except UnicodeDecodeError as error:
            raise UserError(f"{table} is not UTF-8 (byte {error.start})") from error


if __name__ == "__main__":
    run_script(main)
