"""A new recipe from the template works as it stands; normalisation, which it leans on, also under Python 3.9."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ctcsd.text.normalize import alphabet_of, normalize, outside, spoken_symbols

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path):
    """The template and the tool in a folder of their own."""
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/new_recipe.sh", tmp_path / "tools")
    shutil.copytree(ROOT / "egs/_template", tmp_path / "egs/_template")
    (tmp_path / "egs/_template/data").mkdir(exist_ok=True)
    return tmp_path


def new_recipe(checkout, *arguments):
    return subprocess.run(["bash", str(checkout / "tools/new_recipe.sh"), *arguments], capture_output=True, text=True)


def prepare(recipe, *arguments):
    command = [sys.executable, str(recipe / "local/prepare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_new_recipe_prepares_a_folder_of_audio(checkout):
    done = new_recipe(checkout, "mine")
    recipe = checkout / "egs/mine"
    assert done.returncode == 0 and "./run.sh --recipe egs/mine" in done.stdout and not (recipe / "data").exists()
    rows = ["# file\ttext\tspeaker", ""]
    (recipe / "corpus/b").mkdir(parents=True)
    for number in range(60):
        noise = np.random.default_rng(number).normal(0, 0.1, 22050).astype(np.float32)
        soundfile.write(recipe / f"corpus/b/{number}.wav", noise, 22050)
        rows.append(f"b/{number}.wav\tSentence {'abcdefghij'[number % 10]} {'klmnop'[number // 10]}.\tanna")
    (recipe / "corpus/transcripts.tsv").write_text("\n".join([*rows, "b/none.wav\tMissing file"]))
    done = prepare(recipe)
    assert done.returncode == 0, done.stderr
    report = json.loads((recipe / "data/report.json").read_text())
    assert report["kept"] == 60 and report["dropped_by_reason"] == {"missing audio": 1}

    (recipe / "corpus/transcripts.tsv").write_text("b/1.wav no tab\n")
    assert "transcripts.tsv, line 1: 1 columns" in one_line(prepare(recipe))
    (recipe / "corpus/transcripts.tsv").write_bytes(b"b/1.wav\t\xff\n")
    assert "transcripts.tsv is not UTF-8 (byte 8)" in one_line(prepare(recipe))
    (recipe / "corpus/transcripts.tsv").unlink()
    assert "transcripts.tsv: name the folder with --audio" in one_line(prepare(recipe))


def one_line(done):
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
    return done.stderr


@pytest.mark.parametrize("name", ["../x", "", "A", "a b", "_x", "-x", "1a", "x/y", "é"])
def test_bad_names_are_refused(checkout, name):
    done = new_recipe(checkout, name)
    assert done.returncode == 2 and "cannot name a recipe" in done.stderr and done.stderr.count("\n") == 1
    assert [path.name for path in (checkout / "egs").iterdir()] == ["_template"]


def test_existing_target_and_wrong_usage(checkout):
    (checkout / "egs/here").symlink_to("nowhere")
    assert (new_recipe(checkout, "here").returncode, new_recipe(checkout, "here").stderr) == (
        1,
        "error: egs/here exists already\n",
    )
    assert new_recipe(checkout).returncode == 2 and new_recipe(checkout, "--help").returncode == 0


NORMALIZED = [
    ("en", "  \u201cDon\u2019t\u201d -- STOP!!  ", "don't stop"),
    ("en", "'Tis the dogs' rock 'n' roll", "tis the dogs rock n roll"),
    ("en", "co-owns re\u00adport", "co owns report"),
    ("en", "...", ""),
    ("cs", unicodedata.normalize("NFD", "Příliš ŽLUŤOUČKÝ"), "příliš žluťoučký"),
    ("cs", "d'Artagnan", "d artagnan"),
    ("ru", "Ёж, и ТЫ?", "ёж и ты"),
    ("xx", "हिन्दी", "हिन्दी"),
]


@pytest.mark.parametrize(("language", "raw", "expected"), NORMALIZED)
def test_normalize(language, raw, expected):
    once = normalize(raw, alphabet_of(language))
    assert once == expected and normalize(once, alphabet_of(language)) == once


def test_alphabets():
    assert outside("naïve été", alphabet_of("en-GB")) == "éï" and outside("naïve", alphabet_of("xx")) == ""
    assert spoken_symbols("50 % of £3 & co.") == "%&035£" and spoken_symbols("Fine, thanks!") == ""


def test_normalize_runs_on_python_3_9():
    """The k2 interpreter normalises too. Its absence is a failure: the test machines have one."""
    kept = [ROOT / ".venv-k2/bin/python", *sorted((Path.home() / ".pyenv/versions").glob("3.9*/bin/python"))]
    python = next((str(path) for path in kept if path.exists()), shutil.which("python3.9"))
    assert python, "no Python 3.9 (.venv-k2, pyenv or python3.9)"
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['normalize'](\"Don\\u2019t!\"), sys.version_info[:2])"
    path = ROOT / "ctcsd/text/normalize.py"
    done = subprocess.run([python, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout == "don't (3, 9)\n", done.stderr
