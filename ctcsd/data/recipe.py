"""What the recipes' local/prepare.py share: options, and transcripts matched with audio by id."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from ctcsd.data.audio import load_file
from ctcsd.data.checks import Drop
from ctcsd.data.prepare import Utterance

Out = Annotated[Path, typer.Option(help="Folder for audio, manifests and the report.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes that decode and resample.")]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="More than this share of utterances left out is an error.")]
DlDir = Annotated[
    Optional[Path],  # noqa: UP045 (read at run time)
    typer.Option(help="Folder of archives or unpacked data; what is not there is downloaded.  [default: OUT/download]"),
]


def paired(
    texts: Mapping[str, str], audio: Mapping[str, Path], speaker_of: Callable[[str], str], split: str | None = None
) -> Iterator[Utterance]:
    """An utterance per transcript, in the order of their ids, and then, to be listed, the audio that has none.

    Args:
        texts: id -> transcript; audio: id -> file; a file that is fit as it lies is not copied.
    """
    for name in sorted(texts):
        path = audio.get(name)
        drop = None if path else Drop("missing audio", f"a transcript only: {texts[name]}")
        yield Utterance(name, texts[name], speaker_of(name), partial(load_file, path or name), split, path, drop)
    for name in sorted(audio.keys() - texts.keys()):
        drop = Drop("missing transcript", f"audio only: {audio[name]}")
        yield Utterance(name, "", speaker_of(name), partial(load_file, audio[name]), split, drop=drop)
