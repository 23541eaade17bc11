"""Stage 0 of the recipe custom: any audio with a table of its transcripts, as FLAC files and lhotse manifests."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from tables import Row, read, unlisted

from ctcsd.console import run_script
from ctcsd.data.prepare import MAX_BAD, Utterance, prepare
from ctcsd.data.recipe import Jobs, MaxBad, Out
from ctcsd.data.splits import SPLITS, split_of
from ctcsd.errors import UserError, one_line_errors


class SplitBy(str, Enum):
    """What decides on the split of an utterance that has none."""

    text = "text"
    speaker = "speaker"


class Stereo(str, Enum):
    """What becomes of several channels."""

    mix = "mix"
    left = "left"
    right = "right"
    drop = "drop"


def utterances(rows: Iterator[Row], split_by: SplitBy, stereo: Stereo) -> Iterator[Utterance]:
    """The rows, for the corpus writer; by text, it chooses the splits itself."""
    for row in rows:
        split = split_of(row.speaker) if split_by is SplitBy.speaker and not row.split else None
        yield row.utterance(split, stereo.value)


def tables_of(transcripts: Path | None, splits: dict[str, Path | None], audio: Path | None) -> Iterator[Row]:
    """The rows of one table, or of one per split."""
    if transcripts and not any(splits.values()):
        yield from read(transcripts, audio)
        return
    if transcripts or not all(splits.values()):
        raise UserError(
            "give --transcripts, or all of --train, --dev and --test (run.sh: --prepare '--transcripts FILE')"
        )
    for split, path in splits.items():
        for row in read(path, audio) if path else ():
            yield Row(**{**vars(row), "split": split})


def main(
    transcripts: Annotated[
        Path | None, typer.Option(help="TSV or JSON lines, a Kaldi data folder, or lhotse manifests (see README.md).")
    ] = None,
    train: Annotated[Path | None, typer.Option(help="The same, of the training set alone.")] = None,
    dev: Annotated[Path | None, typer.Option(help="The same, of the development set.")] = None,
    test: Annotated[Path | None, typer.Option(help="The same, of the test set.")] = None,
    audio: Annotated[
        Path | None, typer.Option(help="Folder that relative names are below; its other audio is listed as left out.")
    ] = None,
    language: Annotated[str, typer.Option(help="Language code; it decides which letters a text may hold.")] = "en",
    split_by: Annotated[
        SplitBy, typer.Option(help="Splits, where the table has none: by hash of this.")
    ] = SplitBy.text,
    stereo: Annotated[
        Stereo, typer.Option(help="Several channels: their mean, one of them, or left out.")
    ] = Stereo.mix,
    out: Out = Path(__file__).parents[1] / "data",
    max_bad: MaxBad = MAX_BAD,
    jobs: Jobs = 2,
) -> None:
    """Prepare any audio that has transcripts, at any rate and in any format that libsndfile reads.

    Writes 16 kHz FLAC to OUT/audio, lhotse manifests and cuts per split to OUT/manifests, and an account of what was
    left out and why to OUT/report.txt and OUT/dropped.tsv.

    Example: python egs/custom/local/prepare.py --transcripts my/transcripts.tsv --audio my/wav --jobs 4
    """
    with one_line_errors():
        rows = list(tables_of(transcripts, dict(zip(SPLITS, (train, dev, test), strict=True)), audio))
        if audio:
            rows += unlisted(audio, rows, out, expected=transcripts is None)  # splits may leave out what they like
        prepare(utterances(iter(rows), split_by, stereo), out, language, max_bad=max_bad, jobs=jobs)


if __name__ == "__main__":
    run_script(main)
