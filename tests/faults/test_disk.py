"""A disk that is full or refuses: one line, what was there before intact, and no half-written file left."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from console import ctcsd
from kinds import kinds, make_world, same

from ctcsd.config import Config, save_config
from ctcsd.decode.hypothesis import Hypothesis, write_hypotheses
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.stamp import mark
from ctcsd.text.arpa import write_arpa
from ctcsd.text.ngram import estimate
from ctcsd.text.tokenizer import TokenTable
from ctcsd.train.checkpoint import AtomicCheckpointIO, load_model, save_model
from ctcsd.train.resume import newest_whole


@contextmanager
def full_disk(after: int) -> Iterator[None]:
    """No file grows over `after` bytes: the system's EFBIG stands for ENOSPC, at the same calls."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (after, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


def checkpoint(path: Path, size: int) -> None:
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.zeros(size)}}, path)


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "last.ckpt": checkpoint,
    ".done": lambda path, size: mark(path, {"x": "y" * size}),
    "hyps.jsonl": lambda path, size: write_hypotheses(path, [Hypothesis("a", "x" * size, 0.0, [], [])]),
    "lm.arpa": lambda path, size: write_arpa(estimate([" ".join(f"w{i}" for i in range(size // 20))] * 2, 2), path),
    "config.yaml": lambda path, size: save_config(Config(corpus="x" * size), path),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("after", [0, 1, 4096, 20_000])
def test_what_was_there_before_stays(name: str, after: int, tmp_path: Path) -> None:
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    WRITERS[name](path, 40)
    before = path.read_bytes()
    with full_disk(after), pytest.raises(UserError) as caught:
        WRITERS[name](path, 100_000)
    assert len(str(caught.value).splitlines()) == 1 and str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [name]
    if name == "last.ckpt":
        assert newest_whole(path.parent) == path
    WRITERS[name](path, 100_000)
    assert path.read_bytes() != before, "with space again, it is written"


def test_models_and_archives(world: Path, tmp_path: Path, table: TokenTable) -> None:
    run = world / "exp" / "ctc" / "seed1"
    model, _ = load_model(run)
    whole = (run / "model.safetensors").read_bytes()
    with full_disk(5000), pytest.raises(UserError, match=r"cannot write .*model\.safetensors"):
        save_model(model, run, "tokens")
    assert (run / "model.safetensors").read_bytes() == whole and not list(run.glob(".*partial*"))
    for _ in range(5):
        save_model(model, run, TokenTable.load(world / "lang").fingerprint)
        assert (run / "model.safetensors").read_bytes() == whole, "what depends on a model knows it by its bytes"

    def archive(frames: int) -> None:
        with PosteriorWriter(tmp_path / "archive", table) as writer:
            for name in "ab":
                writer.write(name, np.log(np.full((frames, 5), 0.2, dtype=np.float32)))

    archive(3)
    before = dict(PosteriorReader(tmp_path / "archive"))
    for after in (0, 400, 5000):
        with full_disk(after), pytest.raises((OSError, UserError)):
            archive(1000)
        assert same(dict(PosteriorReader(tmp_path / "archive")), before)
        assert [path.name for path in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("after", [0, 2000, 40_000])
def test_commands_end_with_one_line(after: int, world: Path, tmp_path: Path) -> None:
    """Every stage behind the first, on a disk that fills up; with space again, it does its work."""
    data, lang = ["--data", world / "data"], ["--lang", world / "lang"]
    small = ["model.layers=1", "student_layers=1", "model.dim=16", "model.subsampling_channels=4", "train.epochs=1"]
    run = tmp_path / "ctc" / "seed1"
    shutil.copytree(world / "data" / "manifests", tmp_path / "data" / "manifests")
    commands = [
        ["features", "--data", tmp_path / "data", "--jobs", "1"],
        ["lang", *data, "--out", tmp_path / "lang"],
        ["lm", "--text", world / "lang" / "text", "--out", tmp_path / "lm.arpa"],
        ["train", "-m", "ctc", *data, *lang, "--run", run, *small],
        ["posteriors", "--run", run, *data, *lang],
        ["search", "--run", run, *lang, "decode.methods=[greedy]"],
        ["score", "--run", run, *data, "decode.methods=[greedy]"],
    ]
    refused = 0
    for command in commands:
        with full_disk(after):
            done = ctcsd(*command)
        if done.returncode:
            refused += 1
            lines = done.stderr.strip().splitlines()
            assert done.returncode == 1 and len(lines) == 1 and lines[0].startswith("error: "), (command[0], lines)
            print(command[0], lines)
            assert not [p for p in tmp_path.rglob("*partial*")], command[0]
            assert not [p for p in tmp_path.rglob("feats*")] or command[0] != "features"
        again = ctcsd(*command)
        assert again.returncode == 0, (command[0], again.stderr)
    assert refused == len(commands) if after == 0 else refused
    errs = run / "decode" / "greedy" / "errs-test-student.txt"
    before = errs.read_bytes()
    with full_disk(100):
        assert ctcsd(*commands[-1]).returncode == 1
    assert errs.read_bytes() == before, "what was scored before is not cut short"
    assert kinds(world)["model"].read()
