"""Paired comparisons, and the tables over methods and seeds, in either interpreter."""

from __future__ import annotations

import itertools
import json
import operator
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ctcsd.decode.hypothesis import Hypothesis, write_hypotheses
from ctcsd.errors import UserError
from ctcsd.run_dir import RunDir
from ctcsd.score.files import read_jsonl, write_jsonl
from ctcsd.score.paired import compare
from ctcsd.score.report import results_report
from ctcsd.score.run import score_run
from ctcsd.score.significance import paired_bootstrap
from ctcsd.score.tables import results_table
from ctcsd.stamp import mark
from ctcsd.text.reference import Reference

TEXTS = {"dev": {"d1": "a b c d"}, "test": {"t1": "a b c d", "t2": "e f g h", "t3": "i j"}}
PERFECT = {**TEXTS["dev"], **TEXTS["test"]}


def cells(table: str) -> list[dict[str, str]]:
    """The lines of a Markdown table, each as header -> cell."""
    split = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()]
    return [dict(zip(split[0], line)) for line in split[2:]]


def tables(text: str) -> list[list[dict[str, str]]]:
    """Every Markdown table of a report."""
    return [cells(part) for part in text.split("\n\n") if part.startswith("| ")]


@pytest.fixture
def score(tmp_path: Path):
    """Score a run below `tmp_path / "exp"` that recognised `texts` (cut id -> text; what is not named is right)."""

    def make(
        method: str,
        texts: Mapping[str, str] | None = None,
        seed: int = 1,
        exits: tuple[str, ...] = ("student",),
        decoders: tuple[str, ...] = ("greedy",),
        folder: str = "",
        **record,
    ) -> RunDir:
        run = RunDir(tmp_path / "exp" / (folder or method) / f"seed{seed}")
        found = {**PERFECT, **(texts or {})}
        for split, decoder, exit in itertools.product(TEXTS, decoders, exits):
            path = run.hypotheses(decoder, split, exit)
            write_hypotheses(path, [Hypothesis(cut_id, found[cut_id], 0.0, [], []) for cut_id in TEXTS[split]])
            run.hypotheses_marker(decoder, split, exit).write_text("{}")
        train = {"corpus": "toy", "method": method, "seed": seed, "parameters": dict.fromkeys(exits, 1_500_000)}
        train.update(seconds=60.0 * seed, peak_memory_mib=100 * seed, revision="abc", **record)
        (run.path / "train.json").write_text(json.dumps(train))
        spoken = {split: {cut_id: Reference(text) for cut_id, text in cuts.items()} for split, cuts in TEXTS.items()}
        score_run(run, spoken, decoders, exits)
        return run

    return make


def test_paired_bootstrap_against_brute_force() -> None:
    rng = np.random.default_rng(5)
    words = rng.integers(1, 12, 40)
    a, b = rng.binomial(words, 0.3), rng.binomial(words, 0.35)
    found = paired_bootstrap(a, b, words, resamples=500, seed=7)
    rates, better = [], 0.0
    for draw in np.random.default_rng(7).integers(0, 40, (500, 40)):
        errors_a, errors_b = sum(a[i] for i in draw), sum(b[i] for i in draw)
        rates.append(100 * errors_a / words[draw].sum() - 100 * errors_b / words[draw].sum())
        better += 1.0 if errors_a < errors_b else 0.5 if errors_a == errors_b else 0.0
    assert found.difference == pytest.approx(100 * (a.sum() - b.sum()) / words.sum())
    assert [found.low, found.high] == pytest.approx(list(np.percentile(rates, [2.5, 97.5])))
    assert found.improvement == pytest.approx(better / 500)
    assert found == paired_bootstrap(a, b, words, resamples=500, seed=7), "the same seed gives the same numbers"


def test_probability_of_improvement_against_every_resample() -> None:
    a, b = [1, 0, 2], [2, 1, 0]
    every = [sum(a[i] - b[i] for i in draw) for draw in itertools.product(range(3), repeat=3)]
    exact = (sum(d < 0 for d in every) + 0.5 * sum(d == 0 for d in every)) / len(every)
    assert paired_bootstrap(a, b, [3, 3, 3]).improvement == pytest.approx(exact, abs=0.02)


def test_paired_bootstrap_corners() -> None:
    same = paired_bootstrap([1, 2, 0], [1, 2, 0], [5, 5, 5])
    assert (same.difference, same.low, same.high, same.improvement) == (0.0, 0.0, 0.0, 0.5)
    better = paired_bootstrap([0, 1, 2], [1, 2, 3], [4, 4, 4])
    assert better.improvement == 1.0
    assert (better.difference, better.low, better.high) == (-25.0, -25.0, -25.0)
    for wrong in (([], [], []), ([1], [1, 2], [3, 3])):
        with pytest.raises(ValueError, match="per utterance"):
            paired_bootstrap(*wrong)


def test_scoring_keeps_the_counts_of_every_utterance(score) -> None:
    run = score("ctc", {"t1": "a b x d", "t3": "i"})
    assert read_jsonl(run.utterances("greedy", "test", "student")) == [
        {"cut_id": "t1", "word_errors": 1, "words": 4, "char_errors": 1, "chars": 4},
        {"cut_id": "t2", "word_errors": 0, "words": 4, "char_errors": 0, "chars": 4},
        {"cut_id": "t3", "word_errors": 1, "words": 2, "char_errors": 1, "chars": 2},
    ]
    dev, test = read_jsonl(run.results)
    assert (test["wer"], test["cer"]) == (20.0, 20.0)
    assert test["cer_low"] < test["cer"] < test["cer_high"]
    assert (dev["cer_low"], dev["cer"], dev["cer_high"]) == (0.0, 0.0, 0.0)


def test_rows_of_other_searches_and_exits_stay(score) -> None:
    """As long as the training is the same one; a summary has all exits."""
    run = score("skd", exits=("student", "teacher"), decoders=("greedy", "wfst"))
    before = read_jsonl(run.results)
    assert len(before) == 8
    score("skd", {"t1": "a b x d"})
    after = read_jsonl(run.results)
    place = operator.itemgetter("split", "decoder", "exit")
    now = {("dev", "greedy", "student"), ("test", "greedy", "student")}
    assert sorted(map(place, after)) == sorted(map(place, before))
    assert [row for row in after if place(row) not in now] == [row for row in before if place(row) not in now]
    assert [row["wer"] for row in after if place(row) == ("test", "greedy", "student")] == [10.0]
    summary = (run.decoded("greedy") / "wer-summary-test.txt").read_text().splitlines()
    assert [line.split("\t")[:2] for line in summary[1:]] == [["teacher", "0.00"], ["student", "10.00"]]
    write_jsonl(run.results, [{**row, "train_seconds": 1.0} for row in before])
    score("skd")
    assert sorted(map(place, read_jsonl(run.results))) == sorted(now), "those of another training are gone"


def test_dev_and_test_stand_first_whatever_was_scored_before(score) -> None:
    run = score("ctc")
    noisy = {**read_jsonl(run.results)[-1], "split": "test_noise20"}
    run.hypotheses("greedy", "test_noise20", "student").touch()
    write_jsonl(run.results, [*read_jsonl(run.results), noisy])
    score("ctc")
    assert [row["split"] for row in read_jsonl(run.results)] == ["dev", "test", "test_noise20"]


def test_other_utterances_are_refused(tmp_path: Path) -> None:
    row = {"cut_id": "u1", "word_errors": 0, "words": 2, "char_errors": 0, "chars": 4}
    for name, other in (("id", {"cut_id": "u2"}), ("reference", {"words": 3}), ("same", {"word_errors": 1})):
        write_jsonl(tmp_path / name, [{**row, **other}])
    write_jsonl(tmp_path / "first", [row])
    write_jsonl(tmp_path / "more", [row, {**row, "cut_id": "u3"}])
    for name in ("id", "reference", "more"):
        with pytest.raises(UserError, match="about other utterances"):
            compare([tmp_path / "first"], [tmp_path / name])
        with pytest.raises(UserError, match="about other utterances"):
            compare([tmp_path / "first", tmp_path / name], [tmp_path / "first"])
    assert compare([tmp_path / "first"], [tmp_path / "same"])["WER"].difference == -50.0
    with pytest.raises(UserError, match="missing: run stage 5"):
        compare([tmp_path / "first"], [tmp_path / "nowhere"])


def test_one_seed_stands_with_its_interval(score, tmp_path: Path) -> None:
    score("ctc", {"t1": "a b x d", "t3": "i"})
    score("skd", {"t1": "a b x d"}, exits=("student", "teacher"))
    text, markdown = results_report(tmp_path / "exp", "./run.sh --quick")
    lines, differences = tables(text)
    assert [(line["method"], line["exit"]) for line in lines] == [
        ("ctc", "student"),
        ("skd", "student"),
        ("skd", "teacher"),
    ]
    [row] = [row for row in read_jsonl(tmp_path / "exp/skd/seed1/results.jsonl")][2:3]
    assert lines[1]["test WER"] == f"10.0 [{row['wer_low']:.1f}, {row['wer_high']:.1f}]"
    assert lines[1]["test CER"] == f"10.0 [{row['cer_low']:.1f}, {row['cer_high']:.1f}]"
    assert lines[1]["parameters"] == "1.50 M"
    assert lines[1]["training"] == "1.0 min" and lines[1]["peak memory"] == "100 MiB"
    assert not {"agreement", "ref. agreement", "spike offset"} & set(lines[0]), "no row fills these columns"
    assert [(d["method"], d["exit"], d["unit"], d["difference"]) for d in differences] == [
        ("skd", "student", "WER", "-10.00"),
        ("skd", "student", "CER", "-10.00"),
    ]
    assert "Difference to ctc (student, greedy):" in text and "agreement:" not in text
    assert markdown.startswith("# Results\n\n| method") and markdown.endswith("    ./run.sh --quick\n")


def test_several_seeds_stand_as_mean_and_spread(score, tmp_path: Path) -> None:
    wrong = {"t1": "x x x x", "t2": "e f g h", "t3": "i j"}
    for seed, errors in ((1, 1), (2, 2), (3, 4)):
        score("ctc", {"t1": " ".join(["x"] * errors + ["a", "b", "c", "d"][errors:])}, seed)
    for seed in (2, 3, 4):
        score("skd", wrong, seed)
    text, _ = results_report(tmp_path / "exp")
    lines, differences = tables(text)
    # 10, 20 and 40 %: mean 70 / 3, squared deviations (178 + 11 + 278) / 2
    assert lines[0]["test WER"] == lines[0]["test CER"] == "23.3 ± 15.3"
    assert lines[0]["dev WER"] == "0.0 ± 0.0"
    assert lines[0]["method"] == "ctc, 3 seeds"
    assert lines[0]["training"] == "2.0 min" and lines[0]["peak memory"] == "300 MiB"
    # The common seeds are 2 and 3: (4 + 4) - (2 + 4) errors in 20 words, all of them in t1.
    expected = paired_bootstrap([8, 0, 0], [6, 0, 0], [8, 8, 4])
    assert differences[0] == {
        "method": "skd, 2 seeds",
        "exit": "student",
        "unit": "WER",
        "difference": "+10.00",
        "95 % interval": f"[{expected.low:+.2f}, {expected.high:+.2f}]",
        "probability of improvement": f"{expected.improvement:.3f}",
    }


def test_no_common_seed(score, tmp_path: Path) -> None:
    score("ctc", seed=1)
    score("skd", seed=2)
    _, differences = tables(results_report(tmp_path / "exp")[0])
    assert [d["95 % interval"] for d in differences] == ["no common seed"] * 2


def test_some_seeds_only(score, tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        score("ctc", seed=seed)
        score("skd", seed=seed)
    both = tables(results_report(tmp_path / "exp", seeds=[1, 3])[0])
    shutil.rmtree(tmp_path / "exp/ctc/seed2")
    shutil.rmtree(tmp_path / "exp/skd/seed2")
    assert tables(results_report(tmp_path / "exp")[0]) == both
    with pytest.raises(UserError, match="no results of the seed '2'; there are: 1, 3"):
        results_report(tmp_path / "exp", seeds=[2])


def test_order_decoder_and_baseline(score, tmp_path: Path) -> None:
    for method in ("ctc", "interctc", "skd"):
        score(method, decoders=("greedy", "k2-1best"))
    score("ctc_teacher", exits=("teacher",), decoders=("greedy", "k2-1best"))
    text, _ = results_report(tmp_path / "exp", methods=["skd", "ctc"], decoder="k2-1best", baseline="interctc")
    lines, differences = tables(text)
    assert [line["method"] for line in lines] == ["skd", "ctc", "ctc_teacher", "interctc"]
    assert {line["decoder"] for line in lines} == {"k2-1best"}
    assert [(d["method"], d["exit"]) for d in differences[::2]] == [
        ("skd", "student"),
        ("ctc", "student"),
        ("ctc_teacher", "teacher"),
    ]
    assert "Difference to interctc (student, k2-1best):" in text
    assert len(tables(results_report(tmp_path / "exp")[0])[0]) == 8
    with pytest.raises(UserError, match="no baseline 'skdd' among the methods: ctc, ctc_teacher, interctc, skd"):
        results_report(tmp_path / "exp", baseline="skdd")
    with pytest.raises(UserError, match="no results of the decoder 'beam'; there are: greedy, k2-1best"):
        results_report(tmp_path / "exp", decoder="beam")


def test_nothing_to_compare(score, tmp_path: Path) -> None:
    score("ctc")
    assert len(tables(results_report(tmp_path / "exp")[0])) == 1
    assert len(tables(results_report(tmp_path / "exp", baseline="ctc")[0])) == 1
    score("skd", folder="other/skd")
    assert len(tables(results_report(tmp_path / "exp" / "other")[0])) == 1, "no ctc, no baseline"


def test_a_warm_start_is_marked(score, tmp_path: Path) -> None:
    score("ctc", init_from="runs/base")
    score("skd", init_from="runs/base")
    text, _ = results_report(tmp_path / "exp")
    lines, differences = tables(text)
    assert [line["method"] for line in lines] == ["ctc (warm)", "skd (warm)"]
    assert differences[0]["method"] == "skd (warm)" and "Difference to ctc (warm) (" in text
    score("ctc", {"t1": ""}, folder="cold/ctc")
    lines, differences = tables(results_report(tmp_path / "exp")[0])
    assert [line["method"] for line in lines] == ["ctc", "ctc (warm)", "skd (warm)"]
    assert [d["method"] for d in differences[::2]] == ["ctc (warm)", "skd (warm)"]


def test_runs_that_fit_no_common_table_are_refused(score, tmp_path: Path) -> None:
    run = score("ctc")
    score("ctc", folder="again/ctc")
    with pytest.raises(UserError, match="are both ctc with seed 1"):
        results_report(tmp_path / "exp")
    write_jsonl(run.results, [{**row, "split": f"mini_{row['split']}"} for row in read_jsonl(run.results)])
    with pytest.raises(UserError, match="different splits"):
        results_report(tmp_path / "exp")


def test_seeds_of_other_options_are_no_seeds(score, tmp_path: Path) -> None:
    for seed, epochs in ((1, 13), (2, 13), (3, 40)):
        run = score("ctc", seed=seed)
        mark(run.train_marker, {"seed": seed, "train.epochs": epochs, "file model": str(seed)})
    results_report(tmp_path / "exp", seeds=[1, 2])
    with pytest.raises(UserError, match="seed1 and .*seed3 are both ctc, but train.epochs is 13 and 40: train them"):
        results_report(tmp_path / "exp")


def test_optional_columns() -> None:
    row = {"method": "skd", "seed": 1, "exit": "student", "decoder": "greedy", "split": "test", "parameters": 2e6}
    row.update(wer=20.0, wer_low=18.0, wer_high=22.0, cer=5.0, train_seconds=90, peak_memory_mib=7)
    other = {**row, "method": "kd", "ref_agreement": 70.0, "ref_agreement_nonblank": 60.0}
    full = {**row, "seed": 2, "agreement": 90.0, "agreement_nonblank": 80.0, "spike_offset_ms": 12.4}
    lines = cells(results_table([row, other], "dev", "test"))
    assert [line["ref. agreement"] for line in lines] == ["-", "70.0 (60.0)"]
    assert lines[0]["test CER"] == "5.0" and "dev WER" not in lines[0] and "spike offset" not in lines[0]
    lines = cells(results_table([row, full, other], "dev", "test"))
    assert lines[0]["agreement"] == "90.0 (80.0)" and lines[0]["spike offset"] == "12 ms"
    assert lines[1]["agreement"] == "-"


@pytest.mark.parametrize(
    "change", [{"decoder": None}, {"wer": "x"}, {"rtf": "x"}, {"seed": "1"}, {"cer": float("nan")}, {"unit": [3]}]
)
def test_a_damaged_row_is_named(score, tmp_path: Path, change: dict[str, object]) -> None:
    run = score("ctc")
    rows = read_jsonl(run.results)
    write_jsonl(run.results, [rows[0], {**rows[1], **change}])
    with pytest.raises(UserError, match=f"results.jsonl: line 2: '{next(iter(change))}' is missing or of another kind"):
        results_report(tmp_path / "exp")
    write_jsonl(run.results, [*rows, rows[0]])
    with pytest.raises(UserError, match="results.jsonl: line 3 stands twice: damaged, run stage 5 again"):
        results_report(tmp_path / "exp")


def test_the_cost_of_a_search_changes_no_error_rate(score, tmp_path: Path) -> None:
    run = score("ctc", {"t1": "a b x d"})
    for found, rtf in (({"wer": 3, "rtf": 0.5, "search_peak_mib": "x"}, "0.5"), ({"rtf": float("nan")}, None)):
        for split in TEXTS:
            run.search_cost("greedy", split, "student").write_text(json.dumps(found))
        spoken = {split: {key: Reference(text) for key, text in texts.items()} for split, texts in TEXTS.items()}
        rows = score_run(run, spoken, ["greedy"], ["student"])
        assert rows[1]["wer"] == 10.0 and "search_peak_mib" not in rows[1]
        [[line], *_] = tables(results_report(tmp_path / "exp")[0])
        assert line.get("RTF") == rtf and line["test WER"].startswith("10.0 ")
