"""The recipe custom: the same real speech as TSV, JSON lines, Kaldi data and lhotse manifests gives the same corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile
import soxr
import typer
from speech import clips
from stand_ins import drops, recipe_module
from typer.testing import CliRunner

from ctcsd.data.splits import split_of

app = typer.Typer()
app.command()(recipe_module("custom").main)
COUNT = 60


@pytest.fixture(scope="session")
def speech():
    # In another order of words: those of fotaq's training set all have hashes of the training set.
    return [(" ".join(reversed(text.split())), samples) for text, samples in clips(COUNT)]


@pytest.fixture(scope="session")
def wavs(speech, tmp_path_factory):
    """A folder of WAV files at 16 kHz, in sub-folders."""
    folder = tmp_path_factory.mktemp("wavs")
    (folder / "a").mkdir()
    for number, (_, samples) in enumerate(speech):
        soundfile.write(folder / f"a/{number:02}.wav", samples, 16000)
    return folder


def prepare(out, *arguments, code=0):
    done = CliRunner().invoke(app, ["--out", str(out), "--jobs", "1", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output.replace("\r", "\n").strip().splitlines()[-1]


def corpus(out):
    """split -> text -> (speaker, samples)."""
    found = {}
    for split in ("train", "dev", "test"):
        cuts = lhotse.CutSet.from_file(out / f"manifests/cuts_{split}.jsonl.gz")
        found[split] = {c.supervisions[0].text: (c.supervisions[0].speaker, c.num_samples) for c in cuts}
    return found


def write_tsv(path, speech, header=False):
    rows = [f"a/{n:02}.wav\t{text}\tspk{n % 3}\n" for n, (text, _) in enumerate(speech)]
    if header:
        rows = ["sentence\tpath\tclient_id\n"] + [
            f"{text}\ta/{n:02}.wav\tspk{n % 3}\n" for n, (text, _) in enumerate(speech)
        ]
    path.write_text("".join(rows), encoding="utf-8")
    return path


def write_jsonl(path, speech):
    rows = [
        {"audio_filepath": f"a/{n:02}.wav", "text": text, "speaker": f"spk{n % 3}"}
        for n, (text, _) in enumerate(speech)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_kaldi(folder, speech, wavs):
    """All clips in one long recording, found again by segments."""
    folder.mkdir()
    soundfile.write(folder / "long.flac", np.concatenate([samples for _, samples in speech]), 16000)
    (folder / "wav.scp").write_text(f"rec {folder / 'long.flac'}\n")
    at, lines = 0, {"text": [], "utt2spk": [], "segments": []}
    for number, (text, samples) in enumerate(speech):
        lines["text"].append(f"u{number:02} {text}\n")
        lines["utt2spk"].append(f"u{number:02} spk{number % 3}\n")
        lines["segments"].append(f"u{number:02} rec {at / 16000:.6f} {(at + len(samples)) / 16000:.6f}\n")
        at += len(samples)
    for name, content in lines.items():
        (folder / name).write_text("".join(content))
    return folder


def write_lhotse(folder, speech, wavs):
    recordings = [lhotse.Recording.from_file(wavs / f"a/{n:02}.wav") for n in range(len(speech))]
    supervisions = [
        lhotse.SupervisionSegment(f"s{one.id}", one.id, 0.0, one.duration, text=text, speaker=f"spk{int(one.id) % 3}")
        for one, (text, _) in zip(recordings, speech)
    ]
    folder.mkdir()
    lhotse.RecordingSet.from_recordings(recordings).to_file(folder / "recordings.jsonl.gz")
    lhotse.SupervisionSet.from_segments(supervisions).to_file(folder / "supervisions.jsonl.gz")
    cuts = lhotse.CutSet.from_manifests(
        lhotse.RecordingSet.from_recordings(recordings), lhotse.SupervisionSet.from_segments(supervisions)
    )
    cuts.to_file(folder.with_suffix(".jsonl.gz"))
    return folder


def test_every_kind_of_table_gives_the_same_corpus(speech, wavs, tmp_path):
    tables = {
        "tsv": (write_tsv(tmp_path / "t.tsv", speech), "--audio", wavs),
        "named": (write_tsv(tmp_path / "named.tsv", speech, header=True), "--audio", wavs),
        "jsonl": (write_jsonl(tmp_path / "t.jsonl", speech), "--audio", wavs),
        "kaldi": (write_kaldi(tmp_path / "kaldi", speech, wavs),),
        "lhotse": (write_lhotse(tmp_path / "manifests", speech, wavs),),
        "cuts": (tmp_path / "manifests.jsonl.gz",),
    }
    found = {}
    for kind, (table, *options) in tables.items():
        prepare(tmp_path / kind, "--transcripts", table, *options)
        found[kind] = corpus(tmp_path / kind)
    expected = {split: {} for split in ("train", "dev", "test")}
    for number, (text, samples) in enumerate(speech):
        expected[split_of(text)][text] = (f"spk{number % 3}", len(samples))
    for kind, content in found.items():
        assert content == expected, kind


def test_manifests_as_lhotses_recipes_name_them(speech, wavs, tmp_path):
    """A pair of files per part; those whose part is no split's name are split by hash."""
    whole, folder = write_lhotse(tmp_path / "whole", speech, wavs), tmp_path / "parts"
    folder.mkdir()
    parts = {"train-clean-100": 0, "valid": 1, "test": 2, "other-500": 3, "test-clean": 4}
    for kind in ("recordings", "supervisions"):
        manifest = lhotse.load_manifest(whole / f"{kind}.jsonl.gz")
        for part, number in parts.items():
            chosen = manifest.filter(lambda one, wanted=number: int(one.id[-2:]) % 5 == wanted)
            chosen.to_file(folder / f"my_{kind}_{part}.jsonl.gz")
    prepare(tmp_path / "out", "--transcripts", folder)
    found = corpus(tmp_path / "out")
    for split, number in (("train", 0), ("dev", 1), ("test", 2)):
        named = {text for text, _ in speech[number::5]}
        assert named <= set(found[split])
        assert set(found[split]) - named == {text for text, _ in speech[3::5] if split_of(text) == split}
    cuts = lhotse.load_manifest(tmp_path / "out/manifests/cuts_test_clean.jsonl.gz")
    assert {cut.supervisions[0].text for cut in cuts} == {text for text, _ in speech[4::5]}


def test_rates_channels_and_splits(speech, wavs, tmp_path):
    """8 kHz and stereo beside 16 kHz mono; splits by speaker, from a column, or a table each."""
    folder = tmp_path / "audio"
    folder.mkdir()
    rows = []
    for number, (text, samples) in enumerate(speech):
        other = np.roll(samples, 800)
        if number % 3 == 0:
            soundfile.write(folder / f"{number}.wav", soxr.resample(samples, 16000, 8000), 8000)
        else:
            soundfile.write(
                folder / f"{number}.wav", np.stack([samples, other], 1) if number % 3 == 1 else samples, 16000
            )
        split = ("training", "dev", "test")[number % 3]
        rows.append(f"{number}.wav\t{text}\tspk{number // 3}\t{split}\n")
    (folder / "t.tsv").write_text("".join(rows))
    prepare(tmp_path / "left", "--transcripts", folder / "t.tsv", "--stereo", "left")
    left = corpus(tmp_path / "left")
    assert {split: len(texts) for split, texts in left.items()} == {"train": 20, "dev": 20, "test": 20}
    assert all(rate == 16000 for rate in rates(tmp_path / "left"))
    for text, samples in speech[1::3]:
        kept = audio_of(tmp_path / "left", "dev", text)
        assert np.corrcoef(kept, samples)[0, 1] > 0.9999
    said = prepare(tmp_path / "drop", "--transcripts", folder / "t.tsv", "--stereo", "drop", code=1)
    assert "20 of 60 utterances dropped (more than 10%); most often: more than one channel" in said

    three = [folder / f"{name}.tsv" for name in ("train", "dev", "test")]
    for number, path in enumerate(three):
        path.write_text("".join(row.rsplit("\t", 1)[0] + "\n" for row in rows[number::3]))
    prepare(tmp_path / "three", "--train", three[0], "--dev", three[1], "--test", three[2], "--stereo", "left")
    assert corpus(tmp_path / "three") == left
    assert "all of --train, --dev and --test" in prepare(tmp_path / "x", "--train", three[0], code=1)

    (folder / "t.tsv").write_text("".join(row.rsplit("\t", 1)[0] + "\n" for row in rows))
    prepare(tmp_path / "speakers", "--transcripts", folder / "t.tsv", "--split-by", "speaker")
    by_speaker = corpus(tmp_path / "speakers")
    for split, texts in by_speaker.items():
        assert texts and {split_of(speaker) for speaker, _ in texts.values()} == {split}


def rates(out):
    return {soundfile.info(path).samplerate for path in (out / "audio").iterdir()}


def audio_of(out, split, text):
    cuts = lhotse.CutSet.from_file(out / f"manifests/cuts_{split}.jsonl.gz")
    return next(cut for cut in cuts if cut.supervisions[0].text == text).load_audio()[0]


def test_partners_that_are_missing_are_listed(speech, wavs, tmp_path):
    table = write_tsv(tmp_path / "t.tsv", speech)
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join([*rows[1:], "a/none.wav\tnobody says this\n"]))
    prepare(tmp_path / "tsv", "--transcripts", table, "--audio", wavs)
    assert drops(tmp_path / "tsv") == {"a/00.wav": "missing transcript", "a/none": "missing audio"}
    kaldi = write_kaldi(tmp_path / "kaldi", speech, wavs)
    texts = (kaldi / "text").read_text().splitlines(keepends=True)
    (kaldi / "text").write_text("".join([*texts[1:], "v nobody says this\n"]))
    prepare(tmp_path / "out", "--transcripts", kaldi)
    assert drops(tmp_path / "out") == {"u00": "missing transcript", "v": "missing audio"}


def test_tables_of_splits_may_leave_out_most_of_the_audio(speech, wavs, tmp_path):
    rows = write_tsv(tmp_path / "t.tsv", speech).read_text().splitlines(keepends=True)
    options = ["--audio", wavs]
    for i, split in enumerate(("train", "dev", "test")):
        (tmp_path / f"{split}.tsv").write_text(rows[i])
        options += [f"--{split}", tmp_path / f"{split}.tsv"]
    prepare(tmp_path / "out", *options)
    left_out = drops(tmp_path / "out")
    assert len(left_out) == len(rows) - 3 and set(left_out.values()) == {"missing transcript"}


@pytest.mark.parametrize("kind", ["kaldi", "lhotse", "cuts"])
def test_relative_names_are_found_from_anywhere(speech, wavs, tmp_path, monkeypatch, kind):
    """Below --audio, the current folder, the table's or one above it, in this order."""
    project, elsewhere = tmp_path / "project", tmp_path / "elsewhere"
    shutil.copytree(wavs, project / "wavs")
    elsewhere.mkdir()
    monkeypatch.chdir(project)  # where a recipe of Kaldi stood when it wrote its tables
    (project / "data").mkdir()
    table = project / "data/train"
    if kind == "kaldi":
        table.mkdir()
        (table / "wav.scp").write_text("".join(f"u{n:02} wavs/a/{n:02}.wav\n" for n in range(COUNT)))
        (table / "text").write_text("".join(f"u{n:02} {text}\n" for n, (text, _) in enumerate(speech)))
    else:
        write_lhotse(table, speech, Path("wavs"))
        table = table if kind == "lhotse" else table.with_suffix(".jsonl.gz")
    found = {}
    for name, folder, given, options in (
        ("there", project, table.relative_to(project), ()),
        ("above", elsewhere, table, ()),
        ("audio", elsewhere, table, ("--audio", project)),
    ):
        monkeypatch.chdir(folder)
        prepare(tmp_path / name, "--transcripts", given, *options)
        splits = corpus(tmp_path / name).values()
        found[name] = {text: samples for texts in splits for text, (_, samples) in texts.items()}
    assert found["there"] == {text: len(samples) for text, samples in speech}
    assert found["above"] == found["audio"] == found["there"]
    (elsewhere / "wavs/a").mkdir(parents=True)
    soundfile.write(elsewhere / "wavs/a/00.wav", speech[0][1], 16000)
    said = prepare(tmp_path / "current", "--transcripts", table, code=1)
    assert f"{COUNT - 1} of {COUNT} utterances dropped" in said, "the current folder comes first"


def test_segments_without_ids_and_tables_with_tabs(speech, wavs, tmp_path):
    """NeMo's rows name one file many times; Kaldi's files may part their columns with tabs."""
    kaldi = write_kaldi(tmp_path / "kaldi", speech, wavs)
    ends = np.cumsum([len(samples) for _, samples in speech]) / 16000
    rows = [
        {"audio_filepath": "long.flac", "offset": end - len(samples) / 16000, "duration": len(samples) / 16000}
        | {"text": text, "speaker": f"spk{number % 3}"}
        for number, (end, (text, samples)) in enumerate(zip(ends, speech))
    ]
    (kaldi / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(tmp_path / "nemo", "--transcripts", kaldi / "t.jsonl")
    for table in ("wav.scp", "text", "utt2spk"):
        lines = (kaldi / table).read_text().splitlines(keepends=True)
        (kaldi / table).write_text("".join(line.replace(" ", "\t", 1) for line in lines))
    prepare(tmp_path / "out", "--transcripts", kaldi)
    assert corpus(tmp_path / "nemo") == corpus(tmp_path / "out")
    assert sum(map(len, corpus(tmp_path / "out").values())) == COUNT and not drops(tmp_path / "out")


def test_the_output_below_the_audio_is_not_listed(speech, wavs, tmp_path):
    table, audio = write_tsv(tmp_path / "t.tsv", speech), tmp_path / "my"
    shutil.copytree(wavs, audio)
    for _ in range(2):
        prepare(audio / "data", "--transcripts", table, "--audio", audio)
        assert not drops(audio / "data")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.tsv", "one column\n", "t.tsv, line 1: 1 columns instead of 2 to 4"),
        ("t.tsv", "path\ttext\tspeaker\nd\te\n", "t.tsv, line 2: 2 columns instead of 3"),
        ("t.jsonl", '{"text": "x"}\n', "t.jsonl, line 1: needs a file"),
        ("t.jsonl", "x\n", "line 1 is not a JSON object"),
        ("t.jsonl", '{"audio": "a", "text": "x", "offset": "soon"}\n', "offset and duration are seconds"),
        ("k/wav.scp", "u touch {evil} |\n", "u is a command; convert the audio first"),
        ("k/nothing", "", "neither a Kaldi data folder"),
    ],
)
def test_malformed_tables_are_one_line_and_run_nothing(tmp_path, name, content, message):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content.replace("{evil}", str(tmp_path / "evil")))
    table = path.parent if path.parent.name == "k" else path
    said = prepare(tmp_path / "out", "--transcripts", table, code=1)
    assert said.startswith("error: ") and message in said and not (tmp_path / "evil").exists()
