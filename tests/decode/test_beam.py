"""Prefix beam search against the sum over all paths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import LEXICON, Sentences, add_words, readings, small_utterances, token_sequences
from fakes import random_log_probs

from ctcsd.decode import search, word_beam
from ctcsd.decode.words import WordModel
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.text.arpa import write_arpa
from ctcsd.text.ngram import estimate
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


@pytest.mark.parametrize(("lm_scale", "token_score"), [(0.0, 0.0), (0.7, 0.0), (1.5, -0.5)])
def test_a_model_of_tokens_against_brute_force(
    make_archive, lang_dir: Path, table: TokenTable, tmp_path: Path, lm_scale: float, token_score: float
) -> None:
    """No lexicon: any sequence of tokens may come, and its n-grams are scored."""
    write_arpa(estimate(["a b \u2581 c", "b \u2581 b", "a b", "c"], 3, (), table.symbols[1:]), tmp_path / "lm.arpa")
    (tmp_path / "lexicon.txt").write_text("".join(f"{symbol} {symbol}\n" for symbol in table.symbols[1:]))
    lm = Sentences(tmp_path)
    options = {**FULL, "token_lm": tmp_path / "lm.arpa", "lm_scale": lm_scale, "word_score": token_score, "nbest": 3}
    utterances = small_utterances(8, 16)
    for (_, log_probs), found in zip(utterances, search(make_archive(utterances), lang_dir, "beam", **options)):
        scores = {
            tokens: total + lm_scale * lm.log_prob([table.symbols[i] for i in tokens]) + token_score * len(tokens)
            for tokens, (total, _) in token_sequences(log_probs).items()
        }
        best = max(scores.values())
        assert found.score == pytest.approx(best, abs=1e-4)
        assert scores[tuple(found.tokens)] == pytest.approx(best, abs=1e-4)
        assert found.text == table.text_of(found.tokens) == found.nbest[0].text
        first = found.nbest[0]
        assert first.lm == pytest.approx(lm.log_prob([table.symbols[i] for i in found.tokens]), abs=1e-4)
        assert first.total == pytest.approx(first.am + lm_scale * first.lm + token_score * len(found.tokens), abs=1e-4)


def test_the_list_is_of_different_texts_with_their_parts(make_archive, lang_dir: Path) -> None:
    lm = Sentences(add_words(lang_dir))
    utterances = small_utterances(6, 8, most_frames=4)
    options = {**FULL, "lexicon": True, "lm_scale": 0.7, "word_score": -0.2, "nbest": 5}
    reader = make_archive(utterances)
    for (_, log_probs), found in zip(utterances, search(reader, lang_dir, "beam", **options)):
        expected: dict[str, float] = {}
        for tokens, (total, _) in token_sequences(log_probs).items():
            for words in readings(tokens, lang_dir):
                own = total + 0.7 * lm.log_prob(words) - 0.2 * len(words)
                expected[" ".join(words)] = max(expected.get(" ".join(words), -np.inf), own)
        assert 0 < len(found.nbest) <= 5 and len({c.text for c in found.nbest}) == len(found.nbest)
        assert (found.nbest[0].text, found.nbest[0].total) == (found.text, found.score)
        for c in found.nbest:
            assert c.total <= found.score and c.total == pytest.approx(expected[c.text], abs=1e-3)
            assert c.lm == pytest.approx(lm.log_prob(c.text.split()), abs=1e-4)
            assert c.total == pytest.approx(c.am + 0.7 * c.lm - 0.2 * len(c.text.split()), abs=1e-4)
    (plain, *_) = search(reader, lang_dir, "beam", **FULL, nbest=3)
    assert plain.nbest[0].text == plain.text and all(c.lm == 0.0 for c in plain.nbest)


def test_a_word_that_has_only_begun_is_none_in_the_list_either(make_archive, lang_dir: Path) -> None:
    add_words(lang_dir, "ab a b \u2581\n", None)
    only_a = np.full((1, 5), -np.inf, dtype=np.float32)
    only_a[0, 2] = 0.0
    options = {"lexicon": True, "lm_scale": 0.0, "nbest": 2}
    (found,) = search(make_archive([("u", only_a)]), lang_dir, "beam", **options)
    assert (found.text, found.fallback) == ("", "partial path")
    assert [candidate.text for candidate in found.nbest] == [""]


def test_the_scores_that_are_kept_are_those_of_the_model(
    make_archive, lang_dir: Path, table: TokenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What each token adds is what the model says after it; and starting without them finds the same."""
    add_words(lang_dir)
    model = WordModel.of_words(table, lang_dir, 0.7, -0.2)
    rng = np.random.default_rng(6)
    for _ in range(50):
        state = model.start()
        for _ in range(8):
            after = [model.advance(state, token) for token in range(len(table))]
            np.testing.assert_allclose(model.extension(state, len(table)), [s.value - state.value for s in after])
            state = after[rng.choice([token for token, s in enumerate(after) if s.readings])]
    reader = make_archive(small_utterances(7, 12))
    kept = list(search(reader, lang_dir, "beam", lexicon=True))
    monkeypatch.setattr(word_beam, "CACHED_SCORES", 0)
    assert kept == list(search(reader, lang_dir, "beam", lexicon=True))


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
    with pytest.raises(UserError, match=r"token_lm is without one"):
        list(search(reader, lang_dir, "beam", lexicon=True, token_lm=lang_dir / "lm.arpa"))
    with pytest.raises(UserError, match=r"gone\.arpa: No such file"):
        list(search(reader, lang_dir, "beam", token_lm=lang_dir / "gone.arpa"))
    add_words(lang_dir)
    with pytest.raises(UserError, match=r"lm\.arpa: 'ab' is no token of tokens\.txt: .*--tokens"):
        list(search(reader, lang_dir, "beam", token_lm=lang_dir / "lm.arpa"))
