"""k2's searches against every path, in the interpreter that has k2; its absence fails this file, on purpose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from brute_force import (
    ARPA,
    LEXICON,
    ONE_TOKEN,
    ONE_TOKEN_ARPA,
    ONE_TOKEN_LEXICON,
    PHONE_LEXICON,
    PHONES,
    add_words,
    readings,
    small_utterances,
    token_sequences,
)
from fakes import random_log_probs

from ctcsd.decode import search
from ctcsd.decode.k2_graphs import k2, load_graph
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.text.arpa import read_arpa
from ctcsd.text.tokenizer import SPACE, TokenTable

pytestmark = pytest.mark.k2

WIDE = {"search_beam": 1000.0, "output_beam": 1000.0}
TOPOLOGIES = ("standard", "modified")


def modified_readings(path: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """What a path may spell in the modified topology: each run of a token once, or up to as often as it has frames."""
    runs = [(token, len([*group])) for token, group in itertools.groupby(path)]
    for times in itertools.product(*[range(1, n + 1) if token else [0] for token, n in runs]):
        yield tuple(token for (token, _), n in zip(runs, times) for _ in range(n))


def best_paths(log_probs: np.ndarray, topo: str) -> dict[tuple[int, ...], float]:
    """Token sequence -> the log-probability of its best path."""
    if topo == "standard":
        return {tokens: best for tokens, (_, best) in token_sequences(log_probs).items()}
    frames, vocab = log_probs.shape
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(vocab), repeat=frames):
        score = float(log_probs[np.arange(frames), path].sum(dtype=np.float64))
        for tokens in modified_readings(path):
            found[tokens] = max(found.get(tokens, -np.inf), score)
    return found


def sentences(
    log_probs: np.ndarray, lang_dir: Path, arpa: str = "lm.arpa", topo: str = "standard"
) -> dict[tuple[str, ...], tuple[float, float]]:
    """Word sequence -> am of its best path, and lm."""
    lm = read_arpa(lang_dir / arpa)
    found: dict[tuple[str, ...], tuple[float, float]] = {}
    for tokens, score in best_paths(log_probs, topo).items():
        for words in readings(tokens, lang_dir):
            if words not in found or found[words][0] < score:
                found[words] = (score, math.log(10) * lm.score(words))
    return found


@pytest.mark.parametrize("topo", TOPOLOGIES)
def test_best_path_against_brute_force(make_archive, lang_dir: Path, topo: str) -> None:
    utterances = small_utterances(0, 16, most_frames=6 if topo == "standard" else 5)
    found = list(search(make_archive(utterances), lang_dir, "k2-1best", topo=topo))
    assert [h.cut_id for h in found] == [cut_id for cut_id, _ in utterances]
    for (_, log_probs), hypothesis in zip(utterances, found):
        scores = best_paths(log_probs, topo)
        assert hypothesis.score == pytest.approx(max(scores.values()), abs=1e-4)
        assert scores[tuple(hypothesis.tokens)] == pytest.approx(hypothesis.score, abs=1e-4)
        greedy = [token for token, _ in itertools.groupby(log_probs.argmax(1)) if token != 0]
        assert hypothesis.tokens == greedy, "of several readings of the best path, that of CTC"
        assert [log_probs[t].argmax() for t in hypothesis.frames] == greedy


def test_it_is_greedy_in_any_order(make_archive, lang_dir: Path) -> None:
    rng = np.random.default_rng(7)
    utterances = [(f"u{i}", random_log_probs(rng, int(rng.integers(1, 120)), 5)) for i in range(20)]
    reader = make_archive(utterances)
    greedy = [(h.text, h.frames) for h in search(reader, lang_dir, "greedy")]
    for topo in TOPOLOGIES:
        assert [(h.text, h.frames) for h in search(reader, lang_dir, "k2-1best", topo=topo)] == greedy


@pytest.mark.parametrize("topo", TOPOLOGIES)
def test_no_beam_is_too_narrow_on_the_topology_alone(make_archive, lang_dir: Path, topo: str) -> None:
    rng = np.random.default_rng(8)
    reader = make_archive([(f"u{i}", random_log_probs(rng, int(rng.integers(1, 200)), 5)) for i in range(20)])
    wide = list(search(reader, lang_dir, "k2-1best", topo=topo, min_active=20, **WIDE))
    for narrow in ({}, {"search_beam": 0.5, "min_active": 0, "output_beam": 0.5}):
        found = list(search(reader, lang_dir, "k2-1best", topo=topo, **narrow))
        assert [(h.text, h.frames, h.fallback) for h in found] == [(h.text, h.frames, None) for h in wide]
        assert [h.score for h in found] == pytest.approx([h.score for h in wide], abs=1e-2)


@pytest.mark.parametrize(("topo", "lm_scale"), [("standard", 0.3), ("standard", 2.5), ("modified", 1.0)])
def test_hlg_is_acoustic_and_language_model(make_archive, lang_dir: Path, topo: str, lm_scale: float) -> None:
    add_words(lang_dir)
    utterances = small_utterances(2, 14, most_frames=5 if topo == "standard" else 4)
    found = search(make_archive(utterances), lang_dir, "k2-hlg", lm_scale=lm_scale, topo=topo, **WIDE)
    for (_, log_probs), hypothesis in zip(utterances, found):
        scores = {words: am + lm_scale * lm for words, (am, lm) in sentences(log_probs, lang_dir, topo=topo).items()}
        assert hypothesis.score == pytest.approx(max(scores.values()), abs=2e-3)
        assert scores[tuple(hypothesis.text.split())] == pytest.approx(hypothesis.score, abs=2e-3)
        assert tuple(hypothesis.text.split()) in readings(tuple(hypothesis.tokens), lang_dir)


def test_the_whole_list_against_brute_force(make_archive, lang_dir: Path) -> None:
    add_words(lang_dir)
    utterances = small_utterances(3, 10, most_frames=4)
    options = {"lm_scale": 0.7, "num_paths": 2000, "nbest_scale": 0.2, **WIDE}
    reader = make_archive(utterances)
    best = search(reader, lang_dir, "k2-hlg", lm_scale=0.7, **WIDE)
    for (_, log_probs), one, found in zip(utterances, best, search(reader, lang_dir, "k2-nbest", **options)):
        expected = sentences(log_probs, lang_dir)
        assert (found.text, found.tokens, found.score) == (one.text, one.tokens, one.score)
        assert found.nbest[0].text == found.text and found.nbest[0].total == pytest.approx(found.score, abs=1e-4)
        assert len({c.text for c in found.nbest}) == len(found.nbest) >= min(3, len(expected))
        for candidate in found.nbest:
            am, lm = expected[tuple(candidate.text.split())]
            assert candidate.total == pytest.approx(am + 0.7 * lm, abs=2e-3)
            assert candidate.total == pytest.approx(candidate.am + 0.7 * candidate.lm, abs=1e-4)
        totals = [c.total for c in found.nbest]
        assert totals == sorted(totals, reverse=True)


def test_lists_of_tokens(make_archive, lang_dir: Path) -> None:
    utterances = small_utterances(4, 8, most_frames=4)
    reader = make_archive(utterances)
    options = {"graph": "H", "num_paths": 500, "nbest": 4, **WIDE}
    for (_, log_probs), found in zip(utterances, search(reader, lang_dir, "k2-nbest", **options)):
        scores: dict[str, float] = {}
        for tokens, (_, best) in token_sequences(log_probs).items():
            text = reader.table.text_of(tokens)
            scores[text] = max(best, scores.get(text, -np.inf))
        assert len(found.nbest) <= 4 and found.nbest[0].text == found.text
        assert found.score == pytest.approx(max(scores.values()), abs=1e-3)
        for candidate in found.nbest:
            assert candidate.lm == 0.0 and candidate.total == candidate.am
            assert candidate.am == pytest.approx(scores[candidate.text], abs=1e-3)


def test_rescoring(make_archive, lang_dir: Path) -> None:
    add_words(lang_dir)
    utterances = small_utterances(5, 12)
    reader = make_archive(utterances)
    first = list(search(reader, lang_dir, "k2-hlg", lm_scale=0.8, **WIDE))
    same = search(reader, lang_dir, "k2-rescore", lm_scale=0.8, rescore_lm=lang_dir / "lm.arpa", **WIDE)
    for before, after in zip(first, same):
        assert (after.text, after.tokens, after.frames) == (before.text, before.tokens, before.frames)
        assert after.score == pytest.approx(before.score, abs=1e-4)
    trigrams = ARPA.replace("ngram 2=6", "ngram 2=6\nngram 3=1").replace("a ba\n", "a ba\t-0.1\n")
    trigrams = trigrams.replace("<s> a\n", "<s> a\t-0.2\n").replace("\\end", "\\3-grams:\n-0.01\t<s> a ba\n\n\\end")
    (lang_dir / "large.arpa").write_text(trigrams, encoding="utf-8")
    options = {"lm_scale": 0.2, "rescore_lm": lang_dir / "large.arpa", "rescore_scale": 1.5, **WIDE}
    for (_, log_probs), found in zip(utterances, search(reader, lang_dir, "k2-rescore", **options)):
        scores = {words: am + 1.5 * lm for words, (am, lm) in sentences(log_probs, lang_dir, "large.arpa").items()}
        assert found.score == pytest.approx(max(scores.values()), abs=2e-3)
        assert scores[tuple(found.text.split())] == pytest.approx(found.score, abs=2e-3)


@pytest.mark.parametrize("graph", ["HLG", "HL", "H"])
def test_a_rescored_list_against_brute_force(make_archive, lang_dir: Path, graph: str) -> None:
    add_words(lang_dir)
    trigrams = ARPA.replace("ngram 2=6", "ngram 2=6\nngram 3=1").replace("a ba\n", "a ba\t-0.1\n")
    trigrams = trigrams.replace("<s> a\n", "<s> a\t-0.2\n").replace("\\end", "\\3-grams:\n-0.01\t<s> a ba\n\n\\end")
    (lang_dir / "large.arpa").write_text(trigrams, encoding="utf-8")
    lm, table = read_arpa(lang_dir / "large.arpa"), TokenTable.load(lang_dir)
    utterances = small_utterances(12, 10, most_frames=4)
    options = {"graph": graph, "num_paths": 2000, "nbest_scale": 0.2, "nbest": 3, "rescore_lm": lang_dir / "large.arpa"}
    found = list(search(make_archive(utterances), lang_dir, "k2-nbest", rescore_scale=1.5, **options, **WIDE))
    changed = 0
    for (_, log_probs), hypothesis in zip(utterances, found):
        expected: dict[str, float] = {}
        paths = best_paths(log_probs, "standard")
        for tokens, am in paths.items():
            words = [table.text_of(tokens)] if graph == "H" else map(" ".join, readings(tokens, lang_dir))
            for text in words:
                expected[text] = max(am, expected.get(text, -np.inf))
        totals = {text: am + 1.5 * math.log(10) * lm.score(text.split()) for text, am in expected.items()}
        first, *others = hypothesis.nbest
        assert first.total == pytest.approx(max(totals.values()), abs=2e-3) and first.text == hypothesis.text
        assert hypothesis.score == first.total and len(others) <= 2
        for candidate in hypothesis.nbest:
            assert candidate.am == pytest.approx(expected[candidate.text], abs=2e-3)
            assert candidate.lm == pytest.approx(math.log(10) * lm.score(candidate.text.split()))
            assert candidate.total == pytest.approx(candidate.am + 1.5 * candidate.lm)
        ranked = [candidate.total for candidate in hypothesis.nbest]
        assert ranked == sorted(ranked, reverse=True)
        tokens = tuple(hypothesis.tokens)
        assert paths[tokens] == pytest.approx(first.am, abs=2e-3), "tokens and frames are those of the new best"
        texts = [table.text_of(tokens)] if graph == "H" else [" ".join(words) for words in readings(tokens, lang_dir)]
        assert hypothesis.text in texts and len(hypothesis.frames) == len(tokens)
        changed += max(expected, key=expected.__getitem__) != hypothesis.text
    assert changed >= 3


@pytest.mark.parametrize("options", [{"graph": "H"}, {"graph": "HL"}, {"graph": "HL", "rescore_lm": "lm.arpa"}])
def test_a_list_of_nothing_but_nothing(make_archive, lang_dir: Path, options: dict[str, str]) -> None:
    """Where the blank is all that is possible: k2's linear graph of one empty sequence is none."""
    add_words(lang_dir)
    if "rescore_lm" in options:
        options = {**options, "rescore_lm": str(lang_dir / "lm.arpa")}
    silence = np.full((4, 5), -np.inf, dtype=np.float32)
    silence[:, 0] = 0.0
    (found,) = search(make_archive([("u", silence)]), lang_dir, "k2-nbest", **options)
    assert (found.text, found.failure, [candidate.text for candidate in found.nbest]) == ("", None, [""])


def test_words_that_the_second_model_lacks(make_archive, lang_dir: Path) -> None:
    add_words(lang_dir)
    spelled = np.full((3, 5), -50.0, dtype=np.float32)
    spelled[[0, 1, 2], [2, 3, 1]] = 0.0  # "ab"
    only_c = "\\data\\\nngram 1=3\n\n\\1-grams:\n0\t<s>\n-0.5\t</s>\n-0.5\tc\n\n\\end\\\n"
    (lang_dir / "c.arpa").write_text(only_c, encoding="utf-8")
    options = {"rescore_lm": lang_dir / "c.arpa", "output_beam": 3.0}
    (found,) = search(make_archive([("u", spelled)]), lang_dir, "k2-rescore", **options)
    (first,) = search(make_archive([("u", spelled)]), lang_dir, "k2-hlg", output_beam=3.0)
    assert (found.text, found.score, found.fallback) == ("ab", first.score, "not rescored")


@pytest.mark.parametrize("method", ["k2-1best", "k2-hlg", "k2-nbest", "k2-rescore"])
def test_corners_and_order(make_archive, lang_dir: Path, method: str) -> None:
    add_words(lang_dir)
    options = {"rescore_lm": lang_dir / "lm.arpa"} if method == "k2-rescore" else {}
    spelled = np.full((4, 5), -np.inf, dtype=np.float32)
    spelled[[0, 1, 2, 3], [2, 3, 1, 4]] = 0.0  # "ab c"
    blank = np.log(np.full((5, 5), 0.01, dtype=np.float32))
    blank[:, 0] = np.log(0.96)
    corners = [
        ("none", np.zeros((0, 5), np.float32), ""),
        ("nan", spelled * np.nan, ""),
        ("spelled", spelled, "ab c"),
        ("one", spelled[:1], "a"),
        ("blank", blank, ""),
    ]
    utterances = [(name, log_probs) for name, log_probs, _ in corners] + small_utterances(6, 8)
    there = list(search(make_archive(utterances), lang_dir, method, **options))
    back = list(search(make_archive(utterances[::-1], "back"), lang_dir, method, **options))
    assert there == back[::-1]
    assert [h.text for h in there[: len(corners)]] == [text for _, _, text in corners]
    failures = {h.cut_id: h.failure for h in there if h.failure}
    assert failures == {"nan": "NaN in its posteriors, first in frame 0, token 0"}
    assert there[2].tokens == [2, 3, 1, 4] and there[2].frames == [0, 1, 2, 3]


@pytest.mark.parametrize("method", ["k2-1best", "k2-nbest", "k2-hlg", "k2-rescore"])
@pytest.mark.parametrize("topo", TOPOLOGIES)
def test_one_token(tmp_path: Path, method: str, topo: str) -> None:
    table = TokenTable(["<blk>", "a"])
    (tmp_path / "tokens.txt").write_text(table.text, encoding="utf-8")
    add_words(tmp_path, ONE_TOKEN_LEXICON, ONE_TOKEN_ARPA)
    with PosteriorWriter(tmp_path / "archive", table) as writer:
        writer.write("u", ONE_TOKEN)
    options = {"k2-nbest": {"graph": "H"}, "k2-rescore": {"rescore_lm": tmp_path / "lm.arpa"}}.get(method, {})
    (found,) = search(PosteriorReader(tmp_path / "archive"), tmp_path, method, topo=topo, **options)
    assert (found.text, found.tokens, found.frames, found.fallback) == ("a a", [1, 1], [0, 2], None)


def test_no_utterance_is_lost(make_archive, lang_dir: Path) -> None:
    arpa = "\\data\\\nngram 1=4\n\n\\1-grams:\n0\t<s>\n-1\t</s>\n-1\tab\n-1\tabc\n\n\\end\\\n"
    add_words(lang_dir, "ab a b\nabc a b c\n", arpa)
    unlikely = np.full((4, 5), -200.0, dtype=np.float32)
    unlikely[[0, 1, 2, 3], [2, 3, 4, 2]] = 0.0  # "abca", of which a word has just begun
    impossible = np.full((3, 5), -np.inf, dtype=np.float32)
    impossible[:, 3] = 0.0
    reader = make_archive([("unlikely", unlikely), ("impossible", impossible)])
    options = {"search_beam": 60.0, "min_active": 0, "lm_scale": 0.1}
    wide, floored = search(reader, lang_dir, "k2-hlg", **options)
    assert (wide.text, wide.fallback, wide.failure) == ("abc", "wider beam", None)
    assert (floored.text, floored.fallback, floored.failure) == ("ab", "wider beam", None)
    cut, _ = search(reader, lang_dir, "k2-hlg", **{**options, "search_beam": 10.0})
    assert (cut.fallback, cut.failure) == ("partial path", None)
    assert cut.tokens == [2, 3, 4, 2] and cut.text in ("abc", "abc ab", "abc abc")


def test_graphs_are_made_once_and_bounded(make_archive, lang_dir: Path, capsys: pytest.CaptureFixture) -> None:
    add_words(lang_dir)
    reader = make_archive([])

    def graphs() -> set[str]:
        return {path.name for path in (lang_dir / "graphs").glob("*.npz")}

    list(search(reader, lang_dir, "k2-hlg", lm_scale=0.5))
    assert capsys.readouterr().out.startswith("HLG: ")
    made = graphs()
    list(search(reader, lang_dir, "k2-nbest", lm_scale=2.0))
    assert graphs() == made and capsys.readouterr().out == ""
    list(search(reader, lang_dir, "k2-hlg", topo="modified"))
    assert len(graphs()) == 2
    add_words(lang_dir, LEXICON.replace("x c\n", "y c\n"))
    list(search(reader, lang_dir, "k2-hlg"))
    assert len(graphs()) == 3


def test_a_damaged_graph_is_made_again(make_archive, lang_dir: Path, capsys: pytest.CaptureFixture) -> None:
    """k2 takes what its file says: a state that is none ended the process."""
    add_words(lang_dir)
    reader = make_archive(small_utterances(10, 4))
    first = list(search(reader, lang_dir, "k2-hlg"))
    (path,) = (lang_dir / "graphs").glob("*.npz")
    content = path.read_bytes()
    said = capsys.readouterr().out
    for at in range(0, len(content), len(content) // 12):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        assert list(search(reader, lang_dir, "k2-hlg")) == first
        again = capsys.readouterr().out
        assert again == said.replace(" arcs", " arcs, made again: what was there does not fit its checksum")


@pytest.mark.parametrize(
    ("method", "words", "options"),
    [
        ("k2-1best", "no topology 'round'", {"topo": "round"}),
        ("k2-1best", r"of 5 tokens passes decode\.max_arcs=24: decode\.topo=modified", {"max_arcs": 24}),
        ("k2-1best", r"output_beam is above 0", {"output_beam": 0.0}),
        ("k2-1best", r"min_active is 0 or more", {"min_active": 10, "max_active": 9}),
        ("k2-hlg", r"LG has \d+ arcs, decode\.max_arcs is 25: prune", {"max_arcs": 25}),
        ("k2-hlg", r"lm_scale is above 0 on HLG", {"lm_scale": 0.0}),
        ("k2-nbest", r"wants decode\.graph=HLG", {"graph": "HL", "lm_scale": 0.5}),
        ("k2-nbest", "no graph 'LG'", {"graph": "LG"}),
        ("k2-nbest", "num_paths 1 or more", {"num_paths": 0}),
        ("k2-nbest", r"nowhere\.arpa: No such file", {"rescore_lm": "nowhere.arpa"}),
        ("k2-nbest", r"rescore_scale is 0 or more", {"rescore_scale": -0.5}),
        ("k2-rescore", r"wants decode\.rescore_lm", {}),
        ("k2-rescore", r"rescore_lm=.*: no such file", {"rescore_lm": "nowhere.arpa"}),
    ],
)
def test_wrong_requests_are_one_line(
    make_archive, lang_dir: Path, method: str, words: str, options: dict[str, object]
) -> None:
    add_words(lang_dir)
    with pytest.raises(UserError, match=words):
        list(search(make_archive([]), lang_dir, method, **options))


def test_a_lexicon_that_grows_too_large_is_refused(make_archive, lang_dir: Path) -> None:
    """It passes as CTC's topology, with 25 arcs, and no longer when it is determinized, or composed with it."""
    words = ["".join(letters) for letters in itertools.product("abc", repeat=3)]
    add_words(lang_dir, "".join(f"{word} {' '.join(word)} {SPACE}\n" for word in words))
    options = {"graph": "HL", "lm_scale": 0.0}
    reader = make_archive(small_utterances(1, 2))
    with pytest.raises(UserError, match=r"L, determinized, has 4\d arcs, decode\.max_arcs is 30: prune"):
        list(search(reader, lang_dir, "k2-nbest", max_arcs=30, **options))
    with pytest.raises(UserError, match=r"HL has \d+ arcs, decode\.max_arcs is 60: prune"):
        list(search(reader, lang_dir, "k2-nbest", max_arcs=60, **options))
    assert len(list(search(reader, lang_dir, "k2-nbest", max_arcs=1000, **options))) == 2


def test_determinization_that_fills_the_memory_is_refused(
    lang_dir: Path, table: TokenTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_words(lang_dir)
    determinize = k2.determinize

    def hungry(fsa: k2.Fsa) -> k2.Fsa:
        np.empty(2_000_000_000, dtype=np.uint8)  # more than what the process has freed could hold
        return determinize(fsa)

    monkeypatch.setattr(k2, "determinize", hungry)
    monkeypatch.setattr("ctcsd.decode.graphs.SPARE_BYTES", 50_000_000)
    with pytest.raises(UserError, match=r"HLG fills 100 bytes an arc, decode\.max_arcs is 1000: prune"):
        load_graph("HLG", "standard", lang_dir, table, 1000)
    assert not list((lang_dir / "graphs").glob("*.npz"))
    assert load_graph("HLG", "standard", lang_dir, table, 100_000_000).num_arcs > 0


def test_words_by_all_their_pronunciations(tmp_path: Path) -> None:
    """Phones, of which no space says where words part."""
    (tmp_path / "tokens.txt").write_text(PHONES.text, encoding="utf-8")
    add_words(tmp_path, PHONE_LEXICON)
    utterances = small_utterances(11, 8)
    with PosteriorWriter(tmp_path / "archive", PHONES) as writer:
        for utterance in utterances:
            writer.write(*utterance)
    reader = PosteriorReader(tmp_path / "archive")
    for (_, log_probs), found in zip(utterances, search(reader, tmp_path, "k2-hlg", lm_scale=0.7, **WIDE)):
        totals = {words: am + 0.7 * lm for words, (am, lm) in sentences(log_probs, tmp_path).items()}
        assert found.score == pytest.approx(max(totals.values()), abs=2e-3)
        assert totals[tuple(found.text.split())] == pytest.approx(found.score, abs=2e-3)
