"""Recipes as modules, and corpora of their layouts made of real speech."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import soundfile
from console import REPOSITORY
from speech import Clip


def recipe_module(name: str) -> ModuleType:
    """The module egs/NAME/local/prepare.py, under a name of its own."""
    path = REPOSITORY / "egs" / name / "local/prepare.py"
    spec = importlib.util.spec_from_file_location(f"{name}_prepare", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # as a script finds its neighbours
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


def librispeech_part(folder: Path, speaker: int, clips: list[Clip], per_chapter: int = 5) -> None:
    """`SPEAKER/CHAPTER/SPEAKER-CHAPTER-0000.flac` and so on, with `SPEAKER-CHAPTER.trans.txt` beside them."""
    for start in range(0, len(clips), per_chapter):
        chapter = folder / str(speaker) / str(121000 + start)
        chapter.mkdir(parents=True)
        name, lines = f"{speaker}-{chapter.name}", []
        for number, (text, samples) in enumerate(clips[start : start + per_chapter]):
            soundfile.write(chapter / f"{name}-{number:04}.flac", samples, 16000)
            lines.append(f"{name}-{number:04} {text.upper()}\n")
        (chapter / f"{name}.trans.txt").write_text("".join(lines), encoding="utf-8")


def run_recipe(name: str, folder: Path, prepare: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """run.sh on a recipe, with characters, a tiny model and one epoch; writes `folder`/data and `folder`/exp."""
    command = [REPOSITORY / "run.sh", "--recipe", f"egs/{name}", "--no-setup", "--methods", "ctc", "--nj", "1"]
    command += ["--data", folder / "data", "--exp", folder / "exp", "--prepare", prepare, *arguments, "lang.unit=char"]
    command += ["model.layers=2", "model.dim=32", "model.heads=2", "student_layers=1", "train.epochs=1"]
    command += ["decode.methods=[greedy]", "features.speeds=[]", "data.workers=0"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def results(folder: Path) -> list[dict]:
    """The rows of that run's results."""
    return [json.loads(line) for line in (folder / "exp/ctc/seed1/results.jsonl").read_text().splitlines()]


def pack(folder: Path, archive: Path) -> str:
    """Put a folder into an archive, under its own name; returns the archive's MD5."""
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, folder.name)
    return hashlib.md5(archive.read_bytes()).hexdigest()


def drops(out: Path, name: str = "dropped.tsv") -> dict[str, str]:
    """Utterance -> reason of the list that stage 0 leaves."""
    return dict(line.split("\t")[:2] for line in (out / name).read_text(encoding="utf-8").splitlines()[1:])
