"""Corners that every search method shares: nothing, NaN, the prior; and what a run does with failed utterances."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute_force import add_words, small_utterances
from fakes import random_log_probs

from ctcsd.config import Config, DecodeConfig, load_config
from ctcsd.decode import search
from ctcsd.decode.hypothesis import read_hypotheses
from ctcsd.decode.run import search_options, search_run
from ctcsd.decode.search import STATES
from ctcsd.errors import SomeFailed, UserError, one_line_errors
from ctcsd.posteriors import PosteriorWriter
from ctcsd.run_dir import RunDir
from ctcsd.text.tokenizer import TokenTable

WAYS: list[tuple[str, dict[str, Any]]] = [
    ("greedy", {}),
    ("beam", {}),
    ("beam", {"lexicon": True}),
    ("wfst", {"graph": "H"}),
    ("wfst", {"graph": "HL"}),
    ("wfst", {"graph": "HLG"}),
]
each_way = pytest.mark.parametrize(("method", "options"), WAYS)


@each_way
def test_order_changes_nothing(make_archive, lang_dir: Path, method: str, options: dict[str, Any]) -> None:
    add_words(lang_dir)
    utterances = small_utterances(0, 12)
    there = list(search(make_archive(utterances), lang_dir, method, **options))
    back = list(search(make_archive(utterances[::-1], "back"), lang_dir, method, **options))
    assert there == back[::-1]
    assert [h.cut_id for h in there] == [cut_id for cut_id, _ in utterances]


@each_way
def test_corners(make_archive, lang_dir: Path, method: str, options: dict[str, Any]) -> None:
    add_words(lang_dir)
    spelled = np.full((4, 5), -np.inf, dtype=np.float32)
    spelled[[0, 1, 2, 3], [2, 3, 1, 4]] = 0.0  # "ab c"
    blank = np.log(np.full((5, 5), 0.01, dtype=np.float32))
    blank[:, 0] = np.log(0.96)
    impossible = spelled.copy()
    impossible[2] = -np.inf
    reader = make_archive(
        [
            ("none", np.zeros((0, 5), np.float32)),
            ("nan", np.where(np.arange(20).reshape(4, 5) == 16, np.nan, spelled)),
            ("spelled", spelled),
            ("one", spelled[:1]),
            ("impossible", impossible),
            ("blank", blank),
            ("infinite", np.full((1, 5), np.inf, np.float32)),
        ]
    )
    found = {h.cut_id: h for h in search(reader, lang_dir, method, **options)}
    assert {cut_id: h.text for cut_id, h in found.items()} == {
        "none": "",
        "nan": "",
        "spelled": "ab c",
        "one": "a",
        "impossible": "",
        "blank": "",
        "infinite": "",
    }
    assert {cut_id: h.failure for cut_id, h in found.items() if h.failure} == {
        "nan": "NaN in its posteriors, first in frame 3, token 1",
        "impossible": "no token is possible in frame 2",
        "infinite": "infinity in its posteriors, first in frame 0, token 0",
    }
    assert found["spelled"].tokens == [2, 3, 1, 4] and found["spelled"].frames == [0, 1, 2, 3]


@each_way
def test_the_prior_is_subtracted_once(
    make_archive, lang_dir: Path, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    add_words(lang_dir)
    prior = np.array([0.7, 0.1, 0.1, 0.05, 0.05])
    np.save(tmp_path / "prior.npy", prior)
    utterances = small_utterances(1, 6)
    less = [(cut_id, (p - 0.6 * np.log(prior)).astype(np.float32)) for cut_id, p in utterances]
    reader = make_archive(utterances)
    ours = search(reader, lang_dir, method, prior=str(tmp_path / "prior.npy"), prior_scale=0.6, **options)
    for own, expected in zip(ours, search(make_archive(less, "less"), lang_dir, method, **options)):
        assert own.text == expected.text
        assert own.score == pytest.approx(expected.score, abs=1e-4)


def test_wrong_priors_are_one_line(make_archive, lang_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "prior.npy"
    for prior, words in (
        (np.full(4, 0.25), r"has shape \(5,\) here, not \(4,\)"),
        (np.log(np.full(5, 0.2)), "not their logarithms"),
        (np.array([1.0, 0, 0, 0, 0]), "positive"),
    ):
        np.save(path, prior)
        with pytest.raises(UserError, match=words):
            list(search(make_archive([]), lang_dir, "greedy", prior=str(path), prior_scale=1.0))
    path.write_text("text")
    with pytest.raises(UserError, match="no prior can be read"):
        list(search(make_archive([]), lang_dir, "greedy", prior=str(path), prior_scale=1.0))
    with pytest.raises(UserError, match=r"wants decode\.prior"):
        list(search(make_archive([]), lang_dir, "greedy", prior_scale=1.0))


def test_a_run_goes_on_past_failures_and_says_so(
    lang_dir: Path, table: TokenTable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = RunDir(tmp_path / "run")
    cfg = Config()
    good = random_log_probs(np.random.default_rng(0), 9, 5)
    bad = good.copy()
    bad[3, 1] = np.nan
    for split, middle in (("dev", bad), ("test", good)):
        with PosteriorWriter(run.archive(split, "teacher"), table) as writer:
            for cut_id, log_probs in (("u1", good), ("u2", middle), ("u3", good)):
                writer.write(cut_id, log_probs)
        run.archive_marker(split, "teacher").write_text("{}")
    for code, line in ((0, None), (1, None), (3, None), (7, "the search under .*python ended with code 7$")):
        elsewhere = tmp_path / "python"  # what k2's searches are handed to
        elsewhere.write_text(f"#!/bin/sh\nexit {code}\n")
        elsewhere.chmod(0o755)
        with pytest.raises(UserError, match=f"1 utterances could not .*{line or 'failed-dev-teacher.txt$'}") as caught:
            search_run(run.path, lang_dir, cfg, ["teacher"], ["greedy", "k2-hlg"], elsewhere)
        assert caught.value.code == (3 if code in (0, 3) else 1)
        if code:
            with pytest.raises(UserError, match=line or "^$") as caught:
                search_run(run.path, lang_dir, cfg, ["teacher"], ["k2-hlg"], elsewhere)
            assert caught.value.code == (code if code in (1, 3) else 1)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended, one_line_errors():
        raise SomeFailed("")
    assert ended.value.code == 3 and capsys.readouterr().err == ""  # the other process has said it
    for _ in range(2):  # the second time nothing is decoded, and the failure still stands
        with pytest.raises(SomeFailed, match="1 utterances could not be decoded .*/greedy/failed-dev-teacher.txt$"):
            search_run(run.path, lang_dir, cfg, ["teacher"], ["greedy"])
    assert "greedy on test teacher: up to date" in capsys.readouterr().out
    failed = (run.decoded("greedy") / "failed-dev-teacher.txt").read_text()
    assert failed == "u2\tNaN in its posteriors, first in frame 3, token 1\n"
    assert not (run.decoded("greedy") / "failed-test-teacher.txt").exists()
    texts = [h.text for h in read_hypotheses(run.hypotheses("greedy", "dev", "teacher"))]
    assert texts[0] == texts[2] != "" and texts[1] == ""
    with PosteriorWriter(run.archive("dev", "teacher"), table) as writer:
        writer.write("u2", good)
    run.archive_marker("dev", "teacher").write_text('{"made": "again"}')
    search_run(run.path, lang_dir, cfg, ["teacher"], ["greedy"])
    assert not (run.decoded("greedy") / "failed-dev-teacher.txt").exists()

    manifest = run.archive("dev", "teacher") / "manifest.jsonl.gz"
    manifest.write_bytes(gzip.compress(gzip.decompress(manifest.read_bytes()) + b"{not"))
    for split in ("dev", "test"):
        run.archive_marker(split, "teacher").write_text('{"made": "once more"}')
    with pytest.raises(SomeFailed, match="1 utterances could not be decoded"):
        search_run(run.path, lang_dir, cfg, ["teacher"], ["greedy"])
    assert [h.cut_id for h in read_hypotheses(run.hypotheses("greedy", "dev", "teacher"))] == ["u2"]
    listed = (run.decoded("greedy") / "failed-dev-teacher.txt").read_text()
    assert listed == f"(all others)\t{manifest}: line 2 is not a JSON object\n"
    assert "greedy on test teacher: 3 utterances" in capsys.readouterr().out, "the other archive"


def test_a_run_keeps_n_best_lists_and_counts_fallbacks(
    lang_dir: Path, table: TokenTable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    add_words(lang_dir, "ab a b\n", None)
    run, cfg = RunDir(tmp_path / "run"), Config()
    good, bad = np.full((3, 5), -np.inf, np.float32), np.full((3, 5), -np.inf, np.float32)
    good[[0, 1, 2], [2, 0, 3]] = bad[:, 3] = 0.0
    for split in ("dev", "test"):
        with PosteriorWriter(run.archive(split, "teacher"), table) as writer:
            for cut_id, log_probs in (("u1", good), ("u2", bad), ("u3", good[:0])):
                writer.write(cut_id, log_probs)
        run.archive_marker(split, "teacher").write_text("{}")
    cfg.decode.lexicon, cfg.decode.lm_scale, cfg.decode.nbest = True, 0.0, 4
    search_run(run.path, lang_dir, cfg, ["teacher"], ["beam"])
    said = capsys.readouterr().out
    assert "beam on dev teacher: 3 utterances in" in said and ", 1 by wider beam" in said
    hypotheses = list(read_hypotheses(run.hypotheses("beam", "dev", "teacher")))
    assert [h.fallback for h in hypotheses] == [None, "wider beam", None]
    lists = run.nbest("beam", "dev", "teacher")
    rows = [json.loads(line) for line in lists.read_text().splitlines()]
    assert [row["id"] for row in rows] == ["u1", "u2", "u3"]
    assert [row["nbest"][0]["text"] for row in rows] == [h.text for h in hypotheses]
    assert rows[2]["nbest"] == [{"text": "", "am": 0.0, "lm": 0.0, "total": 0.0}]
    cfg.decode.nbest = 0
    search_run(run.path, lang_dir, cfg, ["teacher"], ["beam"])
    assert not lists.exists()


def test_options_of_the_configuration() -> None:
    cfg = DecodeConfig()
    assert search_options("greedy", cfg) == {}
    assert search_options("wfst", cfg).keys() == {"graph", "lm_scale", *STATES}
    assert search_options("k2-rescore", cfg)["rescore_scale"] == search_options("k2-hlg", cfg)["lm_scale"] == 0.5
    assert (search_options("wfst", cfg)["lm_scale"], search_options("beam", cfg)["lm_scale"]) == (0.5, 0.0)
    cfg.graph, cfg.lexicon = "HL", True
    assert (search_options("wfst", cfg)["lm_scale"], search_options("beam", cfg)["lm_scale"]) == (0.0, 0.5)
    cfg.prior_scale, cfg.prior = 0.3, "prior.npy"
    assert search_options("greedy", cfg) == {"prior": "prior.npy", "prior_scale": 0.3}
    assert {"beam", "beam_tokens", "lexicon", "word_score"} <= search_options("beam", cfg).keys()


def test_options_of_one_method() -> None:
    given = ["decode.lm_scale=0.7", "decode.per_method.wfst={lm_scale: 1.2, prior_scale: 0.6}"]
    cfg = load_config(overrides=given).decode
    assert search_options("greedy", cfg) == {} and search_options("k2-hlg", cfg)["lm_scale"] == 0.7
    assert (search_options("wfst", cfg)["lm_scale"], search_options("wfst", cfg)["prior_scale"]) == (1.2, 0.6)
    for wrong in ("{lm_scal: 1}", "{lm_scale: much}", "[1]", "3"):
        cfg = load_config(overrides=[f"decode.per_method.wfst={wrong}"]).decode
        with pytest.raises(UserError, match=r"decode.per_method.wfst: "):
            search_options("wfst", cfg)
