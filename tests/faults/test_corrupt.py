"""Nothing that we read may crash us: damaged files are refused in one line, or read as what they still say."""

from __future__ import annotations

import faulthandler
import json
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from console import ctcsd
from corrupt import damaged
from kinds import Kind, kinds, make_world, same
from lhotse import CutSet

from ctcsd.config import Config, DataConfig, FeaturesConfig
from ctcsd.data.audio import BadAudio, load_file
from ctcsd.data.features import compute_features, load_cuts
from ctcsd.data.integrity import read_features
from ctcsd.errors import UserError
from ctcsd.run_dir import RunDir

SECONDS = 20  # for one read

NAMES = [
    "cuts",
    "cuts, repacked",
    "features",
    "shard",
    "manifest of a shard",
    "index of shards",
    "wav",
    "flac",
    "ogg",
    "tokens.txt",
    "tokens.txt of an archive",
    "words.txt",
    "lexicon.txt",
    "dictionary",
    "lm.arpa",
    "posteriors",
    "posteriors' manifest",
    "posteriors' manifest, repacked",
    "prior",
    "graph",
    "checksum of a graph",
    "checkpoint",
    "model",
    "config.yaml",
    "method",
    "marker",
    "train.json",
    "hypotheses",
    "n-best lists",
    "cost",
    "results",
    "utterances",
    "checked manifest",
]


class Hang(BaseException):
    """A read that took longer than SECONDS; no reader may catch it."""


@contextmanager
def deadline() -> Iterator[None]:
    def alarm(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(3 * SECONDS, exit=True)  # where C code never gives the alarm a chance
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--fault-seed")


def names(kind: Kind, message: str) -> bool:
    """Whether a message names the file, or the folder that it is a part of (a method goes by its file's stem)."""
    return any(part.stem in message for part in (kind.path, *kind.path.parents[:3]))


@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_refused_or_read_as_it_is(
    name: str, world: Path, seed: int, request: pytest.FixtureRequest
) -> None:
    kind = kinds(world)[name]
    whole, content, original = kind.path.read_bytes(), kind.content(), kind.read()
    draw, seen, slowest = random.Random(f"{seed} {name}"), Counter[str](), 0.0
    try:
        for number in range(request.config.getoption("--mutations")):
            changed, how = damaged(content, draw, kind.text)
            kind.write(changed)
            case = f"{name}: seed {seed}, mutation {number}: {how}"
            start = time.monotonic()
            try:
                with deadline():
                    found = kind.read()
            except MemoryError:
                pytest.fail(f"{case}: needs all the memory")
            except kind.refusals as error:
                seen["refused"] += 1
                if kind.refusals != (Exception,):
                    assert len(str(error).splitlines()) == 1, case
                    assert names(kind, str(error)), f"{case}: {error}"
            else:
                if same(found, original):
                    seen["same"] += 1
                else:
                    assert kind.sound is not None, f"{case}: another content was read, and nobody noticed"
                    assert kind.sound(found), f"{case}: unsound content was read"
                    seen["read as it is"] += 1
            slowest = max(slowest, time.monotonic() - start)
    except (Exception, Hang) as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    finally:
        kind.path.parent.mkdir(exist_ok=True)
        kind.path.write_bytes(whole)
    counts = ", ".join(f"{count} {what}" for what, count in sorted(seen.items()))
    print(f"\nfaults: {name}: {counts}; slowest {slowest:.2f} s; seed {seed}")
    assert seen["refused"] or kind.mended, "no damage was ever noticed"


def test_every_kind_is_tried(world: Path) -> None:
    assert list(kinds(world)) == NAMES


def test_commands_end_with_one_line(world: Path, tmp_path: Path, seed: int) -> None:
    """A sample through the command line: exit code 0, or 1 (3: all done but some) with one line that names a file."""
    found, run = kinds(world), world / "exp" / "ctc" / "seed1"
    data, lang = ["--data", world / "data"], ["--lang", world / "lang"]
    search = ["search", "--run", run, *lang]
    posteriors = ["posteriors", "--run", run, *data, *lang]
    score = ["score", "--run", run, *data]
    commands: list[tuple[str, list[Any]]] = [
        ("posteriors", search),
        ("posteriors' manifest, repacked", search),
        ("tokens.txt", search),
        ("config.yaml", search),
        ("model", posteriors),
        ("features", posteriors),
        ("cuts, repacked", posteriors),
        ("hypotheses", score),
        ("marker", score),
        ("train.json", score),
        ("cuts", score),
        ("method", ["plan", "--method", world / "method.yaml"]),
        ("n-best lists", score),
        ("cost", score),
        ("results", ["table", world / "exp"]),
        ("lm.arpa", ["search", "--run", run, *lang, "--method", "beam", "decode.lexicon=true", "decode.beam=2"]),
        ("lm.arpa", ["search", "--run", run, *lang, "--method", "wfst"]),
        ("graph", ["search", "--run", run, *lang, "--method", "wfst", "decode.graph=HL"]),
        ("lexicon.txt", ["search", "--run", run, *lang, "--method", "beam", "decode.lexicon=true", "decode.beam=2"]),
    ]
    shutil.copytree(world, tmp_path / "whole")
    draw, codes = random.Random(f"{seed} commands"), Counter[int]()
    for name, command in commands:
        kind = found[name]
        content = kind.content()
        for _ in range(2):
            changed, how = damaged(content, draw, kind.text)
            kind.write(changed)
            try:
                with deadline():
                    done = ctcsd(*command)
            except (Exception, Hang) as error:
                raise AssertionError(f"{name}, seed {seed}: {how}: {type(error).__name__}: {error}") from error
            finally:  # a command that fails takes its marker with it
                shutil.rmtree(world)
                shutil.copytree(tmp_path / "whole", world)
            codes[done.returncode] += 1
            if done.returncode:
                lines = done.stderr.strip().splitlines()
                assert done.returncode in (1, 3) and len(lines) == 1 and lines[0].startswith("error: "), (
                    f"{name}: {how}: {lines}"
                )
                assert names(kind, lines[0]), f"{name}: {how}: {lines}"
                assert done.returncode == 1 or name.startswith("posteriors")
            else:
                assert name != "posteriors", how
    assert codes[1] > 5 and 2 <= codes[3] <= 4, codes
    manifest = tmp_path / "cuts.jsonl"
    for _ in range(3):  # a list of what is wrong is no error
        manifest.write_bytes(damaged(found["cuts, repacked"].content(), draw, text=True)[0])
        done = ctcsd("check-data", manifest, "--out", tmp_path / "check.tsv")
        assert done.returncode in (0, 1) and "checked" in done.stdout and "rror" not in done.stderr, done.stderr


def test_a_flipped_bit_in_a_graph_changes_no_hypothesis(world: Path) -> None:
    run = RunDir(world / "exp" / "ctc" / "seed1")
    command = ["search", "--run", run.path, "--lang", world / "lang", "--method", "wfst", "decode.graph=HL"]
    path = kinds(world)["graph"].path
    content, marker = path.read_bytes(), run.hypotheses_marker("wfst", "test", "student")
    assert ctcsd(*command).returncode == 0
    expected = run.hypotheses("wfst", "test", "student").read_bytes()
    for at in (0, 70, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :])
        marker.unlink()
        done = ctcsd(*command)
        assert done.returncode == 0 and "made again" in done.stdout, done.stderr
        assert run.hypotheses("wfst", "test", "student").read_bytes() == expected and path.read_bytes() == content


def test_json_of_other_shapes(world: Path) -> None:
    """Valid JSON that is nothing of ours."""
    rows = ("hypotheses", "n-best lists", "results", "utterances", "posteriors' manifest, repacked", "cuts, repacked")
    for name in ("marker", "train.json", *rows):
        kind = kinds(world)[name]
        whole = kind.path.read_bytes()
        values = (None, 3, "x", [], {}, [[]], {"id": 3}, {"id": "u0", "array": {}})
        try:
            for content in (*(json.dumps(value).encode() for value in values), b"[" * 100_000):
                kind.write(content + b"\n")
                with pytest.raises(UserError) as caught:
                    kind.read()
                assert len(str(caught.value).splitlines()) == 1
        finally:
            kind.path.write_bytes(whole)


@pytest.mark.parametrize("jobs", [1, 2])
def test_damaged_audio_is_not_left_out_of_the_features(jobs: int, tmp_path: Path, seed: int) -> None:
    """lhotse would go on with the other cuts: a dev set that shrinks in silence is a wrong result."""
    world = make_world(tmp_path / "world")
    path = world / "audio" / "u3.flac"
    whole, draw, codes = path.read_bytes(), random.Random(f"{seed} audio"), Counter[int]()
    more = [b"", whole[:500], *(damaged(whole, draw)[0] for _ in range(6))] if jobs == 1 else []
    for content in (None, *more):
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        shutil.rmtree(world / "data" / "fbank80")
        done = ctcsd("features", "--data", world / "data", "--jobs", jobs)
        codes[done.returncode] += 1
        if done.returncode:
            assert len(done.stderr.strip().splitlines()) == 1 and "u3" in done.stderr
            assert not (world / "data" / "fbank80" / "cuts_train.jsonl.gz").exists()
        else:
            assert len(load_cuts(world / "data" / "fbank80" / "cuts_train.jsonl.gz", 1)) == 5
    assert codes[1] >= (3 if more else 1)


def test_training_goes_on_without_a_few_unreadable_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = make_world(tmp_path / "world")
    folder = world / "data" / "fbank80"
    shutil.rmtree(folder)
    whole = (world / "audio" / "u3.flac").read_bytes()
    (world / "audio" / "u3.flac").write_bytes(whole[: len(whole) // 2])
    cfg = Config(data=DataConfig(max_bad=0.2), features=FeaturesConfig(speeds=[0.9]))
    cuts = load_cuts(compute_features(world / "data", cfg, "train", jobs=1), 1)
    assert len(cuts) == 8 and not any("u3" in cut.id for cut in cuts)
    assert "2 of 10 cuts cannot be read (listed in " in capsys.readouterr().out
    rows = [line.split("\t") for line in (folder / "unreadable-train_sp0.9.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["id", "u3", "u3_sp0.9"] and "the audio of cut u3 cannot be read" in rows[1][2]
    with pytest.raises(UserError, match=r"the audio of cut u3.*1 of 5 cuts.*: run stage 0 again"):
        compute_features(world / "data", cfg, "dev", jobs=1)
    assert not (folder / "cuts_dev.jsonl.gz").exists()
    cfg.data.max_bad, cfg.features.speeds = 0.19, []
    with pytest.raises(UserError, match=r"1 of 5 cuts cannot be read .*more than data.max_bad=0.19"):
        compute_features(world / "data", cfg, "train", jobs=1)
    (world / "audio" / "u3.flac").write_bytes(whole)
    assert len(load_cuts(compute_features(world / "data", cfg, "train", jobs=1), 1)) == 5
    assert not (folder / "unreadable-train.tsv").exists()


def test_a_header_that_promises_terabytes(tmp_path: Path) -> None:
    """Of the 36 bits of FLAC's number of samples the highest are set."""
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).normal(size=16000) * 0.1, 16000)
    content = bytearray(path.read_bytes())
    for high, low in ((0x0F, 0xFF), (0x01, 0xFF), (0x00, 0xFF), (0x00, 0x0F)):
        content[21], content[22] = content[21] & 0xF0 | high, low
        path.write_bytes(content)
        with deadline(), pytest.raises(BadAudio):
            load_file(path)


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_remedy_for_damaged_features_mends_them(
    jobs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = make_world(tmp_path / "world")
    shutil.rmtree(world / "data" / "fbank80")
    cuts = load_cuts(compute_features(world / "data", Config(), "train", jobs), 1)
    whole = read_features(cuts)[0]
    file = Path(cuts[0].features.storage_path)
    file.write_bytes(file.read_bytes()[:-3] + b"---")
    with pytest.raises(UserError, match="delete the folder of that file and run stage 1 again$") as found:
        for cut in cuts:
            read_features(CutSet.from_cuts([cut]))
    shutil.rmtree(Path(str(found.value).partition(": ")[0]).parent)
    capsys.readouterr()
    cuts = load_cuts(compute_features(world / "data", Config(), "train", jobs), 1)
    assert torch.equal(read_features(cuts)[0], whole) and "train: 5 cuts" in capsys.readouterr().out
