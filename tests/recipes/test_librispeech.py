"""The recipe librispeech on stand-ins of its layout made of real speech, and what may be wrong with them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import lhotse
import pytest
import soundfile
from console import REPOSITORY, ctcsd
from lhotse.recipes.librispeech import prepare_librispeech
from speech import clips
from stand_ins import drops, librispeech_part, pack, recipe_module, results, run_recipe

from ctcsd.config import load_config
from ctcsd.data.checks import Drop
from ctcsd.data.prepare import Utterance, load_file
from ctcsd.data.recipe import check_counts
from ctcsd.errors import UserError

recipe = recipe_module("librispeech")
PARTS = {"train-clean-5": (84, 0, 24), "dev-clean-2": (1272, 24, 30), "test-clean": (1089, 30, 36)}


@pytest.fixture(scope="session")
def speech():
    found = clips(36)
    letters = Counter("".join(text for text, _ in found))
    # rare letters come first, into the training set: the units are made from it
    return sorted(found, key=lambda clip: min(letters[letter] for letter in clip[0]))


@pytest.fixture(scope="session")
def unpacked(speech, tmp_path_factory):
    """A folder with LibriSpeech's mini parts, as their archives unpack."""
    folder = tmp_path_factory.mktemp("corpora")
    for part, (speaker, first, last) in PARTS.items():
        librispeech_part(folder / "LibriSpeech" / part, speaker, speech[first:last])
    (folder / "LibriSpeech/SPEAKERS.TXT").write_text(";ID  |SEX| SUBSET\n")
    return folder


@pytest.fixture
def corpora(unpacked, tmp_path):
    """A copy that a test may damage."""
    shutil.copytree(unpacked, tmp_path / "corpora")
    return tmp_path / "corpora"


def prepare(dl_dir, out, size="mini", incomplete=True, **options):
    recipe.main(size=recipe.Size[size], dl_dir=dl_dir, out=out, incomplete=incomplete, jobs=1, **options)
    return json.loads((out / "report.json").read_text())


def cuts_of(out, split):
    return {cut.id: cut for cut in lhotse.CutSet.from_file(out / f"manifests/cuts_{split}.jsonl.gz")}


def test_same_as_lhotses_own_recipe_and_nothing_is_copied(unpacked, tmp_path):
    report = prepare(unpacked, tmp_path / "data")
    assert (report["kept"], report["dropped"]) == (36, 0) and not list((tmp_path / "data/audio").iterdir())
    theirs = prepare_librispeech(unpacked / "LibriSpeech", dataset_parts=list(PARTS), normalize_text="lower")
    for part, split in (("train-clean-5", "train"), ("dev-clean-2", "dev"), ("test-clean", "test")):
        ours = cuts_of(tmp_path / "data", split)
        lhotse.validate(lhotse.CutSet.from_cuts(ours.values()), read_data=True)
        assert {one.id: (one.text, one.speaker, one.duration) for one in theirs[part]["supervisions"]} == {
            name: (cut.supervisions[0].text, cut.supervisions[0].speaker, cut.duration) for name, cut in ours.items()
        }
        for recording in theirs[part]["recordings"]:
            assert Path(ours[recording.id].recording.sources[0].source).samefile(recording.sources[0].source)


def test_all_held_out_sets_and_limited_supervision(speech, tmp_path):
    dl_dir = tmp_path / "dl"
    for number, part in enumerate(recipe.HELD_OUT):
        librispeech_part(dl_dir / "LibriSpeech" / part, 100 + number, speech[4 * number : 4 * number + 4])
    for number, fold in enumerate(["1h/0/clean", "1h/0/other", "1h/5/clean", "9h/other"]):
        librispeech_part(dl_dir / "librispeech_finetuning" / fold, 200 + number, speech[16 + 5 * number :][:5])
    sizes = {"10min": {"200", "201"}, "1h": {"200", "201", "202"}, "10h": {"200", "201", "202", "203"}}
    for size, speakers in sizes.items():
        report = prepare(dl_dir, tmp_path / size, size)
        assert report["splits"]["train"]["utterances"] == 5 * len(speakers)
        train = cuts_of(tmp_path / size, "train").values()
        assert {cut.supervisions[0].speaker for cut in train} == speakers
        for number, split in enumerate(("dev", "dev_other", "test", "test_other")):
            assert {cut.supervisions[0].speaker for cut in cuts_of(tmp_path / size, split).values()} == {
                f"{100 + number}"
            }
    report = (tmp_path / "1h/report.txt").read_text().splitlines()
    assert [line.split()[0] for line in report[1:6]] == ["train", "dev", "test", "dev_other", "test_other"]


def test_archives_are_checked_and_unpacked(unpacked, tmp_path, monkeypatch, capsys):
    dl_dir = tmp_path / "dl"
    dl_dir.mkdir()
    for part in PARTS:
        folder = tmp_path / part / "LibriSpeech"
        shutil.copytree(unpacked / "LibriSpeech" / part, folder / part)
        monkeypatch.setitem(recipe.CHECKSUMS, part, pack(folder, dl_dir / f"{part}.tar.gz"))
    assert prepare(dl_dir, tmp_path / "data")["kept"] == 36
    assert {path.name for path in (dl_dir / "LibriSpeech").iterdir()} == set(PARTS)

    shutil.rmtree(dl_dir / "LibriSpeech/dev-clean-2")
    whole = (dl_dir / "dev-clean-2.tar.gz").read_bytes()
    (dl_dir / "dev-clean-2.tar.gz").write_bytes(whole[:-1] + b"?")
    said = failure(capsys, dl_dir, tmp_path / "again")
    assert "dev-clean-2.tar.gz: checksum mismatch" in said and "delete it and run again" in said


def test_language_model_lexicon_and_noise(unpacked, speech, tmp_path, monkeypatch):
    """Fetched into the download folder; links in OUT/lm, which the configurations and the README name."""
    dl_dir, out = tmp_path / "dl", tmp_path / "data"
    shutil.copytree(unpacked, dl_dir)
    (dl_dir / "lm").mkdir()
    files = ("3-gram.arpa.gz", "librispeech-lexicon.txt")
    for name in files:
        (dl_dir / "lm" / name).write_text(f"the official {name}")
        monkeypatch.setitem(recipe.CHECKSUMS, name, hashlib.md5((dl_dir / "lm" / name).read_bytes()).hexdigest())
    noise = tmp_path / "packed/musan/noise"
    noise.mkdir(parents=True)
    soundfile.write(noise / "noise-free-sound-0000.wav", speech[0][1], 16000)
    monkeypatch.setitem(recipe.CHECKSUMS, "musan", pack(noise.parent, dl_dir / "musan.tar.gz"))
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        prepare(Path("dl"), out, lm=recipe.Lm["3-gram"], musan=True)
        (dl_dir / "musan.tar.gz").unlink(missing_ok=True)  # what is unpacked needs no archive
    assert {path.name: path.read_text() for path in (out / "lm").iterdir()} == {n: f"the official {n}" for n in files}
    assert all((out / "lm" / name).samefile(dl_dir / "lm" / name) for name in files)
    done = ctcsd("noisy", "--data", out, "--noise", dl_dir / "musan/noise", "--snr", 10)
    assert done.returncode == 0 and len(cuts_of(out, "test_noise10")) == 6, done.stderr
    prepare(dl_dir, dl_dir, lm=recipe.Lm["3-gram"])  # the same folder for both
    assert all((dl_dir / "lm" / name).read_text() == f"the official {name}" for name in files)
    for name in ("student", "teacher"):
        cfg = load_config([REPOSITORY / f"egs/librispeech/conf/{file}.yaml" for file in ("corpus", f"paper_b/{name}")])
        assert cfg.lang.lexicon == "egs/librispeech/data/lm/librispeech-lexicon.txt"
        assert cfg.lang.lm_arpa == "egs/librispeech/data/lm/4-gram.arpa.gz" and cfg.lang.lm_order == 4


def failure(capsys, *arguments, **options):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        prepare(*arguments, **options)
    said = capsys.readouterr().err.replace("\r", "\n").splitlines()[-1]  # after the progress bar
    assert caught.value.code == 1 and said.startswith("error: ")
    return said


def test_missing_split_is_one_line(corpora, tmp_path, monkeypatch, capsys):
    from ctcsd.data import download

    monkeypatch.setattr(download, "PAUSE", 0.0)
    shutil.rmtree(corpora / "LibriSpeech/test-clean")
    said = failure(capsys, corpora, tmp_path / "data", mirror="http://127.0.0.1:9")
    assert "12/test-clean.tar.gz cannot be downloaded" in said and f"put it into {corpora}" in said
    (corpora / "LibriSpeech/test-clean").mkdir()
    assert "test-clean holds no transcripts" in failure(capsys, corpora, tmp_path / "data")


def test_partners_that_are_missing_and_damaged_files_are_listed(corpora, tmp_path, capsys):
    train = corpora / "LibriSpeech/train-clean-5/84"
    (train / "121000/84-121000-0001.flac").unlink()
    transcripts = train / "121005/84-121005.trans.txt"
    transcripts.write_text("".join(transcripts.read_text().splitlines(keepends=True)[1:]))
    damaged = train / "121010/84-121010-0002.flac"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    report = prepare(corpora, tmp_path / "data")
    expected = {
        "84-121000-0001": "missing audio",
        "84-121005-0000": "missing transcript",
        "84-121010-0002": "truncated audio",
    }
    assert drops(tmp_path / "data") == expected and report["kept"] == 33
    said = failure(capsys, corpora, tmp_path / "strict", max_bad=0.05)
    assert "3 of 36 utterances dropped (more than 5%)" in said
    assert drops(tmp_path / "strict", "dropped.failed.tsv") == expected


def test_utterances_that_are_missing_are_told_and_of_a_test_set_an_error(unpacked, tmp_path, monkeypatch, capsys):
    """As of an archive that was unpacked in part: whole chapters are neither text nor audio."""
    counts = {"test-clean": 7, "train-clean-5": 24}
    monkeypatch.setattr(recipe, "UTTERANCES", counts)
    said = failure(capsys, unpacked, tmp_path / "data", incomplete=False)
    assert "test-clean has 6 of 7 utterances: unpack it again, or go on without the others by --incomplete" in said
    assert prepare(unpacked, tmp_path / "data")["incomplete"] == ["test-clean has 6 of 7 utterances"]
    line = "incomplete: test-clean has 6 of 7 utterances"
    assert line in capsys.readouterr().out and line in (tmp_path / "data/report.txt").read_text()
    nothing = [("test-other", Utterance("x", "", "", load_file, drop=Drop("missing audio")))]
    with pytest.raises(UserError, match="test-other has 0 of 2,939 utterances"):
        check_counts(nothing, {"test-other": 2939}, go_on=False)
    counts.update({"test-clean": 6, "train-clean-5": 2500})
    found = prepare(unpacked, tmp_path / "data", incomplete=False)["incomplete"]
    assert found == ["train-clean-5 has 24 of 2,500 utterances"]
    counts.clear()
    assert prepare(unpacked, tmp_path / "data", incomplete=False)["incomplete"] == []
    assert "incomplete" not in (tmp_path / "data/report.txt").read_text()


@pytest.mark.parametrize("preset", [None, "quick", "full"])
def test_every_configuration_takes_the_longest_utterance(preset):
    files = [REPOSITORY / "egs/librispeech/conf/corpus.yaml"]
    cfg = load_config(files + ([REPOSITORY / f"egs/librispeech/conf/{preset}.yaml"] if preset else []))
    longest = 29.7 / min(cfg.features.speeds, default=1.0)  # seconds, in the training sets
    assert preset == "quick" or longest <= cfg.data.max_seconds <= cfg.data.max_duration
    assert cfg.student_layers < cfg.model.layers


@pytest.mark.slow
def test_all_stages_on_a_stand_in(unpacked, tmp_path):
    """Stages 0 to 5 by the shared driver; a second start skips what is there."""
    arguments = ("librispeech", tmp_path, f"--size mini --incomplete --dl-dir {unpacked}", "lang.lm_order=2")
    run_recipe(*arguments)
    rows = {(row["corpus"], row["split"]) for row in results(tmp_path)}
    assert rows == {("librispeech", "dev"), ("librispeech", "test")}
    assert "| ctc" in (tmp_path / "exp/RESULTS.md").read_text()
    (unpacked / "another_download.tgz").touch()  # the recipe itself fills this folder: no reason to prepare again
    assert "prepared: up to date" in run_recipe(*arguments, "--stop-stage", "0").stdout
