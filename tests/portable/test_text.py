"""Token tables and tokenizers, in either interpreter."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcsd.errors import UserError
from ctcsd.text.lang import make_lang
from ctcsd.text.normalize import normalize
from ctcsd.text.tokenizer import Tokenizer, TokenTable

TEXTS = ["the cat sat on the mat", "a bat and a cat", "that's that", "the man ran", "can a man bat"] * 4


@pytest.mark.parametrize(("unit", "size"), [("char", 0), ("bpe", 25)])
def test_round_trip(tmp_path: Path, unit: str, size: int) -> None:
    table = make_lang(TEXTS, tmp_path / "lang", unit, size)
    tokenizer = Tokenizer(tmp_path / "lang")
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert 0 not in ids
    assert tokenizer.table.fingerprint == table.fingerprint
    lines = (tmp_path / "lang" / "tokens.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "<blk> 0"
    assert [int(line.rsplit(" ", 1)[1]) for line in lines] == list(range(len(lines)))
    if unit == "bpe":
        assert len(table) == size


def test_bpe_size_too_large_names_the_largest(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"vocab_size=5000 is too large for this text: the largest possible is \d+"
    ) as e:
        make_lang(TEXTS, tmp_path / "lang", "bpe", 5000)
    largest = int(str(e.value).split()[-1])
    assert list(tmp_path.iterdir()) == [], "nothing half-written is left behind"
    assert len(make_lang(TEXTS, tmp_path / "lang", "bpe", largest)) == largest
    with pytest.raises(UserError, match="too large"):
        make_lang(TEXTS, tmp_path / "lang2", "bpe", largest + 1)


def test_bpe_size_too_small(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="vocab_size=4 is too small"):
        make_lang(TEXTS, tmp_path / "lang", "bpe", 4)


def test_bad_units_and_texts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no unit 'word'; known: char, bpe, phone"):
        make_lang(TEXTS, tmp_path / "lang", "word", 0)
    for unit in ("char", "bpe"):
        with pytest.raises(UserError, match="no text"):
            make_lang([""], tmp_path / "lang", unit, 30)
    make_lang(TEXTS, tmp_path / "lang", "char", 0)
    with pytest.raises(UserError, match="character 'z' of 'zoo' is not in tokens.txt"):
        Tokenizer(tmp_path / "lang").encode("zoo")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 0\nb 1\n", "starts with <blk>"),
        ("<blk> 0\n", "at least one more token"),
        ("<blk> 0\na 2\n", "line 2 should read"),
        ("<blk> 0\na 1\na 2\n", "stands twice"),
    ],
)
def test_broken_token_tables(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokens.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        TokenTable.load(tmp_path)


def test_missing_lang_dir(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run stage 2"):
        TokenTable.load(tmp_path)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_normalised_text_is_words_and_stays_as_it_is(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once == " ".join(once.split())
    assert all(unicodedata.category(char)[0] in "LM" or char in "' " for char in once)
    assert not any(word.startswith("'") or word.endswith("'") for word in once.split())
    for form in ("NFC", "NFD"):
        assert normalize(unicodedata.normalize(form, text)) == once, "however its accents are written"
