"""Stage 5 on a run, in either interpreter: failed utterances, normalisation, breakdown, n-best oracle, trn files."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctcsd.decode.hypothesis import Hypothesis, write_hypotheses
from ctcsd.errors import UserError
from ctcsd.run_dir import RunDir
from ctcsd.score.files import read_jsonl, write_jsonl
from ctcsd.score.run import describe, score_run
from ctcsd.text.normalize import SCORING_RULES, scoring_rule
from ctcsd.text.reference import Reference

SPOKEN = {
    "u1": Reference("the cat sat", "ann", 1.5),
    "u2": Reference("on the mat", "bob", 2.0),
    "u3": Reference("yes", "ann", 0.4),
    "u4": Reference("a b c d e f g h", "bob", 9.9),
}


@pytest.fixture
def score(tmp_path: Path):
    """Score hypotheses (cut id -> text, or a Hypothesis) on split `test` of a run; returns the row and the run."""
    run = RunDir(tmp_path / "run")

    def make(
        found: Mapping[str, Any], spoken: Mapping[str, Reference] = SPOKEN, rule: str = "none"
    ) -> tuple[dict[str, Any], RunDir]:
        hypotheses = [h if isinstance(h, Hypothesis) else Hypothesis(u, h, 0.0, [], []) for u, h in found.items()]
        write_hypotheses(run.hypotheses("greedy", "test", "student"), hypotheses)
        run.hypotheses_marker("greedy", "test", "student").write_text("{}")
        train = {"corpus": "toy", "method": "ctc", "seed": 1, "parameters": {"student": 1}}
        train.update(seconds=1.0, peak_memory_mib=1, revision="abc")
        (run.path / "train.json").write_text(json.dumps(train))
        return score_run(run, {"test": spoken}, ["greedy"], ["student"], rule=rule)[0], run

    return make


RIGHT = {cut_id: reference.text for cut_id, reference in SPOKEN.items()}


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8"), delimiter="\t"))


def test_a_missing_hypothesis_counts_as_deleted_and_is_named(score) -> None:
    """As much as one that failed; a hypothesis of another cut is refused."""
    failed = Hypothesis("u3", "", 0.0, [], [], "NaN in its posteriors")
    row, run = score({"u1": "the cat sat", "u3": failed, "u4": "a b c d e f g h"})
    assert (row["dels"], row["ins"], row["subs"], row["words"]) == (4, 0, 0, 15)
    assert (row["failed"], row["utterances"], row["ser"]) == (["u2", "u3"], 4, 50.0)
    assert "2 failed, counted as deleted: u2 u3" in describe(row)
    failures = {u["cut_id"]: u.get("failure") for u in read_jsonl(run.utterances("greedy", "test", "student"))}
    assert failures == {"u1": None, "u2": "no hypothesis", "u3": "NaN in its posteriors", "u4": None}
    (summary,) = table(run.decoded("greedy") / "wer-summary-test.txt")
    assert (summary["failed"], summary["SER"], summary["normalize"]) == ("u2 u3", "50.00", "none")
    with pytest.raises(UserError, match="2 cuts are not of the split, such as x1: run stage 4"):
        score({**RIGHT, "x1": "", "x2": "a"})
    with pytest.raises(UserError, match="no hypothesis: run stage 4"):
        score({})


def test_normalisation_is_of_both_sides_and_only_on_demand(score) -> None:
    spoken = {"u1": Reference("It’s 7, Ann!"), "u2": Reference("CAFE\u0301")}
    found = {"u1": "it's 8 ann", "u2": "café."}
    errors = {}
    for rule in SCORING_RULES:
        row, run = score(found, spoken, rule)
        assert row["normalize"] == rule
        assert table(run.decoded("greedy") / "wer-summary-test.txt")[0]["normalize"] == rule
        errors[rule] = row["subs"]
    assert errors == {"none": 4, "lower": 4, "nopunct": 1}
    assert "ref=['it', 's', '7', 'ann']" not in (run.decoded("greedy") / "recogs-test-student.txt").read_text()
    with pytest.raises(UserError, match="score.normalize=upper: no such rule; known: none, lower, nopunct"):
        score(found, spoken, "upper")
    for text in ("  Ünïcode’s “QUOTES” – 3.14 ", "DON'T"):
        for rule in map(scoring_rule, SCORING_RULES):
            assert rule(rule(text)) == rule(text)


def test_breakdown_by_speaker_and_length(score) -> None:
    row, run = score({**RIGHT, "u1": "the bat sat down", "u3": ""})
    lines = table(run.decoded("greedy") / "breakdown-test-student.tsv")
    groups = {(line["by"], line["group"]): line for line in lines}
    assert list(groups) == [
        ("speaker", "ann"),
        ("speaker", "bob"),
        ("words", "1"),
        ("words", "2-3"),
        ("words", "8-15"),
        ("seconds", "0-1"),
        ("seconds", "1-2"),
        ("seconds", "2-4"),
        ("seconds", "8-16"),
    ]
    ann = groups["speaker", "ann"]
    assert [ann[key] for key in ("utterances", "words", "ins", "dels", "subs", "WER", "SER")] == [
        *("2", "4", "1", "1", "1", "75.00", "100.00")
    ]
    assert (groups["speaker", "bob"]["WER"], groups["words", "2-3"]["SER"]) == ("0.00", "50.00")
    for by in ("speaker", "words", "seconds"):
        counts = [sum(int(line[key]) for line in lines if line["by"] == by) for key in ("words", "ins", "dels", "subs")]
        assert counts == [row["words"], row["ins"], row["dels"], row["subs"]]
    _, run = score({"u1": "a"}, {"u1": Reference("a")})
    assert [line["by"] for line in table(run.decoded("greedy") / "breakdown-test-student.tsv")] == ["words"]


def test_oracle_of_nbest_lists(score) -> None:
    found = {**RIGHT, "u1": "the bat sat", "u2": "on a mat", "u3": "no"}
    row, run = score(found)
    assert "oracle_wer" not in row
    lists = {"u1": ["the bat sat", "the cat sat", "cat"], "u2": ["on a mat", "in a mat"], "u4": []}
    rows = [{"id": u, "nbest": [{"text": text, "am": -1.0, "lm": 0.0} for text in texts]} for u, texts in lists.items()]
    nbest = run.nbest("greedy", "test", "student")
    write_jsonl(nbest, rows)
    row, _ = score(found)
    assert (row["subs"], row["nbest"]) == (3, 1.2)  # 5 candidates of 4 utterances
    assert row["oracle_wer"] == round(100 * 2 / 15, 2)  # u1 is in the list; u2 is not, and u3 has none
    assert f"oracle WER {row['oracle_wer']:.2f}" in describe(row)
    for wrong, message in (({"id": "u9", "nbest": []}, "u9 is not among"), ({"id": "u1"}, "line 1 is no n-best list")):
        write_jsonl(nbest, [wrong])
        with pytest.raises(UserError, match=message):
            score(found)


WORDS = st.lists(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=3), max_size=5)
IDS = st.text(st.characters(min_codepoint=32, max_codepoint=0x17F), min_size=1, max_size=8)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(IDS, st.tuples(WORDS, WORDS, IDS), min_size=1, max_size=12))
def test_trn_files_say_the_same_in_names_that_sclite_takes(score, utterances) -> None:
    spoken = {u: Reference(" ".join(ref), speaker, 1.0) for u, (ref, _, speaker) in utterances.items()}
    row, run = score({u: " ".join(hyp) for u, (_, hyp, _) in utterances.items()}, spoken)
    files = [run.decoded("greedy") / f"{side}-test-student.trn" for side in ("ref", "hyp")]
    sides = []
    for path in files:
        lines = [re.fullmatch(r"(.*) \(([\w.%]+)-([\w.%-]+)\)", line) for line in path.read_text("utf-8").splitlines()]
        assert all(lines)
        assert not any(set(line[1]) & set("(){}<>/\\@;*") for line in lines)
        assert [line[2].replace("_", "-").split("-")[0] for line in lines] == [line[2] for line in lines]
        sides.append({line[2] + "-" + line[3]: line[1].split() for line in lines})
    assert len(sides[0]) == len(utterances) and list(sides[0]) == list(sides[1])
    pairs = zip(sides[0].values(), sides[1].values())
    assert sum(ref == hyp for ref, hyp in pairs) == sum(ref == hyp for ref, hyp, _ in utterances.values())
    assert sum(map(len, sides[0].values())) == row["words"]
