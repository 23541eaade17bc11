"""Forced alignment against brute force, and the files that it goes into."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from fakes import random_log_probs

from ctcsd.decode.align import TokenSpan, align_tokens
from ctcsd.decode.greedy import collapse
from ctcsd.decode.times import WordSpan, parts_of, words_of, write_textgrid, write_times
from ctcsd.errors import UserError
from ctcsd.text.tokenizer import TokenTable


def test_alignment_is_the_best_path_of_its_tokens() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        frames, vocab = int(rng.integers(1, 6)), int(rng.integers(2, 5))
        log_probs = random_log_probs(rng, frames, vocab)
        tokens = rng.integers(1, vocab, size=int(rng.integers(1, frames + 1))).tolist()
        spelled = [
            path for path in itertools.product(range(vocab), repeat=frames) if collapse(np.array(path))[0] == tokens
        ]
        if not spelled:
            with pytest.raises(UserError, match="frames are too few"):
                align_tokens(log_probs, tokens)
            continue
        best = max(spelled, key=lambda path: sum(log_probs[t, v] for t, v in enumerate(path)))
        spans = align_tokens(log_probs, tokens)
        assert [span.token for span in spans] == tokens
        path = np.zeros(frames, dtype=int)
        for span in spans:
            path[span.start : span.end] = span.token
            mean = np.exp(log_probs[span.start : span.end, span.token]).mean()
            assert span.confidence == pytest.approx(mean, abs=1e-5)
        assert path.tolist() == list(best)


def test_equal_tokens_side_by_side_stay_apart() -> None:
    log_probs = np.log(np.array([[0.1, 0.9], [0.9, 0.1], [0.1, 0.9]], np.float32))
    spans = align_tokens(log_probs, [1, 1])
    assert [(span.start, span.end) for span in spans] == [(0, 1), (2, 3)]
    assert align_tokens(log_probs, []) == []
    with pytest.raises(UserError, match="NaN"):
        align_tokens(log_probs * np.nan, [1])


def test_words_from_characters_and_from_pieces() -> None:
    chars = TokenTable(["<blk>", "\u2581", "a", "b"])
    spans = [TokenSpan(2, 1, 2, 0.9), TokenSpan(3, 3, 5, 0.5), TokenSpan(1, 5, 6, 0.1), TokenSpan(2, 8, 9, 0.7)]
    assert words_of(spans, chars, 0.04) == [WordSpan("ab", 0.04, 0.2, 0.5), WordSpan("a", 0.32, 0.36, 0.7)]
    pieces = TokenTable(["<blk>", "\u2581a", "b", "\u2581c"])
    spans = [TokenSpan(1, 0, 1, 1.0), TokenSpan(2, 2, 3, 0.6), TokenSpan(3, 4, 6, 0.8)]
    assert words_of(spans, pieces, 0.04) == [WordSpan("ab", 0.0, 0.12, 0.6), WordSpan("c", 0.16, 0.24, 0.8)]
    assert words_of([], chars, 0.04) == []


def test_phones_make_words() -> None:
    dictionary = {"the": [["DH", "AH"], ["DH", "IY"]], "a": [["AH"]], "eat": [["IY", "T"]], "tee": [["T", "IY"]]}
    assert parts_of(["DH", "AH", "AH"], ["the", "a"], dictionary) == [("the", 2), ("a", 1)]
    words = ["the", "eat", "tee"]
    assert parts_of(["DH", "IY", "IY", "T", "T", "IY"], words, dictionary) == [(word, 2) for word in words]
    assert parts_of([], [], dictionary) == []
    for phones, words in (("DH", ["the"]), ("DH AH T", ["the"]), ("AH", ["nobody"]), ("AH", []), ("", ["a"])):
        with pytest.raises(UserError, match="no pronunciation of its words"):
            parts_of(phones.split(), words, dictionary)
    either = {"x": [["A"], ["A", "B"]], "y": [["B", "C"], ["C"]]}  # read in two ways, each of them whole
    assert sum(count for _, count in parts_of(["A", "B", "C"], ["x", "y"], either)) == 3
    table = TokenTable(["<blk>", "AH", "DH"])
    spans = [TokenSpan(2, 1, 2, 0.9), TokenSpan(1, 3, 5, 0.5), TokenSpan(1, 6, 7, 0.7)]
    spoken = [WordSpan("the", 0.04, 0.2, 0.5), WordSpan("a", 0.24, 0.28, 0.7)]
    assert words_of(spans, table, 0.04, [("the", 2), ("a", 1)]) == spoken
    assert [span.word for span in words_of(spans, table, 0.04)] == ["DH", "AH", "AH"]


def test_files_and_what_cannot_be_aligned(make_archive, tmp_path: Path) -> None:
    def spell(path: list[int]) -> np.ndarray:
        return np.log(np.eye(5)[path] * 0.9 + 0.02).astype(np.float32)

    reader = make_archive([("u/1", spell([2, 0, 3, 1, 4])), ("u2", spell([2])), ("u3", spell([0, 0]))])
    tokens = {"u/1": [2, 3, 1, 4], "u2": [2, 2]}
    failed = write_times(reader, tokens, tmp_path / "a.ctm", tmp_path / "grids", tmp_path / "t.ctm")
    assert list(failed) == ["u2"] and "too few" in failed["u2"]
    (reader.path / "arrays" / reader.index["u2"]["array"]["storage_key"]).unlink()
    again = write_times(reader, tokens, tmp_path / "b.ctm")
    assert list(again) == ["u2"] and "unreadable" in again["u2"]
    assert (tmp_path / "b.ctm").read_text() == (tmp_path / "a.ctm").read_text()
    assert (tmp_path / "a.ctm").read_text() == "u/1 1 0.000 0.120 ab 0.920\nu/1 1 0.160 0.040 c 0.920\n"
    spoken = [line.split()[2:] for line in (tmp_path / "t.ctm").read_text().splitlines()]
    times = ["0.000", "0.080", "0.120", "0.160"]
    assert spoken == [[start, "0.040", name, "0.920"] for start, name in zip(times, ["a", "b", "\u2581", "c"])]
    (grid,) = (tmp_path / "grids").iterdir()
    words, letters = grid.read_text().split("item [2]:")
    assert 'text = "ab"' in words and "xmax = 0.200" in words and 'text = "a"' not in words
    assert 'name = "tokens"' in letters and "intervals: size = 5" in letters and 'text = "b"' in letters


def test_a_textgrid_covers_its_cut(tmp_path: Path) -> None:
    write_textgrid(tmp_path / "a.TextGrid", {"words": [WordSpan('a"b', 0.2, 0.4, 1.0)]}, 1.0)
    text = (tmp_path / "a.TextGrid").read_text()
    assert "intervals: size = 3" in text and 'text = "a""b"' in text and text.count("xmax = 1.000") == 3
    write_textgrid(tmp_path / "empty.TextGrid", {"words": []}, 0.0)
    assert "intervals: size = 1" in (tmp_path / "empty.TextGrid").read_text()
