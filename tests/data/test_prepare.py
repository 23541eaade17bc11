"""The corpus writer, on real speech: what it keeps, what it drops and why, and that a killed run leaves nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile
import soxr

from ctcsd.data import workers
from ctcsd.data.debian import fetch_package, member, unpack
from ctcsd.data.prepare import Utterance, load_file, prepare
from ctcsd.data.splits import check_bounds, mini_ids, safe_id, split_of
from ctcsd.errors import UserError, one_line_errors

ROOT = Path(__file__).parents[2]
CLIPS = 90


def give(samples, rate):
    return samples, rate


def explode():
    raise RuntimeError("bad frame\nin a broken file")


def die():
    os._exit(3)


def wait():
    time.sleep(60)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Real utterances of the fotaq package, one per text."""
    spec = importlib.util.spec_from_file_location("fotaq_queen", ROOT / "egs/fotaq/local/queen.py")
    queen = importlib.util.module_from_spec(spec)
    sys.modules["fotaq_queen"] = queen
    spec.loader.exec_module(queen)
    folder = tmp_path_factory.mktemp("fotaq")
    cache = ROOT / "egs/fotaq/data/download"
    name, version = "flight-of-the-amazon-queen", "1.0.0-9"
    sums = {version: "40c08fd258d6fe95c46c1eaf5e9137f84ba330657995a281bd887c94a560a0f1"}
    unpack(fetch_package(name, sums, cache if cache.is_dir() else folder / "download"), folder)
    data = member(folder, f"usr/share/scummvm/{name}/queen.1c").read_bytes()
    found = {}
    for clip in list(queen.clips(data))[: 2 * CLIPS]:
        samples, rate = soundfile.read(io.BytesIO(data[clip.offset : clip.offset + clip.size]), dtype="float32")
        if clip.text not in found:
            found[clip.text] = Utterance(clip.name, clip.text, clip.speaker, partial(give, samples, rate))
    return list(found.values())[:CLIPS]


def altered(utterance, name="odd", text=None, change=lambda x: x, rate=11025):
    samples = utterance.load()[0]
    return Utterance(name, utterance.text if text is None else text, "joe", partial(give, change(samples), rate))


def drops(out):
    rows = [line.split("\t") for line in (out / "dropped.tsv").read_text().splitlines()]
    assert rows[0] == ["id", "reason", "detail"]
    return {row[0]: (row[1], row[2]) for row in rows[1:]}


def snapshot(out):
    return {
        str(path.relative_to(out)): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_output_is_whole_and_correct(corpus, tmp_path, capsys):
    out = tmp_path / "data"
    (out / "fbank").mkdir(parents=True)
    (out / "fbank" / "x").write_text("keep me")
    report = prepare(corpus, out, "en", expected_rate=11025)
    assert (out / "fbank" / "x").read_text() == "keep me"
    assert sorted(p.name for p in out.iterdir()) == [
        "audio",
        "dropped.tsv",
        "fbank",
        "manifests",
        "report.json",
        "report.txt",
    ]
    assert capsys.readouterr().out == (out / "report.txt").read_text()
    assert json.loads((out / "report.json").read_text()) == report

    by_id = {one.id: one for one in corpus}
    recordings = lhotse.load_manifest(out / "manifests/recordings.jsonl.gz")
    supervisions = lhotse.load_manifest(out / "manifests/supervisions.jsonl.gz")
    assert len(recordings) == len(supervisions) == len(list((out / "audio").iterdir())) == report["kept"]
    total = 0
    for split in ("train", "dev", "test"):
        cuts = lhotse.CutSet.from_file(out / f"manifests/cuts_{split}.jsonl.gz").to_eager()
        lhotse.validate(cuts, read_data=True)
        mini = lhotse.CutSet.from_file(out / f"manifests/cuts_mini_{split}.jsonl.gz").to_eager()
        assert 0 < len(mini) < len(cuts) and set(mini.ids) <= set(cuts.ids)
        sizes = report["splits"][split]
        words = [word for cut in cuts for word in cut.supervisions[0].text.split()]
        assert (sizes["utterances"], sizes["words"], sizes["vocabulary"]) == (len(cuts), len(words), len(set(words)))
        assert sizes["minutes"] == round(sum(cut.duration for cut in cuts) / 60, 1)
        for cut in cuts:
            source, supervision = by_id[cut.id], cut.supervisions[0]
            value = int(hashlib.sha1(supervision.text.encode()).hexdigest(), 16) % 100
            assert split == ("test" if value < 10 else "dev" if value < 15 else "train")
            assert supervision.custom["text_raw"] == source.text and supervision.speaker == source.speaker
            samples, rate = source.load()
            audio = cut.load_audio()
            assert audio.shape == (1, cut.num_samples) and abs(cut.num_samples / 16000 - len(samples) / rate) < 1e-3
            at_source_rate = soxr.resample(audio[0], 16000, rate)[: len(samples)]
            assert np.corrcoef(at_source_rate, samples[: len(at_source_rate)])[0, 1] > 0.99
            total += 1
    assert total == report["kept"]


BAD = [
    ("unreadable audio", "RuntimeError: bad frame in a broken file", {"load": explode}),
    ("unreadable audio", "is not (samples,) or", {"change": lambda x: x[None, :]}),
    ("wrong sampling rate", "8000 Hz instead of 11025 Hz", {"rate": 8000}),
    ("empty audio", "no samples", {"change": lambda x: x[:0]}),
    ("non-finite samples", "1 of ", {"change": lambda x: np.r_[np.float32("nan"), x]}),
    ("silent audio", " s", {"change": lambda x: np.full_like(x, 0.25)}),
    ("empty text", "...!", {"text": "...!"}),
    ("control characters in text", "U+0007 U+FFFD in: be\\x07ll \ufffd", {"text": "be\x07ll \ufffd"}),
    ("digits or symbols in text", "47 in: 747 jets", {"text": "747 jets"}),
    ("digits or symbols in text", "& in: this & that", {"text": "this & that"}),
    ("a sound instead of words", "<sneeze>", {"text": "<sneeze>"}),
    ("character outside the alphabet", "éж in: cafe\u0301 ж", {"text": "cafe\u0301 ж"}),
    ("too short", "0.100 s", {"change": lambda x: x[:1103]}),
    ("too long", "30.01 s", {"change": lambda x: np.resize(x, 330880)}),
    ("too fast for its text", "200 characters in", {"text": "ab " * 66 + "ab"}),
    ("too slow for its text", "2 characters in 9.00 s", {"text": "No.", "change": lambda x: np.resize(x, 99225)}),
    ("clipped audio", "% of the samples", {"change": lambda x: np.clip(x * 100, -1, 1)}),
]


@pytest.mark.parametrize(("reason", "detail", "how"), BAD, ids=[f"{r}:{d}" for r, d, _ in BAD])
def test_bad_utterance_is_one_listed_drop(corpus, tmp_path, reason, detail, how):
    odd = Utterance("odd", "fine", "joe", how["load"]) if "load" in how else altered(corpus[0], **how)
    report = prepare([*corpus[1:], odd], tmp_path, "en", expected_rate=11025)
    found = drops(tmp_path)["odd"]
    assert found[0] == reason and detail in found[1]
    assert report["dropped_by_reason"][reason] == sum(one[0] == reason for one in drops(tmp_path).values())
    assert not (tmp_path / "audio/odd.flac").exists()


def test_duplicates_keep_one(corpus, tmp_path):
    again = altered(corpus[0], name="zz", text="quite another text")
    same_id = Utterance(corpus[1].id, "yet another text", "joe", corpus[2].load)
    prepare([*corpus, again, same_id], tmp_path, "en")
    found = drops(tmp_path)
    assert found["zz"] == ("duplicate audio", f"same samples as {corpus[0].id}")
    assert found[corpus[1].id] == ("duplicate id", "yet another text")
    assert (tmp_path / f"audio/{corpus[0].id}.flac").exists() and not (tmp_path / "audio/zz.flac").exists()


def test_clipping_warns_and_overshoot_is_turned_down_not_cut(corpus, tmp_path):
    loud = corpus[0].load()[0] / np.abs(corpus[0].load()[0]).max()
    share = float(np.quantile(np.abs(loud), 0.98))
    clipped = altered(corpus[0], name="clipped", change=lambda _: np.clip(loud / share, -1, 1))
    over = Utterance("over", corpus[1].text, "joe", partial(give, 1.5 * corpus[1].load()[0], 11025))
    before = prepare(corpus, tmp_path, "en")["warnings"]["clipped"]
    report = prepare([*corpus, clipped, over], tmp_path, "en", max_bad=0.5)
    assert report["warnings"]["clipped"] >= before + 1
    quiet, loud_out = (soundfile.read(tmp_path / f"audio/{one}.flac")[0] for one in (corpus[1].id, "over"))
    assert np.abs(loud_out).max() <= 1 and np.corrcoef(quiet, loud_out)[0, 1] > 0.9999


def test_stereo_of_another_rate_becomes_16k_mono(corpus, tmp_path):
    time_axis = np.arange(44100 * 2) / 44100
    tone = np.float32(0.4) * np.sin(2 * np.pi * 1000 * time_axis).astype(np.float32)
    stereo = Utterance("tone", "a steady tone", "x", partial(give, np.stack([tone, 0.5 * tone], axis=1), 44100))
    prepare([*corpus, stereo], tmp_path, "en")
    samples, rate = load_file(tmp_path / "audio/tone.flac")
    assert rate == 16000 and samples.shape == (32000, 1)
    expected = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(32000) / 16000)
    np.testing.assert_allclose(samples[800:-800, 0], expected[800:-800], atol=1e-3)


def test_same_output_for_any_number_of_jobs(corpus, tmp_path):
    bad = [Utterance(f"bad{n}", "fine", "joe", explode) for n in range(3)]
    prepare([*corpus, *bad], tmp_path, "en", jobs=1)
    one = snapshot(tmp_path)
    prepare([*corpus, *bad], tmp_path, "en", jobs=2)
    assert snapshot(tmp_path) == one and len(one) > CLIPS


def test_too_many_drops_is_an_error_and_leaves_the_old_output(corpus, tmp_path):
    prepare(corpus, tmp_path, "en")
    before = snapshot(tmp_path)
    bad = [Utterance(f"bad{n}", "fine", "joe", explode) for n in range(40)]
    with pytest.raises(UserError, match=r"dropped \(more than 10%\); most often: unreadable audio \(40, such as bad0"):
        prepare([*corpus, *bad], tmp_path, "en")
    after = snapshot(tmp_path)
    assert "bad39\tunreadable audio" in (tmp_path / "dropped.failed.tsv").read_text()
    assert {name: digest for name, digest in after.items() if name != "dropped.failed.tsv"} == before
    prepare(corpus, tmp_path, "en")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("folder", ["audio", "manifests"])
def test_recordings_that_lie_in_the_data_folder_are_not_replaced(corpus, tmp_path, folder):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "mine.wav").write_bytes(b"the only copy")
    with pytest.raises(UserError, match=rf"{folder} is not of a preparation \(report.json is missing"):
        prepare(corpus, tmp_path, "en")
    assert (tmp_path / folder / "mine.wav").read_bytes() == b"the only copy"
    (tmp_path / folder / "mine.wav").unlink()
    (tmp_path / folder).rmdir()
    assert prepare(corpus, tmp_path, "en"), "and the folder is not locked"


def test_other_sound_of_the_same_length_makes_another_manifest(corpus, tmp_path):
    from dataclasses import replace

    prepare(corpus, tmp_path, "en")
    before = snapshot(tmp_path)
    samples, rate = corpus[0].load()
    prepare([replace(corpus[0], load=partial(give, samples * 0.5, rate)), *corpus[1:]], tmp_path, "en")
    changed = {name for name, digest in snapshot(tmp_path).items() if digest != before[name]}
    assert any("cuts_" in name for name in changed), changed


def test_empty_split_no_utterances_unknown_split(corpus, tmp_path):
    from dataclasses import replace

    with pytest.raises(UserError, match="no utterance is left for dev, test"):
        prepare([replace(one, split="train") for one in corpus], tmp_path, "en")
    with pytest.raises(UserError, match="no utterances at all"):
        prepare([], tmp_path, "en")
    with pytest.raises(UserError, match=r"unknown split 'valid' \(known: train, dev, test, or further"):
        prepare([replace(corpus[0], split="valid")], tmp_path, "en")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dropped.failed.tsv"]


def test_ids_cannot_leave_the_folder_nor_collide(corpus, tmp_path):
    from dataclasses import replace

    names = ["../../evil", "a/b", "a_b", "/etc/x", "-rf", "é", "x" * 300]
    renamed = [replace(one, id=name) for one, name in zip(corpus, names, strict=False)]
    report = prepare([*renamed, *corpus[len(names) :]], tmp_path / "out", "en")
    files = {path.name for path in (tmp_path / "out/audio").iterdir()}
    assert len(files) == report["kept"] and {f"{safe_id(name)}.flac" for name in names} <= files
    assert len({safe_id(name) for name in names}) == len(names) and [p.name for p in tmp_path.iterdir()] == ["out"]


def test_splits_and_subsets():
    assert split_of("x", (("dev", 10), ("test", 22), ("train", 100))) in ("train", "dev", "test")
    with pytest.raises(ValueError, match="rise to 100"):
        check_bounds((("test", 10), ("dev", 5), ("train", 100)))
    ids = [f"utt{n}" for n in range(5000)]
    assert 0.10 < len(mini_ids(ids)) / 5000 < 0.14 and mini_ids(ids[::-1]) == mini_ids(ids)
    assert mini_ids(ids[:2500]) == mini_ids(ids) & set(ids[:2500]), "a subset must not change with the corpus"
    assert len(mini_ids(["one"])) == 1


def script(tmp_path, loader, jobs):
    """A recipe of its own process: real speech files, one of them behind `loader`."""
    path = tmp_path / "recipe.py"
    path.write_text(
        f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(Path(__file__).parent)!r}]
from functools import partial
from pathlib import Path
from ctcsd.data.prepare import Utterance, load_file, prepare
from ctcsd.errors import one_line_errors
import test_prepare
if __name__ == "__main__":
    files = sorted(Path({str(tmp_path)!r}, "speech").glob("*.flac"))
    texts = [path.with_suffix(".txt").read_text() for path in files]
    utterances = [Utterance(f.stem, t, "x", partial(load_file, f)) for f, t in zip(files, texts)]
    if {loader!r}:
        utterances.append(Utterance("odd", "odd one", "x", getattr(test_prepare, {loader!r})))
    with one_line_errors():
        prepare(utterances, {str(tmp_path / "out")!r}, "en", jobs={jobs})
"""
    )
    return [sys.executable, str(path)]


@pytest.fixture
def speech(corpus, tmp_path):
    prepare(corpus, tmp_path / "first", "en")
    (tmp_path / "first/audio").rename(tmp_path / "speech")
    for one in corpus:
        (tmp_path / f"speech/{one.id}.txt").write_text(one.text)
    return tmp_path


def one_line(stderr):
    """The last line, after the progress bar."""
    lines = stderr.replace("\r", "\n").strip().splitlines()
    assert not any("Traceback" in line for line in lines), stderr
    return lines[-1]


def test_killed_run_leaves_nothing_that_looks_whole(speech):
    out = speech / "out"
    process = subprocess.Popen(script(speech, "wait", 2), stderr=subprocess.DEVNULL, start_new_session=True)
    for _ in range(600):
        if len(list((out / ".preparing/audio").glob("*"))) > 20:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [path.name for path in out.iterdir()] == [".preparing"]
    for _ in range(100):  # the workers end with their parent
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("workers outlive their parent")
    assert subprocess.run(script(speech, "", 2), capture_output=True).returncode == 0
    assert not (out / ".preparing").exists() and (out / "manifests/cuts_train.jsonl.gz").exists()


def test_second_run_into_the_same_folder_is_refused(speech):
    process = subprocess.Popen(script(speech, "wait", 1), stderr=subprocess.DEVNULL)
    while not (speech / "out/.preparing/audio").exists():
        time.sleep(0.1)
    done = subprocess.run(script(speech, "", 1), capture_output=True, text=True)
    process.kill()
    process.wait()
    assert done.returncode == 1
    assert one_line(done.stderr) == f"error: another preparation is writing into {speech / 'out'}"


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_the_system_refuses_is_one_line(speech, jobs):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (15000, 15000))  # like a full disk: writes fail

    done = subprocess.run(script(speech, "", jobs), capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1 and one_line(done.stderr).startswith("error: ")
    assert "File too large" in one_line(done.stderr)
    assert list((speech / "out").iterdir()) == []


def test_a_decoder_that_crashes_costs_one_utterance(speech):
    done = subprocess.run(script(speech, "die", 2), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split("\t") for line in (speech / "out/dropped.tsv").read_text().splitlines()]
    assert [row[:2] for row in rows[1:]] == [["odd", "unreadable audio"]]
    assert rows[1][2].startswith("the process that read it died")
    kept, first = (len(list((speech / folder).glob("*.flac"))) for folder in ("out/audio", "speech"))
    assert kept == first > 0


def test_processes_that_die_again_and_again_are_one_line(monkeypatch):
    monkeypatch.setattr(workers, "MOST_CRASHES", 1)
    found = workers.in_processes(os._exit, [3, 4, 5], 2, "dying", "task", str)
    assert next(found) == "3"
    with pytest.raises(UserError, match="die again and again"):
        next(found)


def test_one_line_errors(capsys):
    for error, code, line in (
        (UserError("first\n  second"), 1, "error: first second\n"),
        (FileNotFoundError(2, "x", "corpus.tsv"), 1, "error: corpus.tsv: No such file or directory\n"),
        (OSError("odd"), 1, "error: odd\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ):
        with pytest.raises(SystemExit) as caught, one_line_errors():
            raise error
        assert caught.value.code == code and capsys.readouterr().err == line
    with pytest.raises(ZeroDivisionError), one_line_errors():
        raise ZeroDivisionError
