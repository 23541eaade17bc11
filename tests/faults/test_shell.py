"""Names of files are only ever names: run.sh hands on every path as it was given, whatever stands in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from console import REPOSITORY, ctcsd
from kinds import make_world

from ctcsd.config import load_config, save_config, search_config
from ctcsd.posteriors import PosteriorReader
from ctcsd.run_dir import RunDir

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
    command += ["--prepare", f"--deb {quoted}.deb --dl-dir {quoted}.new --size x", "--config", f"{name}.yaml"]
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
        assert words[words.index("--dl-dir") + 1] == f"{work}/{name}.new", "a folder that is yet to be made"
        assert words[words.index("--size") + 1] == "x" and words.count("--depends") == 2
    assert "decoy" not in "".join(words)
    assert not list(tmp_path.rglob("pwned")), "a name was run as a command"
    assert (work / name / "exp" / "log" / "score-ctc-seed1.log").is_file()


MORE = ["a #b.npy", "key: value", "a: #b", "${x}", "\\${x}", "a\\\\${x}\\", "{a", "&x", "!!x", "'q'", "1e3", "~", " "]


@pytest.mark.parametrize("name", HOSTILE + MORE)
def test_overrides_take_paths_as_they_were_given(name: str, tmp_path: Path) -> None:
    keys = ["decode.prior", "data.shar", "distill.checkpoint", "init_from", "lang.lexicon"]
    cfg = load_config([], [f"{key}={name}" for key in (*keys, "decode.per_method.beam.prior")])
    save_config(cfg, tmp_path / "config.yaml")
    for found in (cfg, load_config([tmp_path / "config.yaml"])):
        assert [found.decode.prior, found.data.shar, found.distill.checkpoint, found.init_from] == [name] * 4
        assert found.lang.lexicon == found.decode.per_method["beam"]["prior"] == name
        assert [search_config(found.decode, method).prior for method in ("beam", "wfst")] == [name] * 2
    variant = search_config(load_config([], ["decode.prior=x"]).decode, f"greedy+prior={name}+prior_scale=0.5")
    assert (variant.prior, variant.prior_scale) == (name, 0.5)


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


def test_a_run_goes_on_past_utterances_that_cannot_be_decoded(tmp_path: Path) -> None:
    """Of one seed an archive is damaged: both are decoded and scored, then a line and the exit code say it."""
    world, recipe, exp = make_world(tmp_path / "world"), tmp_path / "recipe", tmp_path / "world" / "exp"
    data, lang = world / "data", world / "data" / "lang_char"
    shutil.move(world / "lang", lang)
    (recipe / "conf").mkdir(parents=True)
    (recipe / "conf" / "corpus.yaml").write_text("corpus: x\n")
    runs = [RunDir(exp / "ctc" / f"seed{seed}") for seed in (1, 2)]
    shutil.rmtree(runs[0].path / "decode")
    assert ctcsd("posteriors", "--run", runs[0].path, "--data", data, "--lang", lang).returncode == 0
    shutil.copytree(runs[0].path, runs[1].path)
    record = json.loads((runs[1].path / "train.json").read_text())
    (runs[1].path / "train.json").write_text(json.dumps({**record, "seed": 2}))
    archive = runs[0].archive("dev", "student")
    (archive / "arrays" / PosteriorReader(archive).index["u3"]["array"]["storage_key"]).write_bytes(b"")
    command = ["--no-setup", "--recipe", recipe, "--exp", exp, "--data", data, "--methods", "ctc", "--seeds", "1 2"]
    done = subprocess.run(
        [str(word) for word in [REPOSITORY / "run.sh", *command, "--stage", "4", "decode.methods=[greedy,wfst]"]],
        env={**os.environ, "PATH": f"{REPOSITORY / '.venv/bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    log = exp / "log" / "search-ctc-seed1.log"
    assert done.stderr == f"run.sh: all done, but some utterances could not be decoded; which: see {log}\n"
    failed = [run.decoded(method) / "failed-dev-student.txt" for run in runs for method in ("greedy", "wfst")]
    assert [path.is_file() for path in failed] == [True, True, False, False]
    assert f"2 utterances could not be decoded and have empty hypotheses; which and why: {failed[0]}" in log.read_text()
    assert failed[0].read_text().startswith("u3\t") and "utterance u3: unreadable" in failed[0].read_text()
    rows = [json.loads(line) for run in runs for line in run.results.read_text().splitlines()]
    assert [row["failed"] for row in rows if row["split"] == "dev"] == [["u3"], ["u3"], [], []]
    assert "wfst" in (exp / "RESULTS.md").read_text()
