"""The recipe festvox_ru: its table of texts, and the whole recipe on a package made here of a few seconds of noise."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import pickle
import subprocess
import sys
from pathlib import Path

import lhotse
import numpy as np
import pytest
import soundfile

from ctcsd.config import load_config
from ctcsd.data.splits import check_bounds, split_of
from ctcsd.errors import UserError

RECIPE = Path(__file__).parents[2] / "egs/festvox_ru"


def load_recipe():
    spec = importlib.util.spec_from_file_location("festvox_ru_prepare", RECIPE / "local/prepare.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["festvox_ru_prepare"] = module
    spec.loader.exec_module(module)
    return module


recipe = load_recipe()


@pytest.fixture
def texts(tmp_path):
    """Write `etc/txt.done.data`; returns its path."""

    def write(content):
        path = tmp_path / "etc/txt.done.data"
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return path

    return write


def test_texts_and_stress_marks(texts):
    path = texts(
        '( ru_0001 "Прядь вол+ос, - за ухо." )\n\n'
        '  (ru_0002  "+Окна; глаз+а (з+аногу)?")\r\n'
        '( ru-3 "" )'  # an empty text is the business of the checks that follow
    )
    found = list(recipe.utterances(path))
    assert [(one.id, one.text) for one in found] == [
        ("ru_0001", "Прядь волос, - за ухо."),
        ("ru_0002", "Окна; глаза (заногу)?"),
        ("ru-3", ""),
    ]
    assert {(one.speaker, one.split) for one in found} == {("nsh", None)}
    soundfile.write(wav_of(path.parents[1], "ru_0002"), np.full(800, 0.25, np.float32), 16000)
    samples, rate = pickle.loads(pickle.dumps(found[1])).load()
    assert rate == 16000 and samples.shape == (800, 1)


def wav_of(voice, name):
    (voice / "wav").mkdir(exist_ok=True)
    return voice / f"wav/{name}.wav"


@pytest.mark.parametrize(
    "line",
    [
        "ru_0002 Без скобок",
        "( ru_0002 Без кавычек )",
        '( ru_0002 "Не закрыто )',
        '( ru_0002 "Не закрыто"',
        '( "Без имени" )',
        '( ru_0002 "Две" "строки" )',
        '( ru_0002 "\\"Прямая\\" речь" )',
        '( ../../ru_0002 "Вне папки" )',
    ],
)
def test_malformed_lines_are_named(texts, line):
    path = texts(f'( ru_0001 "Хорошо." )\n{line}\n')
    with pytest.raises(UserError, match=r"^txt.done.data, line 2: not of the form") as caught:
        list(recipe.utterances(path))
    assert "\n" not in str(caught.value)


SENTENCES = [f"первое {a} второе {b}" for a in "абвгд" for b in "клмнопрст"]
TROUBLE = {  # id -> text, samples, rate in Hz, and the reason of its drop
    "ru_9001": ("Нет записи", None, 16000, "missing audio"),
    "ru_9002": ("Чужая частота", 22050, 22050, "wrong sampling rate"),
    "ru_9003": ("Глава 7", 16000, 16000, "digits or symbols in text"),
    "ru_9004": ("Слово word", 16000, 16000, "character outside the alphabet"),
}


@pytest.fixture
def deb(tmp_path, monkeypatch):
    """A package of the known name and layout, whose checksum the recipe accepts."""
    tree = tmp_path / "tree"
    texts = tree / recipe.TEXTS
    (tree / "DEBIAN").mkdir(parents=True)
    texts.parent.mkdir(parents=True)
    lines = [f'( {name} "{text}" )' for name, (text, *_) in TROUBLE.items()]
    for number, sentence in enumerate(SENTENCES, start=1):
        lines.append(f'( ru_{number:04} "+{sentence.capitalize()}." )')
        write_noise(wav_of(texts.parents[1], f"ru_{number:04}"), number, 16000, 16000)
    for name, (_, samples, rate, _) in TROUBLE.items():
        if samples:
            write_noise(wav_of(texts.parents[1], name), int(name[3:]), samples, rate)
    texts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    control = "Package: festvox-ru\nVersion: 9\nArchitecture: all\nMaintainer: x <x@example>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    path = tmp_path / "given.deb"
    build = ["dpkg-deb", "-Zgzip", "--root-owner-group", "-b", str(tree), str(path)]
    subprocess.run(build, check=True, capture_output=True)
    monkeypatch.setattr(recipe, "CHECKSUMS", {"9": hashlib.sha256(path.read_bytes()).hexdigest()})
    return path


def write_noise(path, seed, samples, rate):
    soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32), rate)


def test_whole_recipe_on_a_made_up_package(deb, tmp_path):
    out = tmp_path / "data"
    recipe.main(out=out, deb=deb, jobs=1)
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["kept"] == len(SENTENCES)
    rows = [line.split("\t")[:2] for line in (out / "dropped.tsv").read_text(encoding="utf-8").splitlines()[1:]]
    assert {name: reason for name, reason in rows} == {name: reason for name, (*_, reason) in TROUBLE.items()}
    assert (out / "download/festvox-ru_9.deb").is_file()
    texts = {}
    for split in ("train", "dev", "test"):
        cuts = lhotse.CutSet.from_file(out / f"manifests/cuts_{split}.jsonl.gz").to_eager()
        lhotse.validate(cuts)
        assert {cut.sampling_rate for cut in cuts} == {16000}
        assert {cut.supervisions[0].language for cut in cuts} == {"ru"}
        texts[split] = {cut.supervisions[0].text for cut in cuts}
    assert texts == {
        split: {one for one in SENTENCES if split_of(one, recipe.BOUNDS) == split} for split in ("train", "dev", "test")
    }


def test_splits_leave_enough_to_tune_on():
    check_bounds(recipe.BOUNDS)
    sizes = {"train": 0, "dev": 0, "test": 0}
    for number in range(2000):
        sizes[split_of(f"предложение {number}", recipe.BOUNDS)] += 1
    assert 160 < sizes["dev"] < 240 and 200 < sizes["test"] < 280


@pytest.mark.parametrize("preset", [None, "quick", "full"])
def test_every_configuration_takes_the_longest_cut(preset):
    files = [RECIPE / "conf/corpus.yaml"] + ([RECIPE / f"conf/{preset}.yaml"] if preset else [])
    cfg = load_config(files)
    longest = 17.98 / min(cfg.features.speeds, default=1.0)  # seconds
    assert longest <= cfg.data.max_seconds <= cfg.data.max_duration
    assert cfg.student_layers < cfg.model.layers


def test_unknown_package_is_one_line(tmp_path, capsys):
    (tmp_path / "x.deb").write_bytes(b"not a package")
    with pytest.raises(SystemExit) as caught:
        recipe.main(out=tmp_path / "data", deb=tmp_path / "x.deb", jobs=1)
    said = capsys.readouterr().err
    assert caught.value.code == 1 and said.count("\n") == 1
    assert said.startswith("error: x.deb: checksum mismatch") and "festvox-ru 0.5+dfsg-6" in said
