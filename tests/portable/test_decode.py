"""Greedy search, the archive and the hypotheses' file, in either interpreter."""

from __future__ import annotations

import gzip
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from fakes import random_log_probs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ctcsd.decode import search
from ctcsd.decode.greedy import collapse, greedy
from ctcsd.decode.hypothesis import Hypothesis, read_hypotheses, write_hypotheses
from ctcsd.errors import UserError
from ctcsd.posteriors import DamagedManifest, PosteriorReader, PosteriorWriter
from ctcsd.text.tokenizer import TokenTable


def test_greedy_is_the_best_path_of_all() -> None:
    rng = np.random.default_rng(0)
    for vocab in (2, 3, 4):
        utterances = [(str(n), random_log_probs(rng, rng.integers(0, 6), vocab)) for n in range(20)]
        found = dict(greedy(utterances))
        assert list(found) == [cut_id for cut_id, _ in utterances]
        for cut_id, log_probs in utterances:
            all_paths = paths(len(log_probs), vocab)
            scored = {path: sum(log_probs[t, v] for t, v in enumerate(path)) for path in all_paths}
            best = max(scored, key=scored.__getitem__)
            merged = [v for v, _ in itertools.groupby(best) if v != 0]
            tokens, at, score = found[cut_id][:3]
            assert tokens == merged
            assert score == pytest.approx(scored[best], abs=1e-5)
            assert [best[t] for t in at] == merged


def test_greedy_does_not_depend_on_what_else_is_decoded() -> None:
    """More frames than it takes at once: each utterance comes out as alone."""
    rng = np.random.default_rng(1)
    utterances = [(str(n), random_log_probs(rng, rng.integers(0, 1500), 3)) for n in range(30)]
    assert list(greedy(utterances)) == [next(greedy([utterance])) for utterance in utterances]


def paths(frames: int, vocab: int):
    return itertools.product(range(vocab), repeat=frames)


@pytest.mark.parametrize(
    ("path", "tokens", "frames"),
    [
        ([], [], []),
        ([0], [], []),
        ([2], [2], [0]),
        ([0, 2, 2, 0, 2, 3, 3, 0], [2, 2, 3], [1, 4, 5]),
    ],
)
def test_collapse(path: list, tokens: list, frames: list) -> None:
    assert collapse(np.array(path, dtype=np.int64)) == (tokens, frames)


def test_search_yields_text_in_the_archives_order(make_archive, lang_dir: Path) -> None:
    def spell(path: list) -> np.ndarray:
        return np.log(np.eye(5)[path] * 0.9 + 0.02).astype(np.float32)

    reader = make_archive([("u2", spell([2, 0, 2, 1, 3])), ("u1", spell([0, 0])), ("u0", spell([1, 4, 1]))])
    found = list(search(reader, lang_dir, "greedy"))
    assert [(h.cut_id, h.text) for h in found] == [("u2", "aa b"), ("u1", ""), ("u0", "c")]
    assert found[0].frames == [0, 2, 3, 4]
    assert found[0].score == pytest.approx(5 * np.log(0.92), abs=1e-4)


def test_empty_utterance(make_archive, lang_dir: Path) -> None:
    reader = make_archive([("none", np.zeros((0, 5), dtype=np.float32))])
    assert [h.text for h in search(reader, lang_dir, "greedy")] == [""]


def test_bad_search_requests_are_one_line(make_archive, lang_dir: Path, tmp_path: Path) -> None:
    reader = make_archive([])
    with pytest.raises(UserError, match="no search method 'gredy'; known: greedy, beam, wfst, k2-1best"):
        list(search(reader, lang_dir, "gredy"))
    with pytest.raises(UserError, match="takes no option 'beam'"):
        list(search(reader, lang_dir, "greedy", beam=3))
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokens.txt").write_text(TokenTable(["<blk>", "x"]).text, encoding="utf-8")
    with pytest.raises(UserError, match=r"another token table than .*tokens.txt: its token \d+ is '.*', not "):
        list(search(reader, other, "greedy"))


@pytest.mark.parametrize(
    ("method", "missing", "remedy"),
    [
        ("beam", "torchaudio.models.decoder", "pip install torchaudio flashlight-text"),
        ("wfst", "kaldifst", "pip install kaldifst"),
    ],
)
def test_a_missing_library_is_one_line(
    make_archive, lang_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str, missing: str, remedy: str
) -> None:
    for name in ("beam", "wfst", "wfst_graphs"):
        monkeypatch.delitem(sys.modules, f"ctcsd.decode.{name}", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=remedy):
        list(search(make_archive([]), lang_dir, method))


# A cut may be called anything, and a log-prob be anything that a float32 holds.
CUT_IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
LOG_PROBS = st.integers(0, 40).flatmap(lambda n: st.binary(min_size=20 * n, max_size=20 * n))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(CUT_IDS, LOG_PROBS, max_size=8))
def test_archive_round_trip_is_exact(make_archive, utterances: dict[str, bytes]) -> None:
    written = [(cut_id, np.frombuffer(data, "<f4").reshape(-1, 5)) for cut_id, data in utterances.items()]
    read = list(make_archive(written))
    assert [cut_id for cut_id, _ in read] == list(utterances)
    for (_, log_probs), data in zip(read, utterances.values()):
        assert log_probs.dtype == np.float32 and log_probs.tobytes() == data


def test_a_failed_writer_leaves_the_old_archive(make_archive, tmp_path: Path, table: TokenTable) -> None:
    make_archive([("old", np.zeros((2, 5), dtype=np.float32))], "kept")
    with pytest.raises(RuntimeError, match="killed"), PosteriorWriter(tmp_path / "kept", table) as writer:
        writer.write("new", np.zeros((1, 5), dtype=np.float32))
        raise RuntimeError("killed")
    assert [cut_id for cut_id, _ in PosteriorReader(tmp_path / "kept")] == ["old"]
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_damaged_archives_are_named(make_archive, tmp_path: Path) -> None:
    make_archive([("u", np.zeros((2, 5), dtype=np.float32))])
    array = next((tmp_path / "archive" / "arrays").rglob("*.npy"))
    array.write_bytes(array.read_bytes()[:-3])
    with pytest.raises(UserError, match="utterance u: unreadable"):
        list(PosteriorReader(tmp_path / "archive"))
    with pytest.raises(UserError, match="utterance u: unreadable"):
        PosteriorReader(tmp_path / "archive").read("u")
    manifest = tmp_path / "archive" / "manifest.jsonl.gz"
    manifest.write_bytes(manifest.read_bytes()[:-9])
    with pytest.raises(UserError, match="damaged"):
        list(PosteriorReader(tmp_path / "archive"))
    with pytest.raises(UserError, match="no posteriors archive at .*nowhere: run stage 4"):
        PosteriorReader(tmp_path / "nowhere")


def test_the_search_goes_on_past_damaged_arrays(make_archive, lang_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    utterances = [(f"u{i}", random_log_probs(rng, 6, 5)) for i in range(5)]
    reader = make_archive(utterances)
    before = list(search(reader, lang_dir, "greedy"))
    folder = tmp_path / "archive" / "arrays"
    (folder / reader.index["u1"]["array"]["storage_key"]).write_bytes(b"")
    (folder / reader.index["u3"]["array"]["storage_key"]).unlink()
    found = list(search(reader, lang_dir, "greedy"))
    assert [found[i] for i in (0, 2, 4)] == [before[i] for i in (0, 2, 4)]
    for i in (1, 3):
        assert (found[i].cut_id, found[i].text, found[i].tokens) == (f"u{i}", "", [])
        assert f"utterance u{i}: unreadable" in (found[i].failure or "")


def test_the_search_takes_all_that_a_damaged_list_still_names(make_archive, lang_dir: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    reader = make_archive([(f"u{i}", random_log_probs(rng, 6, 5)) for i in range(5)])
    before = list(search(reader, lang_dir, "greedy"))
    manifest = tmp_path / "archive" / "manifest.jsonl.gz"
    lines = gzip.decompress(manifest.read_bytes()).splitlines(keepends=True)
    for damage in (b'{"id": "u3"}\n', b"{not\n", lines[0]):
        manifest.write_bytes(gzip.compress(b"".join([*lines[:3], damage, lines[4]])))
        found = search(reader, lang_dir, "greedy")
        assert [next(found) for _ in range(3)] == before[:3]
        with pytest.raises(DamagedManifest, match="manifest.jsonl.gz: line 4 is not"):
            next(found)


def test_hypotheses_file(tmp_path: Path) -> None:
    path = tmp_path / "hyps.jsonl"
    rows = [Hypothesis("a", "řeka 'n", -1.5, [3, 4], [0, 7]), Hypothesis("b", "", 0.0, [], [])]
    assert write_hypotheses(path, rows) == 2
    assert list(read_hypotheses(path)) == rows
    path.write_text(path.read_text(encoding="utf-8") + "{not json\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3 is not a JSON object"):
        list(read_hypotheses(path))
