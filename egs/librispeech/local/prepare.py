"""Stage 0 of the recipe librispeech: read English books, 10 minutes to 960 hours, as lhotse manifests over its FLACs.

lhotse's recipe for LibriSpeech ends at the first damaged file, and leaves out in silence what has no partner; so only
the names of the parts are taken from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from lhotse.recipes.librispeech import MINI_LIBRISPEECH

from ctcsd.console import run_script
from ctcsd.data.checks import Limits
from ctcsd.data.download import fetch, unpack
from ctcsd.data.prepare import MAX_BAD, Utterance, prepare
from ctcsd.data.recipe import DlDir, Incomplete, Jobs, MaxBad, Out, check_counts, paired
from ctcsd.errors import UserError, one_line_errors
from ctcsd.files import lines_of

OPENSLR = "https://www.openslr.org/resources"
LIMITED_URL = "https://dl.fbaipublicfiles.com/librilight/data/librispeech_finetuning.tgz"
LIMITED = "librispeech_finetuning"
CHECKSUMS = {  # of the pages' md5sum.txt
    "dev-clean": "42e2234ba48799c1f50f24a7926300a1",
    "dev-other": "c8d0bcc9cca99d4f8b62fcc847357931",
    "test-clean": "32fa31d27d2e1cad72775fee3f4849a9",
    "test-other": "fb5a50374b501bb3bac4815ee91d3135",
    "train-clean-100": "2a93770f6d5c6c964bc36631d331a522",
    "train-clean-360": "c0e676e450a7ff2f54aeade5171606fa",
    "train-other-500": "d1a0fd59409feb2c614ce4d30c387708",
    "dev-clean-2": "6d7ab67ac6a1d2c993d050e16d61080d",
    "train-clean-5": "5df7d4e78065366204ca6845bb08f490",
    LIMITED: "5d1efdc777b548194d7e09ba89126e2188026df9fd57aa57eb14408d2b2342af",
    "3-gram.arpa.gz": "74cbb837e582378c26c602e1c8cbcb9c",
    "3-gram.pruned.1e-7.arpa.gz": "9a0f1325bcaf3a0f7b7be4be10823c2a",
    "3-gram.pruned.3e-7.arpa.gz": "8f67ec741827742eee05799ab7605b50",
    "4-gram.arpa.gz": "6abdcd5b055bd482e4f9defe91d40408",
    "librispeech-lexicon.txt": "28f72663f6bfed7cd346283c064c315b",
    "musan": "0c472d4fc0c5141eca47ad1ffeb2a7df",
}
UTTERANCES = {
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
}
HELD_OUT = {"dev-clean": "dev", "dev-other": "dev_other", "test-clean": "test", "test-other": "test_other"}
TRAIN = {
    "mini": ["train-clean-5"],
    "100": ["train-clean-100"],
    "360": ["train-clean-360"],
    "460": ["train-clean-100", "train-clean-360"],
    "960": ["train-clean-100", "train-clean-360", "train-other-500"],
    # Libri-Light's limited supervision: folders of one archive; each fold of ten minutes is in the hour
    "10min": ["1h/0"],
    "1h": ["1h"],
    "10h": ["1h", "9h"],
}
# Of the held-out sets nothing may be left out for its length: test-other has an utterance of 35 seconds.
LIMITS = Limits(min_seconds=0.1, max_seconds=40.0)

Size = Enum("Size", {name: name for name in TRAIN})  # type: ignore[misc]
Lm = Enum("Lm", {name[: -len(".arpa.gz")]: name[: -len(".arpa.gz")] for name in CHECKSUMS if ".arpa" in name})  # type: ignore[misc]


def parts_of(size: str) -> Iterator[tuple[str, str]]:
    """(part, split) of everything that a size consists of."""
    for part in TRAIN[size]:
        yield part, "train"
    if size == "mini":
        yield "dev-clean-2", "dev"
        yield "test-clean", "test"
    else:
        yield from HELD_OUT.items()


def folder_of(part: str, folder: Path, openslr: str = OPENSLR, limited: str = LIMITED_URL) -> Path:
    """The folder of a part, below `folder`, where it is downloaded and unpacked if it is not there."""
    if part[0].isdigit():
        found = folder / LIMITED
        if not found.is_dir():
            unpack(fetch(limited, folder, CHECKSUMS[LIMITED]), folder, LIMITED)
        return found / part
    found = folder / "LibriSpeech" / part
    if not found.is_dir():
        page = 31 if part in MINI_LIBRISPEECH else 12
        unpack(fetch(f"{openslr}/{page}/{part}.tar.gz", folder, CHECKSUMS[part]), folder, f"LibriSpeech/{part}")
    return found


def musan_of(folder: Path, openslr: str = OPENSLR) -> Path:
    """The folder of MUSAN's music, speech and noise, below `folder`; downloaded and unpacked if it is not there."""
    if (found := folder / "musan").is_dir():
        return found
    return unpack(fetch(f"{openslr}/17/musan.tar.gz", folder, CHECKSUMS["musan"]), folder, "musan")


def link(file: Path, folder: Path) -> None:
    """Put a link to a file into `folder`, unless it lies there itself."""
    target = folder / file.name
    if not (target.exists() and target.samefile(file)):
        folder.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.symlink_to(file.absolute())


def utterances(folder: Path, split: str) -> Iterator[Utterance]:
    """The utterances below a folder `.../SPEAKER/CHAPTER/` of FLAC files and one `SPEAKER-CHAPTER.trans.txt`."""
    texts = {}
    for path in folder.rglob("*.trans.txt"):
        for line in lines_of(path):
            name, _, text = line.strip().partition(" ")
            if name:
                texts[name] = text
    if not texts:
        raise UserError(f"{folder} holds no transcripts (*.trans.txt): is it LibriSpeech?")
    audio = {path.stem: path for path in folder.rglob("*.flac")}
    return paired(texts, audio, lambda name: name.partition("-")[0], split)


def lower(text: str, _: frozenset[str] | None) -> str:
    """Its texts are normalised, and the apostrophes in them are part of the words that everyone scores."""
    return " ".join(text.lower().split())


def main(
    size: Annotated[Size, typer.Option(help="Hours of training data.")] = Size["100"],
    dl_dir: DlDir = None,
    lm: Annotated[Lm | None, typer.Option(help="Fetch this official language model and the lexicon, too.")] = None,
    musan: Annotated[bool, typer.Option("--musan", help="Fetch MUSAN, too: noise for test sets (11 GB).")] = False,
    mirror: Annotated[str, typer.Option(help="Where the pages 11, 12, 17 and 31 of OpenSLR are.")] = OPENSLR,
    out: Out = Path(__file__).parents[1] / "data",
    incomplete: Incomplete = False,
    max_bad: MaxBad = MAX_BAD,
    jobs: Jobs = 2,
) -> None:
    """Prepare LibriSpeech: a training set of 10 minutes to 960 hours, and the dev and test sets.

    Downloads what is not in DL_DIR, checks it against the publisher's checksums and unpacks it; a second call goes on
    where one stopped. Writes lhotse manifests and cuts per split to OUT/manifests, which point at the FLAC files in
    DL_DIR, and an account of what was left out and why to OUT/report.txt and OUT/dropped.tsv. Language model and
    lexicon are in DL_DIR/lm, with links to them in OUT/lm; noise is in DL_DIR/musan.

    Example: python egs/librispeech/local/prepare.py --size mini --dl-dir corpora --jobs 4
    """
    with one_line_errors():
        folder = dl_dir or out / "download"
        parts = [(part, folder_of(part, folder, mirror), split) for part, split in parts_of(size.value)]
        found = [(part, one) for part, place, split in parts for one in utterances(place, split)]
        lines = check_counts(found, UTTERANCES, incomplete)
        for name in (f"{lm.value}.arpa.gz", "librispeech-lexicon.txt") if lm else ():
            link(fetch(f"{mirror}/11/{name}", folder / "lm", CHECKSUMS[name]), out / "lm")
            print(out / "lm" / name, flush=True)
        if musan:
            print(musan_of(folder, mirror), flush=True)
        options = {"limits": LIMITS, "normalizer": lower, "max_bad": max_bad, "incomplete": lines, "jobs": jobs}
        prepare((one for _, one in found), out, "en", **options)


if __name__ == "__main__":
    run_script(main)
