"""A speaker that is held out is in test alone, and says nothing there that training has heard."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from console import ctcsd
from lhotse import CutSet
from speech import fotaq_data

from ctcsd.data.features import load_cuts


def cuts_of(data: Path, split: str) -> list:
    return list(load_cuts(data / "manifests" / f"cuts_{split}.jsonl.gz", stage=0))


def speakers(cuts: list) -> set[str]:
    return {s.speaker for cut in cuts for s in cut.supervisions}


def texts(cuts: list) -> set[str]:
    return {cut.supervisions[0].text for cut in cuts}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of fotaq."""
    data = tmp_path_factory.mktemp("fotaq")
    (data / "manifests").mkdir()
    for split, count in (("train", 700), ("dev", 100), ("test", 150)):
        cuts = CutSet.from_cuts(islice(CutSet.from_file(fotaq_data() / "manifests" / f"cuts_{split}.jsonl.gz"), count))
        cuts.to_file(data / "manifests" / f"cuts_{split}.jsonl.gz")
    return data


@pytest.mark.parametrize("speaker", ["joe", "bob"])
def test_the_speaker_is_in_test_only(speaker: str, corpus: Path, tmp_path: Path) -> None:
    whole = {split: cuts_of(corpus, split) for split in ("train", "dev", "test")}
    done = ctcsd("hold-out", speaker, "--data", corpus, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    found = {split: cuts_of(tmp_path / "out", split) for split in whole}
    for split in ("train", "dev"):
        assert speaker not in speakers(found[split])
        wanted = [cut.id for cut in whole[split] if speaker not in speakers([cut])]
        assert [cut.id for cut in found[split]] == wanted
        assert {cut.id for cut in cuts_of(tmp_path / "out", f"mini_{split}")} < set(wanted)
    assert speakers(found["test"]) == {speaker}
    heard = texts(found["train"] + found["dev"])
    own = [cut for cuts in whole.values() for cut in cuts if speaker in speakers([cut])]
    assert {cut.id for cut in found["test"]} == {cut.id for cut in own if not texts([cut]) & heard}
    assert len(found["test"]) > len([cut for cut in whole["test"] if speaker in speakers([cut])]), "train's too"
    again = ctcsd("hold-out", speaker, "--data", corpus, "--out", tmp_path / "out")
    assert again.returncode == 1 and "has manifests already" in again.stderr


def test_no_such_speaker_and_no_other(corpus: Path, tmp_path: Path) -> None:
    done = ctcsd("hold-out", "nobody", "--data", corpus, "--out", tmp_path / "out")
    assert done.returncode == 1 and "no utterance of speaker 'nobody'" in done.stderr and "joe" in done.stderr
    data = tmp_path / "data"
    (data / "manifests").mkdir(parents=True)
    for split in ("train", "dev", "test"):
        cuts = [cut for cut in cuts_of(corpus, split) if speakers([cut]) == {"joe"}]
        CutSet.from_cuts(cuts).to_file(data / "manifests" / f"cuts_{split}.jsonl.gz")
    done = ctcsd("hold-out", "joe", "--data", data, "--out", tmp_path / "out")
    assert done.returncode == 1 and "train is empty" in done.stderr
    assert not (tmp_path / "out").exists()
