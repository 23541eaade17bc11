"""ARPA files, written and read; scores, perplexity and the command that estimates a model."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ctcsd.cli import app
from ctcsd.errors import UserError
from ctcsd.text.arpa import perplexity, read_arpa, write_arpa
from ctcsd.text.ngram import estimate
from ctcsd.text.tokenizer import TokenTable

ALICE = Path(__file__).with_name("alice.txt")
SENTENCES = (
    "alice fell down the rabbit hole",
    "the white rabbit had nothing to do",
    "a cheshire cat thought of her sister",
)


def test_the_layout_of_the_file(tmp_path: Path) -> None:
    write_arpa(estimate(["b a"], 3), tmp_path / "lm.arpa")
    sections = (tmp_path / "lm.arpa").read_text(encoding="utf-8").split("\n\n")
    assert sections[0] == "\\data\\\nngram 1=5\nngram 2=3\nngram 3=2"
    rows = [[line.split("\t") for line in section.split("\n")] for section in sections[1:4]]
    assert [section[0] for section in rows] == [["\\1-grams:"], ["\\2-grams:"], ["\\3-grams:"]]
    assert [row[1] for row in rows[0][1:]] == ["<unk>", "<s>", "</s>", "a", "b"]
    assert [row[1] for row in rows[1][1:]] == ["<s> b", "a </s>", "b a"]
    assert [row[1] for row in rows[2][1:]] == ["<s> b a", "b a </s>"]
    assert [{len(row) for row in section[1:]} for section in rows] == [{3}, {3}, {2}], "backoffs below the last order"
    assert rows[0][2][0] == "0.0000000", "<s>, as lmplz has it"
    assert sections[4] == "\\end\\\n"
    assert [path.name for path in tmp_path.iterdir()] == ["lm.arpa"]


GOOD = "\n".join(
    ["\\data\\", "ngram 1=3", "ngram 2=1", "", "\\1-grams:", "-1\t<s>\t-0.5", "-0.3\ta\t-0.2", "-0.4\t</s>"]
    + ["", "\\2-grams:", "-0.1\t<s> a", "", "\\end\\", ""]
)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", "line 13: the file ends without .data.: not an ARPA file"),
        ("\\end\\", "", "line 13: the file ends without .end"),
        ("ngram 2=1", "ngram 3=1", "line 3: this should read 'ngram 2=COUNT'"),
        ("ngram 1=3\nngram 2=1\n", "", "line 3: this should read 'ngram 1=COUNT'"),
        ("ngram 1=3", "ngram 1=4", "line 10: 3 1-grams end here, where the header says 4"),
        ("ngram 2=1", "ngram 2=2", "line 13: 1 2-grams end here, where the header says 2"),
        ("\\2-grams:", "\\3-grams:", r"line 10: this should read '\\2-grams:'"),
        ("-0.1\t<s> a", "-0.1\t<s>", "line 11: an n-gram's line has 3 to 3 fields"),
        ("-0.1\t<s> a", "-0.1\t<s> a\t0", "line 11: an n-gram's line has 3 to 3 fields here, not 4"),
        ("-0.1\t<s> a", "x\t<s> a", "line 11: could not convert"),
        ("-0.1\t<s> a", "0.1\t<s> a", "line 11: a log10 probability is at most 0"),
        ("-0.1\t<s> a", "nan\t<s> a", "line 11: a log10 probability is at most 0"),
        ("-0.1\t<s> a", "-0.1\t<s> b", "line 11: 'b' is not among the unigrams"),
        ("-0.4\t</s>", "-0.4\ta", "line 8: 'a' stands twice"),
    ],
)
def test_broken_files(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "lm.arpa"
    path.write_text(GOOD, encoding="utf-8")
    read_arpa(path)
    path.write_text(GOOD.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        read_arpa(path)
    assert str(error.value).startswith(f"{path}: line ") and "\n" not in str(error.value)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lm.arpa: No such file"):
        read_arpa(tmp_path / "lm.arpa")
    (tmp_path / "lm.arpa").write_bytes(b"\\data\\\nngram \xff")
    with pytest.raises(UserError, match="lm.arpa: line 2 is not text in UTF-8"):
        read_arpa(tmp_path / "lm.arpa")
    (tmp_path / "lm.gz").write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(UserError, match="lm.gz: damaged"):
        read_arpa(tmp_path / "lm.gz")


def test_backing_off_and_unknown_words(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "lm.arpa.gz", "wt", encoding="utf-8") as out:
        out.write("an SRILM header\n" + GOOD.replace("\n", "\r\n"))
    arpa = read_arpa(tmp_path / "lm.arpa.gz")
    assert arpa.log10(["a", "a", "<s>"], "a") == -0.1
    assert arpa.log10(["<s>"], "</s>") == pytest.approx(-0.9)
    assert arpa.score(["a"]) == pytest.approx(-0.1 - 0.2 - 0.4)
    assert arpa.score(["a"], bos=False, eos=False) == -0.3
    assert arpa.log10(["a"], "x") == pytest.approx(-100.2), "there is no <unk>: KenLM's -100"
    assert arpa.log10(["x"], "a") == -0.3


def test_perplexity_and_the_command(tmp_path: Path) -> None:
    dev = tmp_path / "dev.txt.gz"
    with gzip.open(dev, "wt", encoding="utf-8") as out:
        out.write("\n".join(SENTENCES) + "\n\n")
    lm = tmp_path / "made" / "lm.arpa"
    command = ["lm", "--text", str(ALICE), "--text", str(dev), "--out", str(lm), "--prune", "0 0 1", "--dev", str(dev)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert f"{lm}: 224 1-grams, " in done.output and "3 sentences, 20 words, 0 unknown: perplexity" in done.output
    assert CliRunner().invoke(app, [*command, "--prune", "0 x"]).exit_code == 2
    assert CliRunner().invoke(app, [*command, "--order", "4", "--vocab", str(ALICE)]).exit_code == 0
    write_arpa(estimate(ALICE.read_text(encoding="utf-8").splitlines()), lm)
    arpa = read_arpa(lm)
    found = perplexity(arpa, [*SENTENCES, ""])
    assert (found.sentences, found.words, found.unknown) == (3, 20, 2)
    scores = [arpa.score(sentence.split()) for sentence in SENTENCES]
    assert found.log10 == pytest.approx(sum(scores))
    assert f"perplexity {10 ** (-sum(scores) / 23):.2f}, " in str(found)
    assert math.isfinite(found.log10_known) and found.log10_known > found.log10


def test_the_command_counts_tokens(lang_dir: Path, table: TokenTable, tmp_path: Path) -> None:
    """Those that the text is spelt with; lines that cannot be spelt are left out, and counted."""
    text, lm = tmp_path / "text", tmp_path / "lm.arpa"
    text.write_text("ab c\nxyz\ncab\n", encoding="utf-8")
    command = ["lm", "--text", str(text), "--tokens", str(lang_dir), "--out", str(lm), "--order", "2"]
    done = CliRunner().invoke(app, [*command, "--dev", str(text)])
    assert done.exit_code == 0, done.output
    assert done.output.count(f"{text}: 1 lines left out, which the tokens cannot spell\n") == 2
    assert f"{text}: 2 sentences, 7 words, 0 unknown" in done.output
    expected = estimate(["a b \u2581 c", "c a b"], 2, (), table.symbols[1:])
    write_arpa(expected, tmp_path / "expected.arpa")
    assert lm.read_bytes() == (tmp_path / "expected.arpa").read_bytes()
    assert CliRunner().invoke(app, [*command, "--vocab", str(text)]).exit_code == 2
