"""Lang dirs of phones, rules for words that the dictionary lacks, and phone error rates, in either interpreter."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from ctcsd.decode import search
from ctcsd.decode.hypothesis import write_hypotheses
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.score.report import results_report
from ctcsd.score.run import describe, score_run
from ctcsd.text.arpa import read_arpa
from ctcsd.text.lang import make_lang
from ctcsd.text.lexicon import read_lexicon
from ctcsd.text.phones import PhoneOptions
from ctcsd.text.reference import Reference
from ctcsd.text.spelling import Speller
from ctcsd.text.tokenizer import Tokenizer, TokenTable, UnknownWord

# cmudict's lines and Kaldi's, in one file.
DICTIONARY = """;;; a comment
THE  DH AH0
THE(1)  DH IY0
CAT  K AE1 T # informal
<unk>\tSPN
a ah0
a ey1
sat\tS AE1 T
zoo Z UW1
tea T IY1
read R EH1 D
"""
TEXTS = ["the cat sat", "a cat", "the gnu", "a gnu", "the yak sat"]


def make(tmp_path: Path, **options) -> Path:
    (tmp_path / "dictionary").write_text(DICTIONARY, encoding="utf-8")
    further = tmp_path / "further.txt"
    further.write_text("the tea\nthe zoo\n", encoding="utf-8")
    phones = PhoneOptions(tmp_path / "dictionary", **options)
    make_lang(TEXTS, tmp_path / "lang", "phone", 0, lm_text=further, phones=phones)
    return tmp_path / "lang"


def test_a_lang_dir_of_phones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lang = make(tmp_path)
    assert "2 words (3 times) are not in" in capsys.readouterr().out
    assert (lang / "missing.txt").read_text(encoding="utf-8") == "gnu\t2\t\nyak\t1\t\n"
    tokens = Tokenizer(lang).table
    assert tokens.symbols == ["<blk>", "AE", "AH", "DH", "IY", "K", "S", "T", "ah", "ey"], "of the transcripts' words"
    lexicon = read_lexicon(lang / "lexicon.txt", tokens.ids)
    assert list(lexicon) == ["a", "cat", "sat", "tea", "the"], "no phones of zoo; gnu and yak are not spelt"
    assert lexicon["the"] == [["DH", "AH"], ["DH", "IY"]] and lexicon["a"] == [["ah"], ["ey"]]
    unigrams = {words[0] for words in read_arpa(lang / "lm.arpa").probabilities if len(words) == 1}
    assert unigrams == {*lexicon, "<unk>", "<s>", "</s>"}


def test_training_targets_are_first_pronunciations(tmp_path: Path) -> None:
    tokenizer = Tokenizer(make(tmp_path))
    ids = tokenizer.encode("the cat sat")
    assert tokenizer.decode(ids) == "DH AH K AE T S AE T" == tokenizer.as_decoded("the cat sat")
    assert tokenizer.encode("a tea")[-2:] == [tokenizer.table.ids["T"], tokenizer.table.ids["IY"]]
    with pytest.raises(UnknownWord, match="'gnu' has no pronunciation"):
        tokenizer.encode("the gnu")
    assert tokenizer.as_decoded("the gnu sat") == "DH AH <unk> S AE T"


def test_stress_and_word_ends(tmp_path: Path) -> None:
    lang = make(tmp_path, stress=True, word_end=True)
    assert Tokenizer(lang).as_decoded("a cat") == "ah0# K AE1 T#"
    assert read_lexicon(lang / "lexicon.txt")["the"] == [["DH", "AH0#"], ["DH", "IY0#"]]


def test_missing_words_are_spelt_or_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no pronunciation of 2 of 6 words, such as 'gnu'"):
        make(tmp_path, missing="error")
    with pytest.raises(UserError, match="lang.missing=skip"):
        make(tmp_path, missing="skip")
    with pytest.raises(UserError, match=r"lang\.unit=phone wants lang\.lexicon"):
        make_lang(TEXTS, tmp_path / "lang", "phone", 0)
    with pytest.raises(UserError, match="has none of the words of the text"):
        make_lang(["gnu"], tmp_path / "lang", "phone", 0, phones=PhoneOptions(tmp_path / "dictionary"))
    assert not (tmp_path / "lang").exists()
    lang = make(tmp_path, missing="spell")
    rows = [line.split("\t") for line in (lang / "missing.txt").read_text(encoding="utf-8").splitlines()]
    assert rows[0][:2] == ["gnu", "2"] and rows[0][2] == "", "no word of the dictionary has a g"
    assert rows[1][:2] == ["yak", "1"] and rows[1][2] == "", "nor a y"


def test_rules_come_out_of_a_dictionary_that_follows_them() -> None:
    """x says two phones, h none, c depends on what follows; words that were never seen are pronounced by that."""
    say = {"a": ["A"], "b": ["B"], "d": ["D"], "e": ["E"], "h": [], "k": ["K"], "x": ["K", "S"], "o": ["O"], "t": ["T"]}

    def pronounce(word: str) -> list[str]:
        found = []
        for letter, after in zip(word, word[1:] + "#"):
            found += say[letter] if letter != "c" else ["S"] if after == "e" else ["K"]
        return found

    draw = random.Random(0)
    words = {"".join(draw.choices("abcdehkxot", k=draw.randint(2, 7))) for _ in range(3000)}
    words = sorted(word for word in words if pronounce(word))
    draw.shuffle(words)
    speller = Speller({word: [pronounce(word)] for word in words[200:]})
    right = sum(speller(word) == pronounce(word) for word in words[:200])
    assert right >= 190
    assert speller("bzb") == [] and speller("box") == ["B", "O", "K", "S"]


def test_the_phone_error_rate(tmp_path: Path) -> None:
    """Greedy search finds phones, which are compared with those of the transcripts; tables name the rate PER."""
    lang = make(tmp_path)
    table = TokenTable.load(lang)
    run = RunDir(tmp_path / "exp" / "run")
    spoken = {"u1": Reference("the cat sat"), "u2": Reference("the gnu")}
    said = {"u1": ["DH", "AH", "K", "AE", "T", "S", "AE"], "u2": ["DH", "IY", "S"]}
    with PosteriorWriter(tmp_path / "archive", table) as writer:
        for cut_id, phones in said.items():
            path = [index for phone in phones for index in (table.ids[phone], 0)]
            writer.write(cut_id, np.log(np.eye(len(table))[path] * 0.9 + 0.01).astype(np.float32))
    found = list(search(PosteriorReader(tmp_path / "archive"), lang, "greedy"))
    assert [h.text for h in found] == [" ".join(phones) for phones in said.values()]
    write_hypotheses(run.hypotheses("greedy", "test", "student"), found)
    run.hypotheses_marker("greedy", "test", "student").write_text("{}")
    record = {"corpus": "toy", "method": "ctc", "seed": 1, "parameters": {"student": 1}}
    (run.path / "train.json").write_text(json.dumps({**record, "seconds": 1.0, "peak_memory_mib": 1, "revision": "x"}))
    (row,) = score_run(run, {"test": spoken}, ["greedy"], ["student"], lang_dir=lang)
    # One deletion in the first (the last T); AH for IY and <unk> for S in the second.
    assert (row["unit"], row["words"], row["dels"], row["subs"], row["ins"]) == ("phone", 11, 1, 2, 0)
    assert describe(row) == "test student greedy: PER 27.27  SER 100.00"
    text, _ = results_report(tmp_path / "exp")
    assert "test PER" in text and "27.3" in text and "WER" not in text.splitlines()[0] and "11 phones" in text
    (run.path / "tokens.txt").write_text(table.text, encoding="utf-8")
    with pytest.raises(UserError, match="scoring wants --lang"):
        score_run(run, {"test": spoken}, ["greedy"], ["student"])
