"""Alignment metrics against a computation by hand, in either interpreter."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fakes import random_log_probs
from typer.testing import CliRunner

from ctcsd.cli import app
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.score.agreement import agreement_of_run
from ctcsd.score.alignment import Alignment, compare_archives, compare_utterance, spike_offsets, spikes
from ctcsd.score.plot import plot_alignment
from ctcsd.text.tokenizer import TokenTable

NO_FRAMES = np.zeros((0, 5), dtype=np.float32)


def spell(path: list[int], vocab_size: int = 5) -> np.ndarray:
    """(T, V) log-probs whose most probable tokens are `path`."""
    return np.log(np.eye(vocab_size)[path] * 0.9 + 0.1 / vocab_size).astype(np.float32)


def spikes_by_hand(log_probs: np.ndarray) -> list[tuple[int, int]]:
    rows = [list(row) for row in log_probs]
    says = [row.index(max(row)) for row in rows]
    found = []
    for token, run in itertools.groupby(range(len(says)), key=says.__getitem__):
        if token != 0:
            found.append((token, max(run, key=lambda frame: rows[frame][token])))
    return found


def optimal_offsets(teacher: list[tuple[int, int]], student: list[tuple[int, int]]) -> set[tuple[int, ...]]:
    """The sorted offsets of every alignment with the fewest errors."""

    @cache
    def best(i: int, j: int) -> tuple[int, frozenset[tuple[int, ...]]]:
        if i == 0 or j == 0:
            return i + j, frozenset([()])
        (a, t), (b, s) = teacher[i - 1], student[j - 1]
        cost, ways = best(i - 1, j - 1)
        options = [(cost + (a != b), {(*way, s - t) for way in ways} if a == b else ways)]
        options += [(cost + 1, ways) for cost, ways in (best(i - 1, j), best(i, j - 1))]
        fewest = min(cost for cost, _ in options)
        return fewest, frozenset(tuple(sorted(w)) for cost, ways in options if cost == fewest for w in ways)

    return set(best(len(teacher), len(student))[1])


def test_every_figure_by_hand(make_archive) -> None:
    rng = np.random.default_rng(0)
    teacher = [(f"u{i}", random_log_probs(rng, int(n), 5)) for i, n in enumerate(rng.integers(0, 14, 80))]
    student = [(cut_id, t + random_log_probs(rng, len(t), 5, peak=2.0)) for cut_id, t in teacher]
    found = compare_archives(make_archive(teacher, "teacher"), make_archive(student, "student"))

    pairs, offsets, teacher_spikes, student_spikes = [], [], 0, 0
    for (_, t), (_, s) in zip(teacher, student):
        pairs += [(int(a.argmax()), int(b.argmax())) for a, b in zip(t, s)]
        by_hand = spikes_by_hand(t), spikes_by_hand(s)
        assert (spikes(t), spikes(s)) == by_hand
        matched = sorted(spike_offsets(*by_hand).elements())
        assert tuple(matched) in optimal_offsets(*by_hand)
        offsets += matched
        teacher_spikes += len(by_hand[0])
        student_spikes += len(by_hand[1])

    def percent(kept: list[bool]) -> float:
        return 100.0 * float(np.mean(kept))

    assert found.frames == len(pairs)
    assert found.accuracy == pytest.approx(percent([a == b for a, b in pairs]))
    assert found.nonblank_accuracy == pytest.approx(percent([a == b for a, b in pairs if a != 0]))
    assert found.nonblank_to_blank_share == pytest.approx(percent([b == 0 for a, b in pairs if a != 0]))
    assert found.teacher_blank_share == pytest.approx(percent([a == 0 for a, _ in pairs]))
    assert found.student_blank_share == pytest.approx(percent([b == 0 for _, b in pairs]))
    assert (found.spikes, found.student_spikes) == (teacher_spikes, student_spikes)
    assert found.offsets == Counter(offsets)
    assert len(set(offsets)) > 3, "the archives are random enough"
    assert found.matched_share == pytest.approx(100.0 * len(offsets) / teacher_spikes)
    assert found.near_share == pytest.approx(percent([abs(offset) <= 1 for offset in offsets]))
    assert found.mean_offset_ms == pytest.approx(40.0 * np.mean(offsets))
    assert found.mean_absolute_offset_ms == pytest.approx(40.0 * np.mean(np.abs(offsets)))


def test_a_spike_sits_where_its_token_is_most_probable() -> None:
    blank, low, high = [0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.2, 0.8, 0.0]
    log_probs = np.log(np.array([blank, low, high, low, blank, high, high, [0.1, 0.0, 0.9]]) + 1e-6)
    assert spikes(log_probs) == [(1, 2), (1, 5), (2, 7)]
    assert spikes(NO_FRAMES) == []


def test_identity(make_archive) -> None:
    rng = np.random.default_rng(1)
    reader = make_archive([(f"u{i}", random_log_probs(rng, 30, 5)) for i in range(5)])
    found = compare_archives(reader, reader)
    assert found.accuracy == found.nonblank_accuracy == found.matched_share == found.near_share == 100.0
    assert found.nonblank_to_blank_share == 0.0
    assert found.teacher_blank_share == found.student_blank_share
    assert found.offsets == {0: found.spikes}
    assert found.mean_offset_ms == found.mean_absolute_offset_ms == 0.0


def test_what_cannot_be_read_is_left_out(make_archive, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    utterances = [(f"u{i}", random_log_probs(rng, 30, 5)) for i in range(5)]
    damaged, whole = make_archive(utterances, "damaged"), make_archive(utterances[1:], "whole")
    (damaged.path / "arrays" / damaged.index["u0"]["array"]["storage_key"]).write_bytes(b"")
    other = make_archive(utterances, "other")
    assert compare_archives(damaged, other) == compare_archives(whole, make_archive(utterances[1:], "others"))
    assert "utterance u0: unreadable" in capsys.readouterr().out


@pytest.mark.parametrize("shift", [-3, -1, 2])
def test_a_shifted_student(make_archive, shift: int) -> None:
    path = [0, 0, 0, 1, 0, 2, 2, 0, 0, 3, 0, 4, 3, 0, 0, 0]
    teacher = [("u0", spell(path)), ("u1", spell(path * 2))]
    student = [(cut_id, np.roll(t, shift, axis=0)) for cut_id, t in teacher]
    found = compare_archives(make_archive(teacher, "teacher"), make_archive(student, "student"))
    assert found.offsets == {shift: 15}
    assert found.mean_offset_ms == pytest.approx(40.0 * shift)
    assert found.mean_absolute_offset_ms == pytest.approx(40.0 * abs(shift))
    assert found.matched_share == 100.0
    assert found.near_share == (100.0 if abs(shift) <= 1 else 0.0)


def test_the_order_of_the_cuts_does_not_matter(make_archive) -> None:
    rng = np.random.default_rng(2)
    teacher = [(f"u{i}", random_log_probs(rng, 9, 5)) for i in range(6)]
    student = [(cut_id, random_log_probs(rng, 9, 5)) for cut_id, _ in teacher]
    reader = make_archive(teacher, "teacher")
    found = compare_archives(reader, make_archive(student, "student"))
    assert compare_archives(reader, make_archive(student[::-1], "reversed")) == found


def test_utterances_add_up(make_archive) -> None:
    rng = np.random.default_rng(3)
    pairs = [(random_log_probs(rng, n, 5), random_log_probs(rng, n, 5)) for n in (4, 0, 11)]
    parts = [compare_utterance(t, s, 0.04) for t, s in pairs]
    teacher = make_archive([(f"u{i}", t) for i, (t, _) in enumerate(pairs)], "teacher")
    student = make_archive([(f"u{i}", s) for i, (_, s) in enumerate(pairs)], "student")
    assert sum(parts, Alignment(0.04)) == compare_archives(teacher, student)


@pytest.mark.parametrize("longer", [1, 2])
def test_lengths_may_differ_by_two_frames(longer: int) -> None:
    short, long = spell([0, 1, 0]), spell([0, 1, 0, 2, 2][: 3 + longer])
    for found in (compare_utterance(short, long, 0.04), compare_utterance(long, short, 0.04)):
        assert (found.frames, found.agree, found.spikes, found.student_spikes) == (3, 3, 1, 1)


def test_what_cannot_be_compared_is_one_line(make_archive, tmp_path: Path, table: TokenTable) -> None:
    both = make_archive([("u0", spell([1])), ("u1", spell([0]))], "both")
    one = make_archive([("u0", spell([1]))], "one")
    for teacher, student in ((both, one), (one, both)):
        with pytest.raises(UserError, match="one lacks the cut u1"):
            compare_archives(teacher, student)
    long = make_archive([("u0", spell([1, 0, 0, 0]))], "long")
    with pytest.raises(UserError, match=r"cut u0 has 4 frames in .*long, but 1 in .*one: "):
        compare_archives(one, long)
    with PosteriorWriter(tmp_path / "foreign", TokenTable(["<blk>", "x"])) as writer:
        writer.write("u0", spell([1], 2))
    with pytest.raises(UserError, match="foreign has another token table than .*one: its token 1 is "):
        compare_archives(one, PosteriorReader(tmp_path / "foreign"))
    with PosteriorWriter(tmp_path / "fast", table, frame_shift=0.03) as writer:
        writer.write("u0", spell([1]))
    with pytest.raises(UserError, match=r"fast has a frame every 30 ms, which does not divide 40 ms"):
        compare_archives(one, PosteriorReader(tmp_path / "fast"))


@pytest.mark.parametrize("pool", [2, 3])
def test_shorter_frames_are_averaged_down(make_archive, tmp_path: Path, table: TokenTable, pool: int) -> None:
    rng = np.random.default_rng(pool)
    fine, coarse = random_log_probs(rng, 7 * pool + 1, 5), random_log_probs(rng, 6, 5)
    with PosteriorWriter(tmp_path / "fine", table, frame_shift=0.04 / pool) as writer:
        writer.write("u0", fine)
    reader, other = PosteriorReader(tmp_path / "fine"), make_archive([("u0", coarse)], "coarse")
    means = np.stack([np.exp(fine[pool * t : pool * t + pool]).sum(0) / pool for t in range(7)])
    np.testing.assert_allclose(np.exp(reader.at(0.04).read("u0")), means, atol=1e-6)
    assert compare_archives(reader, other) == compare_utterance(np.log(means), coarse, 0.04)
    assert compare_archives(other, reader) == compare_utterance(coarse, np.log(means), 0.04)
    assert len(reader.read("u0")) == len(fine), "the reader stays as it was"


def test_nothing_to_compare(make_archive) -> None:
    empty = compare_archives(make_archive([("u0", NO_FRAMES)], "empty"), make_archive([("u0", NO_FRAMES)], "too"))
    blank = compare_utterance(spell([0, 1, 2]), spell([0, 0, 0]), 0.04)
    assert empty == Alignment(0.04)
    assert (blank.nonblank_to_blank_share, blank.matched_share, blank.near_share) == (100.0, 0.0, 0.0)
    assert blank.student_blank_share == 100.0
    for found in (empty, blank):
        assert math.isnan(found.mean_offset_ms)
        assert math.isnan(found.mean_absolute_offset_ms)
        assert "spike_offset_ms" not in found.figures()
        assert "timing of the matched: none" in found.describe()
        json.dumps(found.to_dict(), allow_nan=False)


@pytest.fixture
def runs(tmp_path: Path, table: TokenTable) -> tuple[RunDir, RunDir]:
    """A run with a student and a teacher exit, and that of a separate teacher."""
    run, reference = RunDir(tmp_path / "skd"), RunDir(tmp_path / "ctc_teacher")
    for archive, path in (
        (run.archive("dev", "student"), [0, 1, 0, 0, 2]),
        (run.archive("dev", "teacher"), [0, 1, 0, 2, 0]),
        (reference.archive("dev", "teacher"), [1, 0, 0, 2, 0]),
    ):
        with PosteriorWriter(archive, table) as writer:
            writer.write("u0", spell(path))
    record = {"corpus": "toy", "method": "ctc_teacher", "seed": 1, "parameters": {"low": 1, "teacher": 2}}
    record |= {"seconds": 1.0, "peak_memory_mib": 1, "revision": "abc"}
    (reference.path / "train.json").write_text(json.dumps(record))
    return run, reference


OWN = {
    "agreement": 60.0,
    "agreement_nonblank": 50.0,
    "nonblank_to_blank": 50.0,
    "teacher_blank_share": 60.0,
    "student_blank_share": 60.0,
    "spikes_matched": 100.0,
    "spikes_within_one_frame": 100.0,
    "spike_offset_ms": 20.0,
    "spike_shift_ms": 20.0,
}


def test_the_fields_of_a_run(runs: tuple[RunDir, RunDir]) -> None:
    run, reference = runs
    assert agreement_of_run(run, "dev", ["student"], None) == {"student": OWN}
    rows = agreement_of_run(run, "dev", ["student", "middle", "teacher"], reference)
    row = rows["student"]
    assert {key: value for key, value in row.items() if not key.startswith("ref_")} == OWN
    assert [key[4:] for key in row if key.startswith("ref_")] == [*row][: len(OWN)]
    assert (row["ref_agreement"], row["ref_agreement_nonblank"], row["ref_spike_shift_ms"]) == (20.0, 0.0, 40.0)
    held = json.loads((run.path / "alignment" / "dev-student-vs-ctc_teacher-teacher.json").read_text())
    assert held["offsets"] == {"1": 2}
    assert held["agreement"] == row["ref_agreement"]
    assert (run.path / "alignment" / "dev-student-vs-teacher.json").is_file()
    assert {key: rows["teacher"][key] for key in OWN} == OWN, "the figures of the pair"
    assert (rows["teacher"]["ref_agreement"], rows["teacher"]["ref_spike_shift_ms"]) == (60.0, 20.0), "its own"
    assert rows["middle"] == {}, "without an archive"


def test_a_separate_teacher_of_other_frames(runs: tuple[RunDir, RunDir], table: TokenTable, capsys) -> None:
    run, reference = runs
    for shift, path in ((0.02, [0, 0, 1, 1, 0, 0, 2, 2, 0, 0]), (0.03, [0, 1, 0, 2, 0, 0])):
        with PosteriorWriter(reference.archive("dev", "teacher"), table, shift) as writer:
            writer.write("u0", spell(path))
        row = agreement_of_run(run, "dev", ["student"], reference)["student"]
        assert {key: row[key] for key in OWN} == OWN
        assert row.get("ref_agreement") == (60.0 if shift == 0.02 else None)
    said = capsys.readouterr().out
    assert said == "dev-student-vs-ctc_teacher-teacher is left out: no frames of 0.03 s make one of 0.04 s\n"


@pytest.mark.parametrize("other", ["cuts", "tokens"])
def test_a_separate_teacher_of_something_else(runs: tuple[RunDir, RunDir], table: TokenTable, capsys, other) -> None:
    run, reference = runs
    theirs = table if other == "cuts" else TokenTable([*table.symbols[:-1], "z"])
    with PosteriorWriter(reference.archive("dev", "teacher"), theirs) as writer:
        writer.write("u9" if other == "cuts" else "u0", spell([0, 1, 0, 2, 0]))
    assert agreement_of_run(run, "dev", ["student"], reference) == {"student": OWN}
    said = capsys.readouterr().out
    assert "dev-student-vs-ctc_teacher-teacher is left out: " in said
    assert ("lacks the cut" if other == "cuts" else "has another token table") in said


def test_a_run_without_archives_has_no_fields(runs: tuple[RunDir, RunDir]) -> None:
    run, reference = runs
    assert agreement_of_run(run, "test", ["student", "teacher"], reference) == {"student": {}, "teacher": {}}
    assert agreement_of_run(reference, "dev", ["teacher"], None) == {"teacher": {}}
    assert not (reference.path / "alignment").exists()


def test_compare_says_the_figures(runs: tuple[RunDir, RunDir]) -> None:
    archives = [str(runs[0].archive("dev", exit)) for exit in ("teacher", "student")]
    result = CliRunner().invoke(app, ["compare", *archives])
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "agreement: 60.0 % of 5 frames, 50.0 % of the 2 where the teacher is not blank",
        "blank: teacher 60.0 %, student 60.0 %; student blank where the teacher is not: 50.0 %",
        "spikes: teacher 2, student 2; 100.0 % matched",
        "timing of the matched: student +20.0 ms on average, 20.0 ms off, 100.0 % within one frame of 40 ms",
    ]


def test_a_picture_without_matplotlib_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    with pytest.raises(UserError, match=r"pair\.png needs matplotlib, which is not installed"):
        plot_alignment(tmp_path / "pair.png", Alignment(0.04), "pair")
