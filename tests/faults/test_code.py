"""No file that we read can make us run what stands in it."""

from __future__ import annotations

import copy
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from bombs import Bomb
from console import ctcsd
from lhotse.serialization import deserialize_item

from ctcsd.config import load_config
from ctcsd.data.features import load_cuts
from ctcsd.decode.posterior_input import scaled_log_prior
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader
from ctcsd.train.checkpoint import average_checkpoints, load_model
from ctcsd.train.resume import newest_whole


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every bomb makes a file `ran` where it goes off."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "ran").exists(), "code in a file was run"


def test_the_bomb_goes_off_where_nobody_is_careful(tmp_path: Path) -> None:
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb")
    torch.load(tmp_path / "bomb", weights_only=False)
    assert (tmp_path / "ran").exists(), "the tests below show nothing"
    (tmp_path / "ran").unlink()


def test_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for legacy in (False, True):
        bomb = tmp_path / "last.ckpt"
        torch.save({"state_dict": Bomb()}, bomb, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(UserError, match=r"last\.ckpt is damaged") as caught:
            average_checkpoints([bomb])
        assert len(str(caught.value).splitlines()) == 1
        assert newest_whole(tmp_path) is None
        assert not bomb.exists() and "moved to last.ckpt.damaged" in capsys.readouterr().out


def test_a_pickle_in_place_of_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model.vocab_size: 5\n")
    torch.save(Bomb(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="damaged"):
        load_model(tmp_path)


def test_arrays_of_objects(tmp_path: Path, make_archive) -> None:
    np.save(tmp_path / "prior.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="no prior can be read"):
        scaled_log_prior(tmp_path / "prior.npy", 1.0, 1)
    np.savez(tmp_path / "prior.npz", np.ones(1, dtype=np.float32))
    with pytest.raises(UserError, match="no prior can be read"):
        scaled_log_prior(tmp_path / "prior.npz", 1.0, 1)
    reader: PosteriorReader = make_archive([("a", np.log(np.full((4, 5), 0.2, dtype=np.float32)))])
    (array,) = reader.path.glob("arrays/*/*.npy")
    np.save(array, np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="unreadable"):
        list(reader)


@pytest.mark.parametrize("key", ["../../secret.npy", "/etc/passwd", "a/../../x.npy", "abc"])
def test_an_archive_names_no_file_outside(key: str, make_archive) -> None:
    reader: PosteriorReader = make_archive([("a", np.log(np.full((4, 5), 0.2, dtype=np.float32)))])
    manifest = reader.path / "manifest.jsonl.gz"
    row = json.loads(gzip.decompress(manifest.read_bytes()))
    row["array"]["storage_key"] = key
    manifest.write_bytes(gzip.compress(json.dumps(row).encode()))
    with pytest.raises(UserError, match="line 1 is not the row"):
        list(reader)


@pytest.mark.parametrize(
    "text",
    [
        "corpus: !!python/object/apply:os.system ['touch ran']",
        "corpus: !!python/object/new:os.system ['touch ran']",
        "corpus: !!python/name:os.system",
        "corpus: ${oc.decode:'!!python/object/apply:os.system [touch ran]'}",
        "model: {_target_: os.system, command: touch ran}",
    ],
)
def test_configuration_makes_no_objects(text: str, tmp_path: Path) -> None:
    (tmp_path / "evil.yaml").write_text(text + "\n")
    with pytest.raises(UserError) as caught:
        load_config([tmp_path / "evil.yaml"])
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(UserError):
        load_config([], [text.replace("corpus: ", "seed=", 1).replace(": ", "=", 1)])


def test_a_laughing_billion_is_refused(tmp_path: Path) -> None:
    """Nine aliases of nine aliases, nine times over: 387 million items in 500 bytes."""
    lines = ["weights:", "  a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (tmp_path / "bomb.yaml").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"bomb\.yaml: YAML aliases"):
        load_config([tmp_path / "bomb.yaml"])
    with pytest.raises(UserError, match="aliases"):
        load_config([], ["weights={a: &a [1], b: *a}"])


def test_cut_sets_run_no_commands(tmp_path: Path) -> None:
    """lhotse runs the source of type `command` in a shell, and kaldiio a key that ends in a bar."""
    speech = {"id": "a", "recording_id": "a", "start": 0, "duration": 1, "channel": 0, "text": "a"}
    source = {"type": "command", "channels": [0], "source": "touch ran"}
    recording = {"id": "a", "sources": [source], "sampling_rate": 16000, "num_samples": 16000, "duration": 1.0}
    features = {"type": "fbank", "num_frames": 100, "num_features": 80, "frame_shift": 0.01, "sampling_rate": 16000}
    features |= {
        "start": 0,
        "duration": 1,
        "storage_type": "kaldiio",
        "storage_path": "x",
        "storage_key": "touch ran |",
    }
    features["recording_id"], features["channels"] = "a", 0
    cut = {"id": "a", "start": 0, "duration": 1, "channel": 0, "supervisions": [speech], "type": "MonoCut"}
    one = deserialize_item(copy.deepcopy({**cut, "recording": recording}))
    mixed = one.append(one.with_id("b")).to_dict()
    plain = {**recording, "sources": [{**source, "type": "file", "source": "a.wav"}]}
    folder = tmp_path / "data" / "manifests"
    folder.mkdir(parents=True)
    path = folder / "cuts_train.jsonl.gz"
    for row, kind in (
        ({**cut, "recording": recording}, "command"),
        ({**cut, "recording": plain, "features": features}, "kaldiio"),
        (mixed, "command"),
    ):
        path.write_bytes(gzip.compress(json.dumps(row).encode() + b"\n"))
        with pytest.raises(UserError, match=f"reads from '{kind}'"):
            load_cuts(path, 0)
        done = ctcsd("features", "--data", tmp_path / "data")
        assert done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1


def test_decompression_has_an_end(tmp_path: Path) -> None:
    """A .gz of one endless line costs memory in proportion to itself times a thousand, and is refused."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as out:
        for _ in range(64):
            out.write(b"[" * (1 << 20))
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(packed.getvalue())
    assert path.stat().st_size < 1 << 17
    with pytest.raises(UserError, match="damaged"):
        load_cuts(path, 0)
