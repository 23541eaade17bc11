"""Error rates, intervals and icefall's files, in either interpreter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ctcsd.score import WerStats, wer
from ctcsd.score.files import write_errs, write_recogs, write_summary
from ctcsd.score.significance import bootstrap_interval
from ctcsd.score.wer import characters, sentence_error_rate, total, utterance_errors


def levenshtein(a: list, b: list) -> int:
    """The textbook recursion, row by row: independent of kaldialign."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def test_wer_against_levenshtein_over_a_corpus() -> None:
    rng = np.random.default_rng(0)
    pairs = [
        ([*rng.choice(list("abcd"), rng.integers(0, 9))], [*rng.choice(list("abcd"), rng.integers(0, 9))])
        for _ in range(300)
    ]
    stats = wer(pairs)
    assert stats.errors == sum(levenshtein(a, b) for a, b in pairs)
    assert stats.errors == stats.ins + stats.dels + stats.subs
    assert stats.words == sum(len(a) for a, _ in pairs)
    assert stats.words - stats.dels + stats.ins == sum(len(b) for _, b in pairs)


def test_wer_is_summed_not_averaged() -> None:
    counts = [utterance_errors(["a"], ["b"]), utterance_errors(["a"] * 9, ["a"] * 9)]
    assert total(counts) == WerStats(1, 0, 0, 1, 10)
    assert total(counts).rate == 10.0
    assert sentence_error_rate(counts) == 50.0


def test_wer_corners() -> None:
    assert wer([]) == WerStats(0, 0, 0, 0, 0)
    assert wer([]).rate == 0.0
    assert sentence_error_rate([]) == 0.0
    assert wer([([], ["a"])]).rate == float("inf")
    with pytest.raises(TypeError, match="text.split"):
        wer([("a b", "a b")])
    assert characters("a bé") == ["a", "b", "é"]


def test_bootstrap_interval() -> None:
    rng = np.random.default_rng(3)
    words = rng.integers(1, 20, 400)
    errors = rng.binomial(words, 0.3)
    low, high = bootstrap_interval(errors, words)
    assert low < 100 * errors.sum() / words.sum() < high
    assert (low, high) == bootstrap_interval(errors, words), "the same seed gives the same interval"
    # the normal approximation of a ratio estimator
    rate = errors.sum() / words.sum()
    spread = 100 * np.sqrt(np.var(errors - rate * words) * len(words)) / words.sum()
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.05)
    assert bootstrap_interval([0, 0], [3, 4]) == (0.0, 0.0)
    with pytest.raises(ValueError, match="per utterance"):
        bootstrap_interval([], [])


def test_files_in_icefalls_layout(tmp_path: Path) -> None:
    rows = [("u1", ["the", "cat", "sat"], ["the", "bat"]), ("u2", ["on"], ["on", "on"])]
    write_recogs(tmp_path / "recogs.txt", rows)
    assert (tmp_path / "recogs.txt").read_text().splitlines()[:2] == [
        "u1:\tref=['the', 'cat', 'sat']",
        "u1:\thyp=['the', 'bat']",
    ]
    stats = write_errs(tmp_path / "errs.txt", rows)
    assert (stats.ins, stats.dels, stats.subs, stats.words) == (1, 1, 1, 4)
    lines = (tmp_path / "errs.txt").read_text().splitlines()
    assert lines[0] == "%WER = 75.00"
    assert "1 insertions, 1 deletions, 1 substitutions, over 4 reference words (2 correct)" in lines[1]
    assert "1   cat -> bat" in lines or "1   sat -> bat" in lines
    assert "u1:\tthe (cat sat->bat)" in lines
    assert any(line.startswith("u2:\t") and "(*->on)" in line for line in lines)
    starred = write_errs(tmp_path / "starred.txt", [("u1", list("f*ck"), list("fuck")), ("u2", ["*"], ["*", "*"])])
    lines = (tmp_path / "starred.txt").read_text().splitlines()
    assert (starred.ins, starred.subs) == (1, 1) and {"1   * -> u", "1   *", "u1:\tf (*->u) c k"} <= set(lines)
    assert "*   1 2 2 2" in lines, "once right, once another, once too many"
    figures = {"cer": 20.0, "ser": 80.0, "normalize": "none"}
    teacher = {"exit": "teacher", "wer": 40.0, "failed": [], **figures}
    student = {"exit": "student", "wer": 35.25, "failed": ["u1", "u2"], "oracle_wer": 0.0, **figures}
    write_summary(tmp_path / "summary.txt", [teacher, student])
    assert (tmp_path / "summary.txt").read_text().splitlines() == [
        "settings\tWER\tCER\tSER\toracle WER\tfailed\tnormalize",
        "student\t35.25\t20.00\t80.00\t0.00\tu1 u2\tnone",
        "teacher\t40.00\t20.00\t80.00\t-\t-\tnone",
    ]


def test_utterance_errors_of_equal_texts() -> None:
    assert utterance_errors(["a", "b"], ["a", "b"]) == WerStats(0, 0, 0, 0, 2)
