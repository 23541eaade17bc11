"""What the recipes' local/prepare.py share: options, and transcripts matched with audio by id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Optional

import typer

from ctcsd.data.audio import load_file
from ctcsd.data.checks import Drop
from ctcsd.data.prepare import Utterance
from ctcsd.errors import UserError

Out = Annotated[Path, typer.Option(help="Folder for audio, manifests and the report.")]
Jobs = Annotated[int, typer.Option(min=1, help="Processes that decode and resample.")]
MaxBad = Annotated[float, typer.Option(min=0, max=1, help="More than this share of utterances left out is an error.")]
DlDir = Annotated[
    Optional[Path],  # noqa: UP045 (read at run time)
    typer.Option(help="Folder of archives or unpacked data; what is not there is downloaded.  [default: OUT/download]"),
]

Incomplete = Annotated[bool, typer.Option("--incomplete", help="Go on where a dev or test set is not whole.")]


def check_counts(found: Iterable[tuple[str | None, Utterance]], official: Mapping[str, int], go_on: bool) -> list[str]:
    """A line, printed too, for each part of a corpus in which fewer utterances are whole than its publisher says.

    Args:
        found: (part, utterance); official: part -> number of utterances that have both text and audio.

    Raises:
        UserError: such a part is no training set, and not `go_on`.
    """
    counts: Counter[str] = Counter()
    for part, utterance in found:
        if part:
            counts[part] += not utterance.drop
    short = [part for part, count in counts.items() if count < official.get(part, 0)]
    lines = [f"{part} has {counts[part]:,} of {official[part]:,} utterances" for part in short]
    if not go_on and any(not part.startswith("train") for part in short):
        raise UserError(f"{'; '.join(lines)}: unpack it again, or go on without the others by --incomplete")
    for line in lines:
        print(f"incomplete: {line}", flush=True)
    return lines


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
