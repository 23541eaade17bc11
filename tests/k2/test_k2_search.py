"""k2's best path, in the interpreter that has k2; its absence fails this file at import, on purpose."""

from __future__ import annotations

import itertools
from pathlib import Path

import k2
import numpy as np
import pytest
from fakes import random_log_probs

from ctcsd.decode import search

pytestmark = pytest.mark.k2


def test_topology_is_ctcs() -> None:
    topo = k2.ctc_topo(3, modified=False)
    assert topo.shape[0] == 5, "a state per token, blank among them, and the final one"


@pytest.mark.parametrize("peak", [0.3, 5.0])
def test_best_path_against_brute_force(make_archive, lang_dir: Path, peak: float) -> None:
    rng = np.random.default_rng(int(peak * 10))
    utterances = [(f"u{i}", random_log_probs(rng, int(rng.integers(1, 6)), 5, peak)) for i in range(30)]
    found = list(search(make_archive(utterances), lang_dir, "k2-1best"))
    assert [h.cut_id for h in found] == [cut_id for cut_id, _ in utterances]
    for (_, log_probs), hypothesis in zip(utterances, found):
        frames = len(log_probs)
        scores = {p: sum(log_probs[t, v] for t, v in enumerate(p)) for p in itertools.product(range(5), repeat=frames)}
        best = max(scores, key=scores.__getitem__)
        assert hypothesis.tokens == [v for v, _ in itertools.groupby(best) if v != 0]
        assert hypothesis.score == pytest.approx(scores[best], abs=1e-4)


def test_k2_and_greedy_agree_and_batching_changes_nothing(make_archive, lang_dir: Path) -> None:
    rng = np.random.default_rng(7)
    utterances = [(f"u{i}", random_log_probs(rng, int(rng.integers(1, 120)), 5)) for i in range(60)]
    reader = make_archive(utterances)
    greedy = [(h.cut_id, h.text, h.frames) for h in search(reader, lang_dir, "greedy")]
    k2_best = list(search(reader, lang_dir, "k2-1best"))
    assert [(h.cut_id, h.text, h.frames) for h in k2_best] == greedy
    shuffled = [utterances[i] for i in rng.permutation(len(utterances))]
    again = search(make_archive(shuffled, "shuffled"), lang_dir, "k2-1best", batch_frames=150)
    assert {h.cut_id: h.text for h in again} == {h.cut_id: h.text for h in k2_best}


def test_corners(make_archive, lang_dir: Path) -> None:
    hard = np.full((3, 5), -np.inf, dtype=np.float32)
    hard[:, 2] = 0.0
    empty = np.zeros((0, 5), dtype=np.float32)
    one = np.log(np.array([[0.1, 0.1, 0.1, 0.6, 0.1]], dtype=np.float32))
    reader = make_archive([("empty", empty), ("hard", hard), ("one", one), ("empty2", empty)])
    found = list(search(reader, lang_dir, "k2-1best"))
    assert [(h.cut_id, h.text) for h in found] == [("empty", ""), ("hard", "a"), ("one", "b"), ("empty2", "")]
