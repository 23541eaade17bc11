"""The recipe fotaq: the parser against a queen.1c built here from the format's description, and the real package."""

from __future__ import annotations

import collections
import importlib.util
import json
import struct
import subprocess
import sys
from pathlib import Path

import lhotse
import pytest

from ctcsd.data.debian import fetch_package, member, unpack
from ctcsd.errors import UserError

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "egs/fotaq"
PACKAGE = "flight-of-the-amazon-queen"
CHECKSUMS = {"1.0.0-9": "40c08fd258d6fe95c46c1eaf5e9137f84ba330657995a281bd887c94a560a0f1"}


def load_parser():
    spec = importlib.util.spec_from_file_location("fotaq_queen", RECIPE / "local/queen.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["fotaq_queen"] = module
    spec.loader.exec_module(module)
    return module


queen = load_parser()


def pascal(text, step):
    raw = bytes([len(text)]) + text.encode("latin-1")
    return raw if step == 0 else raw + b"\xee" * (-len(raw) % step)


def lines_of(records):
    """Records are aligned to 4 from the chunk's base; each begins with 2 unused bytes and its id."""
    out = b""
    for number, text in records:
        out += b"\xaa\xaa" + struct.pack(">H", number) + pascal(text, 0)
        out += b"\xee" * (-len(out) % 4)
    return out


def dialogue(key, levels, joe, person, closing):
    joe_start = 32 + 96 * abs(levels)
    joe_part, person_part = lines_of(joe), lines_of(person)
    person_start = joe_start + len(joe_part)
    closing_start = person_start + len(person_part)
    head = bytearray(b"\xcc" * 20 + b"\xdd" * joe_start)
    for at, kind, value in (
        (0, "h", levels),
        (4, "h", key),
        (6, "h", len(joe)),
        (8, "h", len(person)),
        (22, "H", person_start),
        (26, "H", closing_start),
    ):
        struct.pack_into(f">{kind}", head, 20 + at, value)
    return bytes(head) + joe_part + person_part + b"".join(pascal(text, 2) for text in closing)


def cut_scene(strings):
    head = bytearray(b"\xcc" * 20 + b"\xdd" * 40)
    struct.pack_into(">h", head, 22, -(len(strings) - 1))
    struct.pack_into(">H", head, 28, 40)
    body = b""
    for text in strings:
        body += pascal(text, 2 if text else 0)
        if text and len(body) % 2:
            body += b"\xee"
    return bytes(head) + body + b"\0\0"


def build(entries):
    table_end = 15 + 21 * len(entries)
    table, body = b"", b""
    for name, data in entries.items():
        table += struct.pack(">12sBII", name.encode(), 1, table_end + len(body), len(data))
        body += data
    return b"QTBL" + b"\0" * 9 + struct.pack(">H", len(entries)) + table + body


TEXTS = {
    "BOB_2.DOG": dialogue(
        7,
        -3,
        [(0, "Hello."), (0x2A, "One*AB two*XY12345678901three"), (0x2B, "*F1*F2Late")],
        [(0x0C, "Caf\xe9!"), (0x0C, "A repeated id"), (0x1F0, "Odd length")],
        ["Bye.", "So long, Bob"],
    ),
    "C1A.CUT": cut_scene(["not spoken", "First", "", "*", "#comment", "Sixth, fine", "Even"]),
    "QUEEN2.JAS": "\r\n".join(f"Line {n}" for n in range(1230)).encode(),
}
SPOKEN = {  # clip -> (text, speaker)
    "07SSSSJ1": ("Hello.", "joe"),
    "07002AJ1": ("One", "joe"),
    "07002AJ2": ("two", "joe"),
    "07002AJ3": ("three", "joe"),
    "07002BJ3": ("Late", "joe"),
    "07000CP1": ("Caf\xe9!", "bob_"),
    "0701F0P1": ("Odd length", "bob_"),
    "07XXXXP1": ("Bye.", "bob_"),
    "07XXXXJ1": ("So long, Bob", "joe"),
    "C1A__011": ("First", "scene"),
    "C1A__051": ("Sixth, fine", "scene"),
    "C1A__061": ("Even", "scene"),
    "JOE00411": ("Line 0", "joe"),
    "JOE12271": ("Line 1186", "joe"),
    "JOE00011": ("Line 1187", "joe"),
    "JOE00401": ("Line 1226", "joe"),
    "JOE12681": ("Line 1227", "joe"),
}
SILENT = ["C1A__021", "C1A__031", "C1A__041", "C1A__001", "07002BJ1", "JOE12281", "GM___011"]


def test_parser_on_a_file_built_from_the_description():
    speech = {f"{name}.SB": name.encode() * 3 for name in [*SPOKEN, *SILENT]}
    data = build({**speech, **TEXTS})
    found = {clip.name: clip for clip in queen.clips(data)}
    assert {name: (clip.text, clip.speaker) for name, clip in found.items()} == SPOKEN
    for name, clip in found.items():
        assert data[clip.offset : clip.offset + clip.size] == name.encode() * 3
    assert collections.Counter(clip.source for clip in found.values()) == {"DOG": 9, "CUT": 3, "JAS": 5}


def test_damaged_files_are_one_line():
    whole = build(TEXTS)
    for data, problem in (
        (b"", "the table of entries is cut off"),
        (whole[:30], "the table of entries is cut off"),
        (whole[:-1], "does not lie inside the file"),
        (build({"": b"x"}), "no name"),
        (build({"A.DOG": b"short"}), "A.DOG is damaged"),
        (build({"A.CUT": cut_scene(["x", "y"])[:61]}), "A.CUT is damaged"),
        (build({"B.DOG": TEXTS["BOB_2.DOG"][:-3]}), "B.DOG is damaged"),
    ):
        with pytest.raises(UserError, match=problem) as caught:
            list(queen.clips(data))
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="session")
def package(tmp_path_factory):
    kept = RECIPE / "data/download"
    return fetch_package(PACKAGE, CHECKSUMS, kept if kept.is_dir() else tmp_path_factory.mktemp("download"))


def test_real_package_gives_the_known_figures(package, tmp_path):
    unpack(package, tmp_path)
    data = member(tmp_path, f"usr/share/scummvm/{PACKAGE}/queen.1c").read_bytes()
    entries = queen.read_table(data)
    assert sum(name.endswith(".SB") for name in entries) == 6745
    found = list(queen.clips(data))
    assert len(found) == len({clip.name for clip in found}) == 6587
    first = [clip for clip in found if not "JOE0001" <= clip.name[:7] <= "JOE0040"]
    assert collections.Counter(clip.source for clip in first) == {"DOG": 3983, "CUT": 2040, "JAS": 521}
    assert len({clip.speaker for clip in found}) == 31


def run(*arguments):
    command = [sys.executable, str(RECIPE / "local/prepare.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_whole_recipe_on_the_real_package(package, tmp_path):
    done = run("--out", tmp_path / "data", "--deb", package, "--jobs", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "data/report.json").read_text())
    sizes = {split: one["utterances"] for split, one in report["splits"].items()}
    assert sizes == {"train": 5580, "dev": 339, "test": 601, "total": 6520}
    assert 265 < report["splits"]["total"]["minutes"] < 275 and "dropped 67 of 6,587" in done.stdout
    assert (tmp_path / f"data/download/{PACKAGE}_1.0.0-9.deb").is_file()
    texts = {}
    for split in ("train", "dev", "test"):
        cuts = lhotse.CutSet.from_file(tmp_path / f"data/manifests/cuts_{split}.jsonl.gz").to_eager()
        lhotse.validate(cuts)
        assert {cut.sampling_rate for cut in cuts} == {16000}
        texts[split] = {cut.supervisions[0].text for cut in cuts}
        assert set("".join(texts[split])) <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert not texts["train"] & (texts["dev"] | texts["test"]) and not texts["dev"] & texts["test"]


def test_wrong_package_and_wrong_usage(tmp_path):
    (tmp_path / "x.deb").write_bytes(b"not a package")
    done = run("--out", tmp_path / "data", "--deb", tmp_path / "x.deb")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: x.deb: checksum mismatch") and "--deb FILE" in done.stderr
    assert run("--jobs", 0).returncode == 2 and run("--job", 2).returncode == 2
    shown = run("--help")
    assert shown.returncode == 0 and "Example:" in shown.stdout
