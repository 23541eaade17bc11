"""The recipe fillets: its dialogue scripts, and the whole recipe on packages made here of real speech."""

from __future__ import annotations

import hashlib
import json
import subprocess
from itertools import product
from string import ascii_lowercase

import lhotse
import pytest
import soundfile
from speech import clips
from stand_ins import drops, recipe_module

from ctcsd.data.splits import split_of

recipe = recipe_module("fillets")
SCRIPT = r"""
dialogId("vit-m-jedna", "font_small", "It is here.")
dialogStr("Je to \"tady\".")

dialogId("vit-v-dve", "font_big", "The other one")
    dialogStr("Ten druhý, v C:\\CONFIG.")
dialogStr("a text without an id")
dialogId("vit-x-tri", "", "Nobody")
dialogId("vit-x-ctyri", "", "Somebody")
dialogStr("")
"""


def write_script(packages, level, language, text):
    path = packages / recipe.GAME / "script" / level / f"dialogs_{language}.lua"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_dialogs(tmp_path):
    write_script(tmp_path, "city", "cs", SCRIPT)
    write_script(tmp_path, "city", "nl", 'dialogId("a", "font_big", "x")\ndialogStr("Hallo")')
    assert recipe.dialogs(tmp_path, "cs") == {
        ("city", "vit-m-jedna"): ('Je to "tady".', "small"),
        ("city", "vit-v-dve"): ("Ten druhý, v C:\\CONFIG.", "big"),
        ("city", "vit-x-ctyri"): ("", "other"),
    }


def build(tree, name, folder):
    (tree / "DEBIAN").mkdir()
    control = f"Package: {name}\nVersion: 9\nArchitecture: all\nMaintainer: x <x@example>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    path = folder / f"{name}_9_all.deb"
    build = ["dpkg-deb", "-Zgzip", "--root-owner-group", "-b", str(tree), str(path)]
    subprocess.run(build, check=True, capture_output=True)
    return path


def in_split(text, number):
    return split_of(text) == ("dev" if number == 1 else "test")


@pytest.fixture
def debs(tmp_path, monkeypatch):
    """The packages of texts and of Czech speech: two levels, one of them with a clip whose text is in the other."""
    texts, sound = tmp_path / "texts", tmp_path / "sound"
    lines = {"a": [], "b": []}
    for number, (text, samples) in enumerate(clips(42)):
        level, stated = "ab"[number % 2], "ab"[(number + (number == 5)) % 2]
        name = f"x-m-{number}"
        ogg = sound / recipe.GAME / "sound" / level / "cs" / f"{name}.ogg"
        ogg.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(ogg, samples, 16000, format="OGG", subtype="VORBIS")
        if number == 7:
            ogg.write_bytes(b"")
        spoken = "" if number == 9 else "chyba 7" if number == 11 else text.replace("'", "")
        if number in (1, 2):  # the others have hashes of the training set
            spoken = next(t for a, b in product(ascii_lowercase, repeat=2) if in_split(t := f"{spoken} {a}{b}", number))
        lines[stated].append(f'dialogId("{name}", "font_small", "x")\ndialogStr("{spoken}")\n')
    for level, found in lines.items():
        write_script(texts, level, "cs", "".join(found))
    debs = [build(texts, recipe.TEXTS, tmp_path), build(sound, f"{recipe.TEXTS}-cs", tmp_path)]
    monkeypatch.setattr(recipe, "VERSION", "9")
    sums = {path.name.partition("_")[0]: hashlib.sha256(path.read_bytes()).hexdigest() for path in debs}
    monkeypatch.setattr(recipe, "CHECKSUMS", sums)
    return debs


def test_whole_recipe_on_made_up_packages(debs, tmp_path):
    out = tmp_path / "data"
    recipe.main(lang=recipe.Language.cs, out=out, deb=debs, max_bad=2 / 41, jobs=1)  # noises do not count
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    expected = {"b_x-m-7": "empty audio", "b_x-m-9": "missing transcript", "b_x-m-11": "digits or symbols in text"}
    assert report["kept"] == 39 and drops(out) == expected
    assert f"audio only: {recipe.GAME}/sound/b/cs/x-m-9.ogg" in (out / "dropped.tsv").read_text(encoding="utf-8")
    names = {one.id for one in lhotse.load_manifest(out / "manifests/recordings.jsonl.gz")}
    assert "b_x-m-5" in names and "b_x-m-9" not in names
    assert sorted(path.name for path in (out / "download").iterdir()) == [
        f"{recipe.TEXTS}-cs_9.deb",
        f"{recipe.TEXTS}_9.deb",
    ]


def test_package_that_is_none_of_them(debs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        recipe.main(lang=recipe.Language.nl, out=tmp_path / "data", deb=debs, jobs=1)
    assert "fillets-ng-data-cs_9_all.deb: its name begins with neither" in capsys.readouterr().err
