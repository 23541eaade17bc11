"""Names of files are only ever names: run.sh hands on every path as it was given, whatever stands in it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from console import REPOSITORY

STAND_IN = """#!/bin/sh
# Notes its arguments, and plans as ctcsd would.
printf '%s\\0' "$@" END >> "$NOTES"
[ "$3" != plan ] || printf 'lang_char\\nctc ctc\\n'
"""
HOSTILE = ["a b'c", 'say "hi"', "$(touch pwned)", "`touch pwned`", "x; touch pwned", "new\nline", "-n", "*", "ü\\t&|<>"]


@pytest.mark.parametrize("name", HOSTILE)
def test_paths_arrive_as_they_were_given(name: str, tmp_path: Path) -> None:
    """The checkout, the recipe, the folder of the runs, of the data and of a package, all of that name."""
    checkout = tmp_path / name / "checkout"
    recipe = checkout / "egs" / name
    shutil.copytree(REPOSITORY / "egs" / "fotaq" / "conf", recipe / "conf")
    shutil.copy(REPOSITORY / "run.sh", checkout)
    shutil.copy(REPOSITORY / "egs" / "fotaq" / "run.sh", recipe)
    programs, work = tmp_path / "bin", tmp_path / "work"
    programs.mkdir()
    work.mkdir()
    (programs / "python3").write_text(STAND_IN)
    (programs / "python3").chmod(0o755)
    (work / name).write_text("a package")
    (work / "decoy").write_text("what * might stand for")
    quoted = "'" + name.replace("'", "'\"'\"'") + "'" if "\n" not in name else "x"
    command = [recipe / "run.sh", "--no-setup", "--methods", "ctc", "--exp", f"{name}/exp", "--data", f"{name}.data"]
    shutil.move(work / name, work / f"{name}.deb")
    command += ["--prepare", f"--deb {quoted}.deb", "--config", f"{name}.yaml"]
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")}
    done = subprocess.run(
        [str(word) for word in command], cwd=work, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    said = [call.split("\0")[:-1] for call in (tmp_path / "notes").read_text().split("END\0")[:-1]]
    words = [word for call in said for word in call]
    assert words.count(f"{work}/{name}.data") >= 6 and words.count(f"{work}/{name}.yaml") >= 6
    assert f"{work}/{name}/exp/ctc/seed1" in words and f"{work}/{name}/exp" in words
    assert f"egs/{name}/conf/corpus.yaml" in words
    if "\n" not in name:
        assert words[words.index("--deb") + 1] == f"{work}/{name}.deb"
    assert "decoy" not in "".join(words)
    assert not list(tmp_path.rglob("pwned")), "a name was run as a command"
    assert (work / name / "exp" / "log" / "score-ctc-seed1.log").is_file()


def test_a_folder_that_looks_like_an_option_stays_a_folder(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "egs" / "fotaq" / "conf", tmp_path / "egs" / "fotaq" / "conf")
    shutil.copy(REPOSITORY / "run.sh", tmp_path)
    (tmp_path / "python3").write_text(STAND_IN)
    (tmp_path / "python3").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(tmp_path / "notes")}
    command = ["./run.sh", "--no-setup", "--methods", "ctc", "--exp", "-rf", "--data", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    words = (tmp_path / "notes").read_text().split("\0")
    assert "./-rf" in words and "./--help" in words and "-rf" not in words and "--help" not in words


def test_quotes_that_do_not_match(tmp_path: Path) -> None:
    done = subprocess.run(
        [REPOSITORY / "run.sh", "--no-setup", "--exp", tmp_path / "exp", "--prepare", "it's"],
        env={**os.environ, "PATH": f"{REPOSITORY / '.venv/bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "do not match" in done.stderr
