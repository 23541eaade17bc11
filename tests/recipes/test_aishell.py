"""The recipe aishell on a stand-in of its layout made of real speech: archives in an archive, one list of texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lhotse
import pytest
import soundfile
from console import REPOSITORY
from lhotse.recipes.aishell import prepare_aishell
from speech import clips
from stand_ins import drops, pack, recipe_module, results, run_recipe

from ctcsd.config import load_config
from ctcsd.data.checks import Limits, check_signal

recipe = recipe_module("aishell")
SPEAKERS = {"train": "S0002", "dev": "S0724", "test": "S0764"}
WORDS = "今天 天气 很 好 我们 去 公园 散步 你 喜欢 吗"


@pytest.fixture(scope="session")
def corpora(tmp_path_factory):
    """data_aishell as it is when unpacked: 12, 4 and 4 utterances."""
    folder = tmp_path_factory.mktemp("aishell") / "data_aishell"
    speech, lines = clips(20), []
    for split, speaker in SPEAKERS.items():
        (folder / "wav" / split / speaker).mkdir(parents=True)
        for number in range(12 if split == "train" else 4):
            name = f"BAC009{speaker}W{number:04}"
            soundfile.write(folder / "wav" / split / speaker / f"{name}.wav", speech.pop()[1], 16000)
            words = WORDS.split()
            lines.append(f"{name} {' '.join(words[number % 7 :])} ａ{' '.join(words[: number % 7])}\n")
    (folder / "transcript").mkdir()
    (folder / recipe.TRANSCRIPTS).write_text("".join(lines), encoding="utf-8")
    return folder.parent


def prepare(dl_dir, out, incomplete=True):
    recipe.main(dl_dir=dl_dir, out=out, incomplete=incomplete, jobs=1)
    return json.loads((out / "report.json").read_text())


def test_same_as_lhotses_own_recipe(corpora, tmp_path):
    report = prepare(corpora, tmp_path / "data")
    assert (report["kept"], report["dropped"], report["language"]) == (20, 0, "zh")
    theirs = prepare_aishell(corpora)
    for split, speaker in SPEAKERS.items():
        cuts = lhotse.CutSet.from_file(tmp_path / f"data/manifests/cuts_{split}.jsonl.gz").to_eager()
        lhotse.validate(cuts, read_data=True)
        # theirs writes the letters among the characters in capitals
        assert {one.id: one.text.lower() for one in theirs[split]["supervisions"]} == {
            cut.id: cut.supervisions[0].text for cut in cuts
        }
        assert {cut.supervisions[0].speaker for cut in cuts} == {speaker}
        sources = {Path(cut.recording.sources[0].source) for cut in cuts}
        assert sources == set((corpora / "data_aishell/wav" / split / speaker).iterdir())


@pytest.mark.parametrize("below", ["", "aishell"])
def test_archive_of_archives(corpora, tmp_path, monkeypatch, below):
    tree = tmp_path / "tree/data_aishell"
    shutil.copytree(corpora / "data_aishell", tree)
    for split, speaker in SPEAKERS.items():
        pack(tree / "wav" / split, tree / "wav" / f"{speaker}.tar.gz")
        shutil.rmtree(tree / "wav" / split)
    place = tmp_path / "dl" / below  # lhotse puts it into a folder of its own
    place.mkdir(parents=True)
    monkeypatch.setattr(recipe, "CHECKSUM", pack(tree, place / "data_aishell.tgz"))
    assert prepare(tmp_path / "dl", tmp_path / "data")["kept"] == 20
    assert not list((tmp_path / "dl").rglob("*.tar.gz"))


def test_archives_of_speakers_that_are_still_packed(corpora, tmp_path, capsys):
    """The user unpacked the archive alone, or only some of those inside; what is unpacked is not unpacked again."""
    folder = tmp_path / "dl/data_aishell"
    shutil.copytree(corpora / "data_aishell", folder)
    for split, speaker in SPEAKERS.items():
        pack(folder / "wav" / split, folder / "wav" / f"{speaker}.tar.gz")
        if split != "train":
            shutil.rmtree(folder / "wav" / split)
    assert prepare(tmp_path / "dl", tmp_path / "data")["kept"] == 20
    said = capsys.readouterr().out
    assert "unpacking S0724.tar.gz" in said and "unpacking S0764.tar.gz" in said and "unpacking S0002" not in said
    assert prepare(tmp_path / "dl", tmp_path / "again")["kept"] == 20 and "unpacking" not in capsys.readouterr().out
    packed = {f"{speaker}.tar.gz" for speaker in SPEAKERS.values()}
    assert {path.name for path in (folder / "wav").iterdir()} == {*SPEAKERS, *packed}


@pytest.mark.slow
def test_all_stages_on_a_stand_in(corpora, tmp_path):
    """Stages 0 to 5 without a language model, as the recipe has it: a text is one long word, and its CER counts."""
    run_recipe("aishell", tmp_path, f"--incomplete --dl-dir {corpora}")
    rows = {row["split"]: row for row in results(tmp_path)}
    assert set(rows) == {"dev", "test"} and rows["test"]["corpus"] == "aishell"
    assert rows["test"]["words"] == 4 and 0 < rows["test"]["cer_low"] <= rows["test"]["cer"]
    assert (tmp_path / "data/lang_char/tokens.txt").is_file() and not list(tmp_path.rglob("lm.arpa"))
    assert "test CER" in (tmp_path / "exp/RESULTS.md").read_text()


def test_partners_that_are_missing_are_listed_and_a_missing_split_is_one_line(corpora, tmp_path, capsys):
    shutil.copytree(corpora, tmp_path / "dl")
    folder = tmp_path / "dl/data_aishell"
    (folder / "wav/dev/S0724/BAC009S0724W0001.wav").unlink()
    texts = (folder / recipe.TRANSCRIPTS).read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / recipe.TRANSCRIPTS).write_text("".join(texts[1:]), encoding="utf-8")
    prepare(tmp_path / "dl", tmp_path / "data")
    assert drops(tmp_path / "data") == {
        "BAC009S0002W0000": "missing transcript",
        "BAC009S0724W0001": "missing audio",
    }
    with pytest.raises(SystemExit):
        prepare(tmp_path / "dl", tmp_path / "data", incomplete=False)
    assert "dev has 3 of 14,326 utterances; test has 4 of 7,176 utterances: unpack" in capsys.readouterr().err
    shutil.rmtree(folder / "wav/test")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        prepare(tmp_path / "dl", tmp_path / "data")
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "wav/test holds no audio" in said


def test_limits_fit_syllables():
    """Slow speech at two characters a second: the common limits would leave it out."""
    samples = soundfile.read(REPOSITORY / "egs/fotaq/data/audio/020006J1.flac")[0]
    slow = samples.repeat(1 + 12 * 16000 // len(samples))[: 12 * 16000]
    assert check_signal(slow, 16000, 24, recipe.LIMITS) is None
    assert check_signal(slow, 16000, 24, Limits()).reason == "too slow for its text"


@pytest.mark.parametrize("preset", [None, "quick", "full"])
def test_every_configuration_loads(preset):
    files = [REPOSITORY / "egs/aishell/conf/corpus.yaml"]
    cfg = load_config(files + ([REPOSITORY / f"egs/aishell/conf/{preset}.yaml"] if preset else []))
    assert cfg.lang.lm_order == 0 and cfg.student_layers < cfg.model.layers
    assert preset == "quick" or 14.6 / min(cfg.features.speeds) <= cfg.data.max_seconds  # the longest, slowed down
