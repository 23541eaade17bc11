"""Training from shards is training from the manifests: the same cuts and features, each cut once, and clear errors."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from itertools import zip_longest
from pathlib import Path

import numpy as np
import pytest
from console import ctcsd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lhotse import CutSet, MonoCut
from test_processes import arguments, assert_the_same, curve, start

from ctcsd.config import Config, DataConfig
from ctcsd.data.batches import CtcDataset, fbank_frames
from ctcsd.data.features import load_cuts
from ctcsd.data.integrity import read_features
from ctcsd.data.shar import INDEX, Shard, open_shards
from ctcsd.data.sharded import Sharded
from ctcsd.data.shares import StandIn
from ctcsd.data.training_set import training_set
from ctcsd.errors import UserError

SOURCE = "fbank80/cuts_train.jsonl.gz"


@pytest.fixture(scope="module")
def shards(small_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sixty training cuts in seven shards of nine, the last of six."""
    out = tmp_path_factory.mktemp("shards") / "shar"
    done = ctcsd("shar", "--data", small_corpus, "--out", out, "--shard-size", 9)
    assert done.returncode == 0 and "60 cuts in 7 shards" in done.stdout, done.stderr
    return out


@pytest.fixture
def copy(shards: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(shards, tmp_path / "copy"))


def read_all(folder: Path) -> dict[str, MonoCut]:
    return {cut.id: cut for shard in open_shards(folder, SOURCE) for cut in shard.read()}


def values(cut: MonoCut) -> np.ndarray:
    return read_features(CutSet.from_cuts([cut]))[0][0].numpy()


def encode(text: str) -> list[int]:
    return [1 + ord(c) % 30 for c in text]


def test_shards_hold_the_cuts_and_features_of_the_manifest(small_corpus: Path, shards: Path) -> None:
    stored = {cut.id: cut for cut in load_cuts(small_corpus / SOURCE, stage=1)}
    packed = read_all(shards)
    described = [cut for shard in open_shards(shards, SOURCE) for cut in shard.described()]
    assert list(packed) == [cut.id for cut in described] != list(stored), "in another order"
    assert packed.keys() == stored.keys()
    for cut_id, cut in packed.items():
        np.testing.assert_array_equal(values(cut), stored[cut_id].load_features(), cut_id)
        assert (cut.duration, cut.num_frames) == (stored[cut_id].duration, stored[cut_id].num_frames)
        assert [s.text for s in cut.supervisions] == [s.text for s in stored[cut_id].supervisions]
    some = list(packed)[:5]
    ours, theirs = (CtcDataset(encode)[CutSet.from_cuts(cuts[i] for i in some)] for cuts in (packed, stored))
    for one, other in zip(ours[:4], theirs[:4]):
        assert one.equal(other)
    again = ctcsd("shar", "--data", small_corpus, "--out", shards, "--shard-size", 9)
    assert "up to date" in again.stdout


def test_the_same_cuts_are_left_out(small_corpus: Path, shards: Path) -> None:
    config = Config(data=DataConfig(max_seconds=2.5, max_duration=30))
    both = []
    for shar in (None, str(shards)):
        config.data.shar = shar
        both.append(training_set(config, small_corpus, lambda text: [1] * len(text), fbank_frames))
    plain, sharded = both
    assert 0 < len(plain) < 60 and len(plain) == len(sharded)
    assert sorted(plain.dropped) == sorted(sharded.dropped) and len({d.reason for _, d in plain.dropped}) == 2
    assert plain.seconds == pytest.approx(sharded.seconds)
    seen = [cut.id for batch in sharded.shares(0, 1, 0, 0) for cut in batch]
    assert sorted(seen) == sorted(cut.id for batch in plain.shares(0, 1, 0, 0) for cut in batch)
    heavy = sharded.heaviest(world_size=1)
    assert heavy.keys() == plain.heaviest(world_size=1).keys()
    longest = max(cut.duration for cut in plain.cuts)
    assert {cut.duration for cut in heavy["longest cuts"]} == {longest}
    assert sum(cut.duration for cut in heavy["longest cuts"]) > 30 - longest
    config.data.shar, config.data.max_duration, config.data.streams = str(shards), 4, 2
    with pytest.raises(UserError, match="data.max_duration=4, shared by data.streams=2, is shorter than"):
        training_set(config, small_corpus, None, fbank_frames)
    config.data.streams = 8
    with pytest.raises(UserError, match="data.streams=8, but there are 7 shards"):
        training_set(config, small_corpus, None, fbank_frames)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 9), st.data())
def test_each_cut_once_whatever_the_number_of_processes(
    shards: Path, streams: int, epoch: int, done: int, data: st.DataObject
) -> None:
    world_size = data.draw(st.integers(1, streams))
    cuts = Sharded(open_shards(shards, SOURCE), DataConfig(streams=streams, max_duration=16), 1, None, fbank_frames)
    alone = [[cut.id for cut in batch] for batch in cuts.shares(epoch, 1, 0, 0)]
    assert Counter(cut for batch in alone for cut in batch) == Counter(list(read_all(shards)))
    assert [[cut.id for cut in batch] for batch in cuts.shares(epoch + 1, 1, 0, 0)] != alone
    dealt = [list(cuts.shares(epoch, world_size, rank, done)) for rank in range(world_size)]
    assert {len(batches) for batches in dealt} == {max(0, len(alone) - done)}, "all have as many steps"
    for batch, *parts in zip_longest(alone[done:], *dealt):
        counted = [cut.id for part in parts if not isinstance(part, StandIn) for cut in part]
        assert sorted(counted) == sorted(batch), "the same batch, behind those that are done"
        assert all(len(part) for part in parts)
        lengths = [cut.duration for part in parts if not isinstance(part, StandIn) for cut in part]
        assert sum(lengths) <= 16
    if epoch == 0:
        assert len(alone) == cuts.batches_per_epoch()


def test_each_process_opens_its_own_shards_only(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    read = Shard.read
    monkeypatch.setattr(Shard, "read", lambda shard: (opened.append(shard.data), read(shard))[1])
    cuts = Sharded(open_shards(shards, SOURCE), DataConfig(streams=3, max_duration=16), 1, None, fbank_frames)
    parts = []
    for rank in range(2):
        opened.clear()
        assert list(cuts.shares(0, 2, rank, 0))
        parts.append(set(opened))
        assert len(opened) == len(parts[-1]), "and each of them once"
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 7


def test_what_is_missing_or_cut_off_is_told_in_one_line(
    small_corpus: Path, shards: Path, copy: Path, tmp_path: Path
) -> None:
    tar = copy / "features.000002.tar"
    whole = tar.read_bytes()
    train = ["train", "-m", "ctc", "--data", small_corpus, "--lang", small_corpus / "lang_char", "--run"]
    tar.write_bytes(whole[: len(whole) // 2])
    done = ctcsd(*train, tmp_path / "run", f"data.shar={copy}", "data.max_duration=14")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert f"{tar} has {len(whole) // 2} bytes, not {len(whole)}: make the shards again" in done.stderr
    tar.unlink()
    done = ctcsd(*train, tmp_path / "run", f"data.shar={copy}", "data.max_duration=14")
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"{tar} is missing: make the shards again" in done.stderr
    for command, message in (
        (["data.shar=nowhere"], "no shards at nowhere"),
        ([f"data.shar={shards}", "data.train=test"], f"the shards at {shards} are of {SOURCE}, not of"),
        ([f"data.shar={shards}", "train.devices=2"], "data.streams=1 cannot feed 2 processes: set it to 2"),
    ):
        done = ctcsd(*train, tmp_path / "run", "data.max_duration=14", *command)
        assert done.returncode == 1 and message in done.stderr, done.stderr
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letters").write_text("dear")
    done = ctcsd("shar", "--data", small_corpus, "--out", tmp_path / "other")
    assert done.returncode == 1 and "holds no shards" in done.stderr


def test_shards_of_an_earlier_preparation(small_corpus: Path, shards: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(small_corpus, tmp_path / "data"))
    cuts = load_cuts(data / SOURCE, stage=1)
    CutSet.from_cuts(list(cuts)[1:]).to_file(data / SOURCE)
    cfg = Config(data=DataConfig(shar=str(shards)))
    training_set(cfg, small_corpus, encode, fbank_frames)
    with pytest.raises(UserError, match="are of another state of fbank80/cuts_train.jsonl.gz: make the shards again"):
        training_set(cfg, data, encode, fbank_frames)


def test_shards_that_are_cut_off_while_they_are_read(shards: Path, copy: Path) -> None:
    tar = copy / "features.000002.tar"
    whole = tar.read_bytes()
    with tarfile.open(tar) as archive:
        members = [member.offset for member in archive]
    opened = open_shards(copy, SOURCE)
    for length in (len(whole) // 2, members[4], members[5], 0, 100, members[-1] + 600):
        tar.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"features.000002.tar: (only \d of 9|damaged).*make the shards again"):
            list(opened[2].read())
    tar.write_bytes((shards / "features.000003.tar").read_bytes())
    with pytest.raises(UserError, match="damaged .*Mismatched IDs"):
        list(opened[2].read())
    (copy / "cuts.000001.jsonl.gz").write_bytes((shards / "cuts.000001.jsonl.gz").read_bytes()[:-30])
    with pytest.raises(UserError, match=r"cuts.000001.jsonl.gz: damaged"):
        list(opened[1].described())
    (copy / INDEX).write_text('{"source": "fbank80/cuts_train.jsonl.gz", "shards": [[9]]}')
    with pytest.raises(UserError, match="index.json: damaged"):
        open_shards(copy, SOURCE)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 1), st.integers(1, 255))
def test_a_damaged_byte_never_changes_features_unnoticed(shards: Path, copy: Path, where: float, change: int) -> None:
    good = open_shards(shards, SOURCE)[0]
    content = bytearray(good.data.read_bytes())
    content[int(where * (len(content) - 1))] ^= change
    data = copy / "features.000000.tar"
    data.write_bytes(content)
    wanted = [values(cut) for cut in good.read()]
    try:
        found = [values(cut) for cut in Shard(good.manifest, data, good.cuts).read()]
    except UserError:
        return
    assert all(map(np.array_equal, found, wanted))


def test_shards_that_name_a_command(copy: Path) -> None:
    shard = open_shards(copy, SOURCE)[0]
    cut = next(shard.described())
    cut.features.storage_type = "kaldiio"
    CutSet.from_cuts([cut]).to_file(shard.manifest)
    with pytest.raises(UserError, match=r"cuts.000000.jsonl.gz: the cut .* reads from 'kaldiio'"):
        list(shard.described())


def test_two_processes_train_from_shards_as_one_does(small_corpus: Path, shards: Path, tmp_path: Path) -> None:
    options = [f"data.shar={shards}", "data.streams=2", "train.epochs=1"]
    runs = [tmp_path / "one", tmp_path / "two"]
    process = start(small_corpus, runs[1], *options, "train.devices=2")
    done = ctcsd(*arguments(small_corpus, runs[0], *options))
    _, err = process.communicate(timeout=300)
    assert done.returncode == process.returncode == 0, done.stderr + err
    curves = [curve(run, "loss_step") for run in runs]
    assert [step for step, _ in curves[0]] == [step for step, _ in curves[1]]
    np.testing.assert_allclose(*([value for _, value in points] for points in curves), rtol=1e-4)
    assert_the_same(*runs)
    assert json.loads((runs[0] / "train.json").read_text())["unreadable"] == 0


def test_recordings_in_shards(small_corpus: Path, tmp_path: Path) -> None:
    source = small_corpus / "manifests" / "cuts_train.jsonl.gz"
    (tmp_path / "wave").mkdir()
    shutil.copy(source, tmp_path / "wave" / source.name)
    done = ctcsd("shar", "--data", tmp_path, "--out", tmp_path / "out", "--shard-size", 40, "features.type=wave")
    assert done.returncode == 0, done.stderr
    clean = {cut.id: cut for cut in load_cuts(source, stage=0)}
    found = [cut for shard in open_shards(tmp_path / "out", "wave/cuts_train.jsonl.gz") for cut in shard.read()]
    assert {cut.id for cut in found} == clean.keys()
    for cut in found:
        np.testing.assert_array_equal(cut.load_audio(), clean[cut.id].load_audio())
