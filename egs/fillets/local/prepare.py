"""Stage 0 of the recipe fillets: Czech or Dutch game dialogue out of Debian packages, as FLAC and lhotse manifests."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ctcsd.console import run_script
from ctcsd.data.checks import Drop
from ctcsd.data.debian import fetch_package, unpack
from ctcsd.data.prepare import MAX_BAD, Utterance, load_file, prepare
from ctcsd.data.recipe import Jobs, MaxBad, Out
from ctcsd.errors import UserError, one_line_errors

VERSION = "1.0.1-1.1"
TEXTS = "fillets-ng-data"
CHECKSUMS = {
    TEXTS: "25de89afd8b1adf7bcace8290248a6a22c89cd42300317e69000e162c032cf84",
    "fillets-ng-data-cs": "3ecef99b9456f1c80c9625c6f2418642b52d58e7167a46bad7a412db17991b14",
    "fillets-ng-data-nl": "afb4443fda9ab507dee578b75be857d121718a1cd6017a474f30e0eb13dc9d10",
}
GAME = "usr/share/games/fillets-ng"
ID = re.compile(r'^\s*dialogId\("([^"]+)",\s*"(?:font_)?([^"]*)"')
TEXT = re.compile(r'^\s*dialogStr\("((?:[^"\\]|\\.)*)"\)')


class Language(str, Enum):
    """The languages that the game speaks."""

    cs = "cs"
    nl = "nl"


Dialogs = dict[tuple[str, str], tuple[str, str]]


def dialogs(scripts: Path, language: str) -> Dialogs:
    """(level, id) -> (text, who says it) of the Lua files `LEVEL/dialogs_LANGUAGE.lua` below `scripts`.

    A line `dialogId("ID", "font_WHO", ...)` is followed by `dialogStr("TEXT")`; each speaker has letters of its own.
    """
    found: Dialogs = {}
    for path in sorted(scripts.rglob(f"*dialogs_{language}.lua")):
        opened = None
        for line in path.read_text(encoding="utf-8").splitlines():
            if match := ID.match(line):
                opened = match.groups()
            elif opened and (match := TEXT.match(line)):
                name, who = opened
                found.setdefault((path.parent.name, name), (re.sub(r"\\(.)", r"\1", match[1]), who or "other"))
                opened = None
    return found


def utterances(packages: Path, language: str) -> Iterator[Utterance]:
    """Every clip `sound/LEVEL/LANGUAGE/ID.ogg`; its text is in its own level or, where levels share it, another.

    Those without one are noises and songs, to be listed.
    """
    by_level = dialogs(packages / GAME / "script", language)
    by_id: dict[str, tuple[str, str]] = {}
    for (_, name), line in by_level.items():
        by_id.setdefault(name, line)
    for path in sorted((packages / GAME / "sound").glob(f"*/{language}/*.ogg")):
        level = path.parts[-3]
        text, who = by_level.get((level, path.stem)) or by_id.get(path.stem) or ("", "other")
        detail = f"audio only: {path.relative_to(packages)}"
        drop = None if text.strip() else Drop("missing transcript", detail, expected=True)
        yield Utterance(f"{level}_{path.stem}", text, who, partial(load_file, path), drop=drop)


def given(deb: list[Path], package: str) -> Path | None:
    """The file among `--deb` that is named as the package is."""
    return next((path for path in deb if path.name.partition("_")[0] == package), None)


def main(
    lang: Annotated[Language, typer.Option(help="Czech or Dutch.")] = Language.cs,
    out: Out = Path(__file__).parents[1] / "data",
    deb: Annotated[
        list[Path],
        typer.Option(help=f"A package as a file, PACKAGE_{VERSION}_all.deb, where apt cannot fetch it. Repeatable."),
    ] = [],  # noqa: B006 (typer copies it)
    max_bad: MaxBad = MAX_BAD,
    jobs: Jobs = 2,
) -> None:
    """Prepare fillets: an hour and a half of Czech or Dutch dialogue from the game Fish Fillets NG.

    Fetches two Debian packages (71 MB of texts, 33 or 39 MB of speech) with apt, without root, and keeps them in
    OUT/download; writes 16 kHz FLAC to OUT/audio, lhotse manifests and cuts per split to OUT/manifests, and an account
    of what was dropped and why to OUT/report.txt and OUT/dropped.tsv. Other folders in OUT are left alone.

    Example: python egs/fillets/local/prepare.py --lang nl --out egs/fillets/data/nl --jobs 4
    """
    with one_line_errors(), tempfile.TemporaryDirectory(prefix="ctcsd-fillets-") as folder:
        packages = [TEXTS, f"{TEXTS}-{lang.value}"]
        if strange := [path for path in deb if not any(given([path], package) for package in packages)]:
            raise UserError(f"--deb {strange[0]}: its name begins with neither {packages[0]}_ nor {packages[1]}_")
        for package in packages:
            found = fetch_package(package, {VERSION: CHECKSUMS[package]}, out / "download", given(deb, package))
            unpack(found, Path(folder))
        prepare(utterances(Path(folder), lang.value), out, lang.value, max_bad=max_bad, jobs=jobs)


if __name__ == "__main__":
    run_script(main)
