"""Prefix beam search against the sum over all paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import LEXICON, Sentences, add_words, readings, small_utterances, token_sequences
from fakes import random_log_probs

from ctcsd.decode import search
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.text.tokenizer import TokenTable

FULL = {"beam": 100_000, "beam_threshold": 1e6, "beam_tokens": 0}


def test_a_full_beam_finds_the_best_sum_over_all_paths(make_archive, lang_dir: Path) -> None:
    utterances = [*small_utterances(0, 40), *[(f"l{i}", p) for i, (_, p) in enumerate(small_utterances(1, 6, 4, 6))]]
    utterances = [(i, np.pad(p, ((0, 0), (0, 5 - p.shape[1])), constant_values=-np.inf)) for i, p in utterances]
    for (_, log_probs), found in zip(utterances, search(make_archive(utterances), lang_dir, "beam", **FULL)):
        sums = {tokens: total for tokens, (total, _) in token_sequences(log_probs).items()}
        best = max(sums, key=sums.__getitem__)
        assert tuple(found.tokens) == best
        assert found.score == pytest.approx(sums[best], abs=1e-4)
        assert len(found.frames) == len(best) and found.frames == sorted(set(found.frames))
        assert all(0 <= t < len(log_probs) for t in found.frames)


def test_its_score_is_the_ctc_loss(make_archive, lang_dir: Path) -> None:
    log_probs = random_log_probs(np.random.default_rng(2), 80, 5, 30.0)
    (found,) = search(make_archive([("u", log_probs)]), lang_dir, "beam", beam=50)
    loss = torch.nn.functional.ctc_loss(
        torch.from_numpy(log_probs), torch.tensor(found.tokens), (80,), (len(found.tokens),), reduction="sum"
    )
    assert found.score == pytest.approx(-float(loss), abs=1e-2)


@pytest.mark.parametrize(("lm_scale", "word_score"), [(0.0, 0.0), (0.7, 0.0), (1.5, -0.5)])
def test_with_a_lexicon_against_brute_force(make_archive, lang_dir: Path, lm_scale: float, word_score: float) -> None:
    lm = Sentences(add_words(lang_dir))
    utterances = small_utterances(3, 24)
    options = {**FULL, "lexicon": True, "lm_scale": lm_scale, "word_score": word_score}
    for (_, log_probs), found in zip(utterances, search(make_archive(utterances), lang_dir, "beam", **options)):
        scores = {}
        for tokens, (total, _) in token_sequences(log_probs).items():
            for words in readings(tokens, lang_dir):
                own = lm_scale * lm.log_prob(words) + word_score * len(words)
                scores[words, tokens] = total + own
        best = max(scores.values())
        assert found.score == pytest.approx(best, abs=1e-4)
        assert scores[tuple(found.text.split()), tuple(found.tokens)] == pytest.approx(best, abs=1e-4)


def test_a_small_beam_comes_close(make_archive, lang_dir: Path) -> None:
    add_words(lang_dir)
    reader = make_archive([("u", random_log_probs(np.random.default_rng(4), 30, 5, 1.5))])
    options = {"lexicon": True, "lm_scale": 0.5}
    (wide,) = search(reader, lang_dir, "beam", beam=500, **options)
    (usual,) = search(reader, lang_dir, "beam", **options)
    (few,) = search(reader, lang_dir, "beam", beam_tokens=3, **options)
    assert wide.score - 3 < usual.score <= wide.score + 1e-4
    assert wide.score - 6 < few.score <= wide.score + 1e-4


def test_one_token(tmp_path: Path) -> None:
    table = TokenTable(["<blk>", "a"])
    (tmp_path / "tokens.txt").write_text(table.text, encoding="utf-8")
    for i, (_, log_probs) in enumerate(small_utterances(5, 8, vocab=2)):
        with PosteriorWriter(tmp_path / f"archive{i}", table) as writer:
            writer.write("u", log_probs)
        (found,) = search(PosteriorReader(tmp_path / f"archive{i}"), tmp_path, "beam", **FULL)
        sums = {tokens: total for tokens, (total, _) in token_sequences(log_probs).items()}
        assert tuple(found.tokens) == max(sums, key=sums.__getitem__)


def test_wrong_requests_are_one_line(make_archive, lang_dir: Path) -> None:
    reader = make_archive([])
    with pytest.raises(UserError, match=r"wants decode\.lexicon"):
        list(search(reader, lang_dir, "beam", lm_scale=0.5))
    with pytest.raises(UserError, match=r"decode\.beam is 1 or more"):
        list(search(reader, lang_dir, "beam", beam=0))
    with pytest.raises(UserError, match=r"lexicon\.txt: No such file"):
        list(search(reader, lang_dir, "beam", lexicon=True, lm_scale=0.0))
    add_words(lang_dir, LEXICON, None)
    with pytest.raises(UserError, match=r"lm\.arpa: No such file"):
        list(search(reader, lang_dir, "beam", lexicon=True))
    assert list(search(reader, lang_dir, "beam", lexicon=True, lm_scale=0.0)) == []
