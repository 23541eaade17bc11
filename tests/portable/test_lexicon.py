"""Words, spellings, pronunciations, and what stage 2 makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcsd.errors import UserError
from ctcsd.text.arpa import read_arpa
from ctcsd.text.lang import make_lang
from ctcsd.text.lexicon import (
    lexicon_lines,
    read_lexicon,
    read_pronunciations,
    read_words,
    word_lines,
)
from ctcsd.text.tokenizer import SPACE, Tokenizer

TEXT = Path(__file__).with_name("alice.txt").read_text(encoding="utf-8").splitlines()
WORDS = sorted({word for line in TEXT for word in line.split()})
UNITS = [("char", 0), ("bpe", 60)]


@pytest.fixture(scope="module", params=UNITS, ids=["char", "bpe"])
def lang(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lang") / "lang"
    make_lang(TEXT, folder, *request.param)
    return folder


@settings(max_examples=100, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), min_size=1, max_size=8))
def test_spellings_in_a_row_are_the_text(lang: Path, words: list[str]) -> None:
    tokenizer = Tokenizer(lang)
    lexicon = read_lexicon(lang / "lexicon.txt", tokenizer.table.ids)
    ids = [tokenizer.table.ids[token] for word in words for token in lexicon[word][0]]
    text = " ".join(words)
    assert tokenizer.decode(ids) == text
    if tokenizer.table.symbols[ids[-1]] == SPACE:  # characters: the utterance ends without the last space
        ids.pop()
        assert tokenizer.decode(ids) == text
    assert ids == tokenizer.encode(text)


def test_the_words_and_the_lexicon_of_a_lang_dir(lang: Path) -> None:
    lines = (lang / "words.txt").read_text(encoding="utf-8").splitlines()
    n = len(WORDS)
    assert lines == [
        "<eps> 0",
        *(f"{w} {i}" for i, w in enumerate(WORDS, 1)),
        f"#0 {n + 1}",
        f"<s> {n + 2}",
        f"</s> {n + 3}",
    ]
    assert read_words(lang / "words.txt") == ["<eps>", *WORDS, "#0", "<s>", "</s>"]
    lexicon = read_lexicon(lang / "lexicon.txt")
    assert list(lexicon) == WORDS and all(len(variants) == 1 for variants in lexicon.values())
    arpa = read_arpa(lang / "lm.arpa")
    assert {g[0] for g in arpa.probabilities if len(g) == 1} == {*WORDS, "<unk>", "<s>", "</s>"}
    assert len(arpa.counts) == 3


def test_where_the_space_is(tmp_path: Path) -> None:
    for unit, size, cat in (("char", 0, "c a t " + SPACE), ("bpe", 15, SPACE)):
        make_lang(["a cat a act", "cat cats"], tmp_path / unit, unit, size)
        spelled, missing = Tokenizer(tmp_path / unit).spell(["cat", "cut", "act", f"a{SPACE}t"])
        assert list(spelled) == ["act", "cat"] and missing == [f"a{SPACE}t", "cut"]
        joined = " ".join(spelled["cat"][0])
        assert joined == cat if unit == "char" else joined.startswith(cat)


def test_no_spelling_by_characters_begins_another(tmp_path: Path) -> None:
    make_lang(TEXT, tmp_path / "lang", "char", 0)
    spelled = sorted("".join(tokens) for (tokens,) in read_lexicon(tmp_path / "lang" / "lexicon.txt").values())
    assert not any(b.startswith(a) for a, b in zip(spelled, spelled[1:]))


def test_the_language_model_of_a_lang_dir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    further = tmp_path / "further.txt"
    further.write_text("the queen of hearts\n\nthe käse is queer\n", encoding="utf-8")
    make_lang(TEXT, tmp_path / "more", "char", 0, lm_order=2, lm_text=further, lm_prune=[0, 1])
    said = capsys.readouterr().out
    (word,) = (tmp_path / "more" / "unspelled.txt").read_text(encoding="utf-8").splitlines()
    assert f"1 that the tokens cannot spell, such as '{word}' (all in unspelled.txt)" in said and word == "käse"
    lexicon, arpa = read_lexicon(tmp_path / "more" / "lexicon.txt"), read_arpa(tmp_path / "more" / "lm.arpa")
    assert "queen" in lexicon and "käse" not in lexicon
    assert {g[0] for g in arpa.probabilities if len(g) == 1} == {*lexicon, "<unk>", "<s>", "</s>"}
    assert len(arpa.counts) == 2 and ("of", "hearts") not in arpa.probabilities
    tokens = (tmp_path / "more" / "tokens.txt").read_bytes()
    make_lang(TEXT, tmp_path / "none", "char", 0, lm_order=0, lm_text=further)
    assert not (tmp_path / "none" / "lm.arpa").exists() and "queen" not in read_lexicon(
        tmp_path / "none" / "lexicon.txt"
    )
    assert (tmp_path / "none" / "tokens.txt").read_bytes() == tokens
    for options in ({"lm_text": tmp_path / "no.txt"}, {"lm_order": 6}, {"lm_prune": [1]}):
        with pytest.raises(UserError):
            make_lang(TEXT, tmp_path / "none", "char", 0, **options)
    assert (tmp_path / "none" / "tokens.txt").is_file(), "a failure leaves the old lang dir alone"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["further.txt", "more", "none"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lexicon.txt: the lexicon is empty"),
        ("\n \n", "lexicon.txt: the lexicon is empty"),
        ("a x\nb\n", "lexicon.txt: line 2: 'b' has no pronunciation"),
        ("a x\n\nb x z y\n", "lexicon.txt: line 3: 'z' of 'b' is not in tokens.txt"),
        ("a x\n#0 x\n", "lexicon.txt: line 2: #0 is reserved"),
    ],
)
def test_broken_lexicons(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "lexicon.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_lexicon(tmp_path / "lexicon.txt", {"x", "y"})


def test_several_pronunciations(tmp_path: Path) -> None:
    lexicon = {"a": [["x"], ["y", "x"]], "b": [["x"]]}
    (tmp_path / "lexicon.txt").write_text(lexicon_lines(lexicon) + "a x\n", encoding="utf-8")
    assert lexicon_lines(lexicon) == "a x\na y x\nb x\n"
    assert read_lexicon(tmp_path / "lexicon.txt") == lexicon, "a pronunciation that stands twice counts once"
    with pytest.raises(UserError, match="lexicon.txt: No such file"):
        read_lexicon(tmp_path / "no" / "lexicon.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a 0\n#0 1\n<s> 2\n</s> 3\n", "should hold <eps>"),
        ("<eps> 0\na 1\n", "should hold"),
        ("<eps> 0\na 1\na 2\n#0 3\n<s> 4\n</s> 5\n", "every word once"),
        ("<eps> 0\na 2\n", "line 2 should read 'SYMBOL 1'"),
    ],
)
def test_broken_word_tables(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "words.txt").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        read_words(tmp_path / "words.txt")


def test_reserved_words() -> None:
    assert word_lines(["b", "a", "b"]) == "<eps> 0\na 1\nb 2\n#0 3\n<s> 4\n</s> 5\n"
    for word in ("<eps>", "#0", "<s>", "</s>", "<unk>"):
        with pytest.raises(UserError, match=f"{word} is reserved"):
            word_lines(["a", word])


CMUDICT = """;;; # CMUdict -- a comment
READ  R EH1 D
READ(1)  R IY1 D
'cause k ah0 z # informal
!exclamation-point EH2 K
a AH0
a(2) EY1
a(3) AH1
"""


def test_a_pronunciation_dictionary(tmp_path: Path) -> None:
    path = tmp_path / "cmudict.txt"
    path.write_text(CMUDICT, encoding="utf-8")
    found = read_pronunciations(path)
    assert found["read"] == [["R", "EH", "D"], ["R", "IY", "D"]] and found["'cause"] == [["k", "ah", "z"]]
    assert found["a"] == [["AH"], ["EY"]], "without stress two of the three are the same"
    assert read_pronunciations(path, stress=True)["a"] == [["AH0"], ["EY1"], ["AH1"]]
    path.write_text("a AH0\nb\n", encoding="utf-8")
    with pytest.raises(UserError, match="cmudict.txt: line 2: 'b' has no pronunciation"):
        read_pronunciations(path)
    path.write_text(";;; nothing\n", encoding="utf-8")
    with pytest.raises(UserError, match="cmudict.txt: there is no pronunciation"):
        read_pronunciations(path)
