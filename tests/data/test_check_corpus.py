"""`ctcsd check-data`: every kind of bad audio and text that a corpus may hold, on real speech; a sound one has none."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile
from console import ctcsd
from hypothesis import given, settings
from hypothesis import strategies as st
from speech import clips

from ctcsd.data.check_corpus import STOPS, check_corpus
from ctcsd.data.checks import check_characters, check_script, main_script
from ctcsd.errors import UserError

RATE = 16000


@pytest.fixture(scope="session")
def speech():
    return clips(7)


def recording(path, samples, rate=RATE, name=None, **options):
    """Write a file and describe it as lhotse would."""
    soundfile.write(path, samples, rate, **options)
    count = len(samples)
    source = {
        "type": "file",
        "channels": list(range(1 if samples.ndim == 1 else samples.shape[1])),
        "source": str(path),
    }
    described = {"id": name or path.stem, "sources": [source], "sampling_rate": rate, "num_samples": count}
    return described | {"duration": count / rate}


def supervision(of, text, **changes):
    return {
        "id": f"{of['id']}-s",
        "recording_id": of["id"],
        "start": 0.0,
        "duration": of["duration"],
        "channel": 0,
        "text": text,
        "language": "en",
    } | changes


def write(path, items):
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    return path


def found(recordings, supervisions, folder):
    """id -> reasons of what check_corpus says of one set of manifests."""
    paths = [write(folder / "r.jsonl.gz", recordings), write(folder / "s.jsonl.gz", supervisions)]
    reasons: dict[str, set[str]] = {}
    for name, drop in check_corpus(paths).found:
        reasons.setdefault(name, set()).add(drop.reason)
    return reasons


@pytest.fixture
def sound(speech, tmp_path):
    """A corpus with nothing wrong: recordings and supervisions."""
    recordings = [recording(tmp_path / f"ok{n}.flac", samples) for n, (_, samples) in enumerate(speech[:6])]
    return recordings, [supervision(one, text) for one, (text, _) in zip(recordings, speech)]


def test_sound_corpus_has_no_findings(sound, tmp_path):
    assert found(*sound, tmp_path) == {}


def truncate(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def renamed(described, path):
    """A manifest that names another file, whether the system allows such a name or not."""
    return described | {"sources": [described["sources"][0] | {"source": str(path)}]}


def seconds(samples, count):
    return np.resize(samples, int(count * RATE))


BAD_AUDIO = {  # reason -> how the file `bad.wav` or its description is made from speech
    "truncated audio": lambda p, x: (recording(p, x), truncate(p))[0],
    "empty audio": lambda p, x: (recording(p, x), p.write_bytes(b""))[0],
    "unreadable audio": lambda p, x: (recording(p, x), p.write_text("no audio at all"))[0],
    "missing audio": lambda p, x: (recording(p, x), p.unlink())[0],
    "silent audio": lambda p, x: recording(p, np.zeros_like(x)),
    "too short": lambda p, x: recording(p, x[: RATE // 10]),
    "too long": lambda p, x: recording(p, seconds(x, 300)),
    "wrong sampling rate": lambda p, x: recording(p, x[::2], 8000),
    "more than one channel": lambda p, x: recording(p, np.stack([x, x // 2], axis=1)),
    "non-finite samples": lambda p, x: recording(
        p, np.r_[np.float32("nan"), x.astype(np.float32) / 32768], subtype="FLOAT"
    ),
    "wrong extension": lambda p, x: recording(p, x, format="FLAC"),
    "unreadable audio ": lambda p, x: renamed(recording(p, x), p.with_name("long" * 64)),
    "wrong duration in the manifest": lambda p, x: recording(p, x) | {"num_samples": len(x) + RATE // 2},
    "wrong duration in the manifest ": lambda p, x: recording(p, x) | {"duration": len(x) / RATE - 0.1},
    "wrong sampling rate in the manifest": lambda p, x: (
        recording(p, x) | {"sampling_rate": 2 * RATE, "duration": len(x) / RATE / 2}
    ),
    "clipped audio": lambda p, x: recording(p, np.clip(x.astype(np.int32) * 1000, -32768, 32767).astype(np.int16)),
    "too slow for its text": lambda p, x: recording(p, seconds(x, 25)),
}


@pytest.mark.parametrize("reason", BAD_AUDIO)
def test_bad_audio_is_named(sound, speech, tmp_path, reason):
    recordings, supervisions = sound
    bad = BAD_AUDIO[reason](tmp_path / "bad.wav", speech[6][1])
    text = "seven words " * 40 if reason == "too long" else "a text"
    reasons = found([*recordings, bad], [*supervisions, supervision(bad, text)], tmp_path)
    assert set().union(*reasons.values()) == {reason.strip()} and all(name.startswith("bad") for name in reasons)


@pytest.mark.parametrize("suffix", ["flac", "wav", "mp3"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncation_is_found_in_each_format(sound, speech, tmp_path, suffix, share):
    bad = recording(tmp_path / f"bad.{suffix}", seconds(speech[0][1], 4))
    truncate(tmp_path / f"bad.{suffix}", share)
    assert "truncated audio" in found([bad], [supervision(bad, "a text of some length")], tmp_path)["bad"]


def test_length_of_a_streamed_wav_is_no_truncation(speech, tmp_path):
    """A program that writes WAV into a pipe does not know its length, and claims the largest there is."""
    one = recording(tmp_path / "pipe.wav", speech[0][1])
    content = bytearray((tmp_path / "pipe.wav").read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    (tmp_path / "pipe.wav").write_bytes(content)
    assert found([one], [supervision(one, speech[0][0])], tmp_path) == {}


BAD_TEXT = [
    ("another script than the corpus", "это по-русски"),
    ("control characters in text", "a bell \x07 rings"),
    ("control characters in text", "caf\ufffd"),
    ("empty text", "..."),
    ("digits or symbols in text", "at 7 o'clock"),
    ("too fast for its text", "very long text " * 20),
]


@pytest.mark.parametrize(("reason", "text"), BAD_TEXT)
@pytest.mark.parametrize("language", ["en", "xx"])
def test_bad_text_is_named(sound, tmp_path, reason, text, language):
    recordings, supervisions = sound
    supervisions[0] = supervision(recordings[0], text, language=language)
    assert found(recordings, supervisions, tmp_path) == {"ok0-s": {reason}}


def test_characters_that_come_faster_than_frames(tmp_path):
    """In a second of tone between pauses CTC spells 25 characters, a blank between equal ones among them."""
    tone = 0.3 * np.sin(np.arange(RATE) / 5)
    samples = np.r_[np.zeros(RATE), tone, 0.01 * tone].astype(np.float32)  # what is 30 dB lower sounds after
    one = recording(tmp_path / "one.wav", samples, subtype="FLOAT")
    for text, reasons in (("ab" * 12 + "a", {}), ("ab" * 13, {"one-s"}), ("ab" * 12 + "b", {"one-s"})):
        assert found([one], [supervision(one, text)], tmp_path).keys() == set(reasons), text


def test_partners_duplicates_and_segments(sound, speech, tmp_path):
    recordings, supervisions = sound
    copy = recording(tmp_path / "copy.flac", speech[0][1])
    lonely = recording(tmp_path / "lonely.flac", speech[1][1][::-1].copy())
    extra = [
        supervision(copy, "the same sound again"),
        supervision({"id": "gone", "duration": 1.0}, "a text alone"),
        supervision(recordings[2], "past the end of it", id="past", start=0.5),
        supervisions[1],
    ]
    assert found([*recordings, copy, lonely], [*supervisions, *extra], tmp_path) == {
        "copy": {"duplicate audio"},
        "gone-s": {"missing audio"},
        "lonely": {"missing transcript"},
        "past": {"segment outside the audio"},
        supervisions[1]["id"]: {"duplicate id"},
    }


def test_damaged_lines_do_not_stop_the_rest(sound, tmp_path):
    recordings, supervisions = sound
    paths = [tmp_path / "r.jsonl", write(tmp_path / "s.jsonl.gz", supervisions)]
    lines = [json.dumps(one) for one in [*recordings, {"id": "odd", "sources": 7}, {"id": "alien"}]]
    paths[0].write_text("\n".join([*lines, '{"id": "half', "[1]"]) + "\n")
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    findings = check_corpus([*paths, tmp_path / "none.jsonl"])
    reasons = sorted((name, drop.reason) for name, drop in findings.found if drop.reason != "missing transcript")
    assert reasons == [
        ("alien", "not checked"),
        ("none.jsonl", "damaged manifest"),
        ("odd", "damaged manifest"),
        ("r.jsonl", "damaged manifest"),
        ("r.jsonl", "damaged manifest"),
        ("s.jsonl.gz", "damaged manifest"),
    ]
    changes = [{"text": text} for text in (123, ["a"], {"a": 1}, True)]
    changes += [{"start": float("nan")}, {"duration": "1"}, {"language": 3}, {"recording_id": ["a"]}, {"id": [1]}]
    odd = [one | {"id": f"odd{n}"} | change for n, (one, change) in enumerate(zip(supervisions * 2, changes))]
    reasons = found(recordings, odd, tmp_path)
    assert all(reasons[f"odd{n}"] == {"damaged manifest"} for n in range(7)) and reasons["odd7"] == {"missing audio"}
    cut = {"id": "c", "start": 0.0, "duration": 1.0, "recording": recordings[0]}
    of_sound = [{"num_samples": float("inf")}, {"sampling_rate": None}, {"duration": "x"}, {"id": [1]}]
    cuts = [cut | {"id": 7, "start": None}, *(cut | {"recording": recordings[0] | change} for change in of_sound)]
    findings = check_corpus([write(tmp_path / "c.jsonl.gz", cuts)]).found
    assert [name for name, drop in findings if drop.reason == "damaged manifest"] == ["7", "c", "c", "c"]
    with pytest.raises(UserError, match="no recordings"):
        check_corpus([write(tmp_path / "empty.jsonl.gz", [])])


def test_command_counts_lists_and_tells_by_its_exit_code(sound, speech, tmp_path):
    recordings, supervisions = sound
    folder = tmp_path / "data/manifests"
    folder.mkdir(parents=True)
    stereo = recording(tmp_path / "two.wav", np.stack([speech[6][1], speech[6][1] // 2], axis=1))
    missing = Path(recordings[0]["sources"][0]["source"])
    cuts = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_dicts([*recordings, stereo]),
        lhotse.SupervisionSet.from_dicts([*supervisions, supervision(stereo, "in stereo")]),
    )
    for split in ("train", "dev", "test"):
        part = [cut for n, cut in enumerate(cuts) if ("train", "dev", "test")[n % 3] == split]
        lhotse.CutSet.from_cuts(part).to_file(folder / f"cuts_{split}.jsonl.gz")
    for options in ((), ("--jobs", 2)):
        done = ctcsd("check-data", tmp_path / "data", *options)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "checked 7 utterances" in done.stdout and "would stop a run: 0\nwarnings: 1\n" in done.stdout
        assert "       1  more than one channel" in done.stdout
    rows = (tmp_path / "data/check.tsv").read_text().splitlines()
    assert rows[0] == "id\treason\tdetail" and [row.split("\t")[1] for row in rows[1:]] == ["more than one channel"]

    (folder / "cuts_dev.jsonl.gz").unlink()
    missing.unlink()
    done = ctcsd("check-data", tmp_path / "data", "--out", tmp_path / "list.tsv")
    assert done.returncode == 1 and "would stop a run: 2\n" in done.stdout and "warnings: 1\n" in done.stdout
    assert {row.split("\t")[1] for row in (tmp_path / "list.tsv").read_text().splitlines()[1:3]} <= STOPS
    assert ctcsd("check-data", tmp_path / "nowhere.jsonl", "--out", tmp_path / "list.tsv").returncode == 1
    empty = tmp_path / "empty"
    empty.mkdir()
    done = ctcsd("check-data", empty)
    assert done.returncode == 1 and done.stderr == f"error: {empty}: no manifests (*.jsonl.gz) in it\n"


def test_scripts():
    assert main_script(["abc", "где", "more latin"]) == "LATIN" and main_script(["1, 2"]) == ""
    assert main_script(["你好こんにちは"]) == "CJK" and check_script("ＡＢＣ", "LATIN") is None
    assert check_script("Москва", "LATIN") and not check_script("Москва", "CYRILLIC") and not check_script("7", "LATIN")


@given(st.text())
@settings(deadline=None, max_examples=50)
def test_characters_that_unicode_calls_controls(text):
    """Against Python's own view of what is printable: whatever is dropped is not, but for U+FFFD."""
    drop = check_characters(text)
    if drop is None:
        assert all(c.isprintable() or c.isspace() or c in "\xad" or ord(c) > 0xAD for c in text)
    else:
        assert any(not c.isprintable() or c == "\ufffd" for c in text)
