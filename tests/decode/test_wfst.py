"""Search on H, HL and HLG against every path, and the cache of graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kaldifst
import numpy as np
import pytest
from brute_force import (
    ARPA,
    LEXICON,
    ONE_TOKEN,
    ONE_TOKEN_ARPA,
    ONE_TOKEN_LEXICON,
    Sentences,
    add_words,
    readings,
    small_utterances,
    token_sequences,
)
from fakes import random_log_probs

from ctcsd.decode import search
from ctcsd.decode.graphs import disambiguation, lexicon_fst, pronunciations
from ctcsd.decode.wfst_graphs import _determinize
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader, PosteriorWriter
from ctcsd.text.tokenizer import TokenTable


def graphs(lang_dir: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (lang_dir / "graphs").glob("*.fst")}


def test_h_is_greedy(make_archive, lang_dir: Path) -> None:
    rng = np.random.default_rng(0)
    utterances = [*small_utterances(0, 30), ("long", random_log_probs(rng, 200, 5)), ("one", np.log([[0.2] * 5]))]
    utterances[-1][1][0, 3] = -0.1
    reader = make_archive(utterances)
    for found, greedy in zip(search(reader, lang_dir, "wfst", graph="H"), search(reader, lang_dir, "greedy")):
        assert (found.text, found.tokens, found.frames) == (greedy.text, greedy.tokens, greedy.frames)
        assert found.score == pytest.approx(greedy.score, abs=1e-4)


def test_hl_against_brute_force(make_archive, lang_dir: Path) -> None:
    add_words(lang_dir)
    utterances = small_utterances(1, 30)
    for (_, log_probs), found in zip(utterances, search(make_archive(utterances), lang_dir, "wfst", graph="HL")):
        scores = {
            (words, tokens): best
            for tokens, (_, best) in token_sequences(log_probs).items()
            for words in readings(tokens, lang_dir)
        }
        assert found.score == pytest.approx(max(scores.values()), abs=1e-4)
        assert scores[tuple(found.text.split()), tuple(found.tokens)] == pytest.approx(found.score, abs=1e-4)


@pytest.mark.parametrize("lm_scale", [0.3, 1.0, 2.5])
def test_hlg_is_acoustic_and_language_model(make_archive, lang_dir: Path, lm_scale: float) -> None:
    lm = Sentences(add_words(lang_dir))
    utterances = small_utterances(2, 30)
    reader = make_archive(utterances)
    for (_, log_probs), found in zip(utterances, search(reader, lang_dir, "wfst", lm_scale=lm_scale)):
        scores = {
            (words, tokens): best + lm_scale * lm.log_prob(words)
            for tokens, (_, best) in token_sequences(log_probs).items()
            for words in readings(tokens, lang_dir)
        }
        own = scores[tuple(found.text.split()), tuple(found.tokens)]
        assert found.score == pytest.approx(own, abs=2e-3)
        assert found.score == pytest.approx(max(scores.values()), abs=2e-3)


def test_pieces_and_phones_have_no_space_at_the_end(make_archive, tmp_path: Path) -> None:
    table = TokenTable(["<blk>", "\u2581", "\u2581a", "b", "c"])
    lang_dir = tmp_path / "pieces"
    lang_dir.mkdir()
    (lang_dir / "tokens.txt").write_text(table.text, encoding="utf-8")
    add_words(lang_dir, "a \u2581a\nab \u2581a b\nabb \u2581a b b\nc \u2581 c\n", None)
    utterances = small_utterances(3, 20)
    with PosteriorWriter(tmp_path / "pieces.ark", table) as writer:
        for cut_id, log_probs in utterances:
            writer.write(cut_id, log_probs)
    reader = PosteriorReader(tmp_path / "pieces.ark")
    wfst = search(reader, lang_dir, "wfst", graph="HL")
    beam = search(reader, lang_dir, "beam", lexicon=True, lm_scale=0.0, beam=10_000)
    for (_, log_probs), path, prefix in zip(utterances, wfst, beam):
        spelled = {
            tokens: score for tokens, score in token_sequences(log_probs).items() if [*readings(tokens, lang_dir)]
        }
        assert path.score == pytest.approx(max(best for _, best in spelled.values()), abs=1e-4)
        assert prefix.score == pytest.approx(max(total for total, _ in spelled.values()), abs=1e-4)
        assert path.text == table.text_of(path.tokens) and prefix.text == table.text_of(prefix.tokens)


def test_disambiguation_tells_words_apart(lang_dir: Path, table: TokenTable) -> None:
    lexicon = pronunciations(add_words(lang_dir), table)
    marks = dict(zip([(p.word, len(p.tokens)) for p in lexicon], disambiguation(lexicon)))
    assert marks == {
        ("a", 1): 0,
        ("ab", 2): 0,
        ("ba", 2): 1,
        ("baa", 2): 2,
        ("c", 1): 0,
        ("c", 2): 0,
        ("x", 1): 1,
        ("xa", 2): 0,
    }


def test_a_graph_is_made_once(make_archive, lang_dir: Path, capsys: pytest.CaptureFixture) -> None:
    add_words(lang_dir)
    reader = make_archive(small_utterances(4, 3))
    first = [h.text for h in search(reader, lang_dir, "wfst", lm_scale=0.5)]
    assert capsys.readouterr().out.startswith("HLG: ")
    made = graphs(lang_dir)
    assert len(made) == 1
    assert [h.text for h in search(reader, lang_dir, "wfst", lm_scale=0.5, search_beam=30)] == first
    list(search(reader, lang_dir, "wfst", lm_scale=2.0))
    assert graphs(lang_dir) == made and capsys.readouterr().out == ""
    add_words(lang_dir, LEXICON.replace("x c\n", "y c\n"))
    list(search(reader, lang_dir, "wfst", lm_scale=0.5))
    now = graphs(lang_dir)
    assert len(now) == 2 and made.items() <= now.items()


def test_a_damaged_graph_is_made_again(make_archive, lang_dir: Path, capsys: pytest.CaptureFixture) -> None:
    """OpenFst takes what its file says: a state that is none ended the process."""
    add_words(lang_dir)
    reader = make_archive(small_utterances(4, 3))
    first = list(search(reader, lang_dir, "wfst"))
    (path,) = (lang_dir / "graphs").glob("*.fst")
    checksum, content = path.with_name(f"{path.name}.sha256"), path.read_bytes()
    said = capsys.readouterr().out
    again = said.replace(" arcs", " arcs, made again: what was there does not fit its checksum")

    def look(expected: str) -> None:
        assert list(search(reader, lang_dir, "wfst")) == first
        assert capsys.readouterr().out == expected and path.read_bytes() == content

    for at in (80, len(content) - 20):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :])
        look(again)
    path.write_bytes(content[:100])
    look(again)
    checksum.write_bytes(b"\xff")
    look(again)
    checksum.unlink()
    look(again)
    path.unlink()
    look(said)
    look("")


def test_a_graph_that_fills_the_memory_is_refused(
    lang_dir: Path, table: TokenTable, make_archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_words(lang_dir)
    determinize = kaldifst.determinize_star

    def hungry(fst: Any, **options: Any) -> None:
        np.empty(2_000_000_000, dtype=np.uint8)  # more than what the process has freed could hold
        determinize(fst, **options)

    monkeypatch.setattr(kaldifst, "determinize_star", hungry)
    monkeypatch.setattr("ctcsd.decode.graphs.SPARE_BYTES", 50_000_000)
    with pytest.raises(UserError, match=r"HLG fills 100 bytes an arc, decode\.max_arcs is 1000: prune"):
        list(search(make_archive([]), lang_dir, "wfst", max_arcs=1000))
    assert not list((lang_dir / "graphs").glob("*.fst"))
    assert list(search(make_archive([]), lang_dir, "wfst", max_arcs=100_000_000)) == []


@pytest.mark.parametrize(
    ("method", "options"),
    [*[("wfst", {"graph": graph}) for graph in ("H", "HL", "HLG")], ("beam", {"lexicon": True}), ("beam", {})],
)
def test_one_token(tmp_path: Path, method: str, options: dict[str, Any]) -> None:
    table = TokenTable(["<blk>", "a"])
    (tmp_path / "tokens.txt").write_text(table.text, encoding="utf-8")
    add_words(tmp_path, ONE_TOKEN_LEXICON, ONE_TOKEN_ARPA)
    with PosteriorWriter(tmp_path / "archive", table) as writer:
        writer.write("u", ONE_TOKEN)
        writer.write("none", ONE_TOKEN[:0])
    found, none = search(PosteriorReader(tmp_path / "archive"), tmp_path, method, **options)
    assert (found.text, found.tokens, found.frames) == ("a a", [1, 1], [0, 2])
    assert (none.text, found.failure, found.fallback) == ("", None, None)


def test_graphs_of_other_tokens_are_refused_or_left(make_archive, lang_dir: Path, tmp_path: Path) -> None:
    reader = make_archive(small_utterances(5, 2))
    add_words(lang_dir)
    list(search(reader, lang_dir, "wfst", graph="HL"))
    made = graphs(lang_dir)
    other = TokenTable(["<blk>", "\u2581", "c", "b", "a"])
    (lang_dir / "tokens.txt").write_text(other.text, encoding="utf-8")
    with pytest.raises(UserError, match="another token table"):
        list(search(reader, lang_dir, "wfst", graph="HL"))
    with PosteriorWriter(tmp_path / "other", other) as writer:
        writer.write("u", small_utterances(5, 1)[0][1])
    list(search(PosteriorReader(tmp_path / "other"), lang_dir, "wfst", graph="HL"))
    assert len(graphs(lang_dir)) == 2 and made.items() <= graphs(lang_dir).items()
    add_words(lang_dir, LEXICON + "d d\n")
    with pytest.raises(UserError, match=r"lexicon\.txt: line 9: 'd' of 'd' is not in tokens\.txt"):
        list(search(PosteriorReader(tmp_path / "other"), lang_dir, "wfst", graph="HL"))


def test_wrong_requests_are_one_line(make_archive, lang_dir: Path) -> None:
    reader = make_archive([])

    def refused(words: str, **options: object) -> None:
        with pytest.raises(UserError, match=words):
            list(search(reader, lang_dir, "wfst", **options))

    refused("no graph 'LG'; known: H, HL, HLG", graph="LG")
    refused(r"wants decode\.graph=HLG", graph="HL", lm_scale=0.5)
    refused(r"decode\.graph=HL$", lm_scale=0.0)
    refused("max_active above 1", graph="H", max_active=1)
    refused(r"has no words\.txt, which a search on HLG needs")
    add_words(lang_dir)
    refused("of 5 tokens passes", graph="H", max_arcs=24)
    refused(r"LG has \d+ arcs, decode\.max_arcs is 25: prune", max_arcs=25)
    refused(r"HLG has \d+ arcs, decode\.max_arcs is 100: prune", max_arcs=100)
    with pytest.raises(UserError, match=r"L, determinized, has more than 3 states, decode\.max_arcs is 3: prune"):
        _determinize(kaldifst.compile(lexicon_fst(lang_dir, reader.table, backoff=False)[0]), "L", 3)
    (lang_dir / "words.txt").write_text("<eps> 0\na 1\n#0 2\n<s> 3\n</s> 4\n", encoding="utf-8")
    refused(r"'ab' is in lexicon\.txt, but not in words\.txt")
    add_words(lang_dir, arpa=ARPA.replace("-0.3\tc c", "none\tc c"))
    refused(r"lm\.arpa: line \d+: ")
    for right, wrong in (("ngram 1=10", "ngram 1=9"), ("ngram 2=6\n", ""), ("-0.6\ta", "0.6\ta")):  # kaldilm takes them
        add_words(lang_dir, arpa=ARPA.replace(right, wrong))
        refused(r"lm\.arpa: line \d+: ")
    endless = "".join(line for line in ARPA.splitlines(keepends=True) if "</s>" not in line)
    add_words(lang_dir, arpa=endless.replace("=10", "=9").replace("=6", "=4"))
    refused(r"make no sentence of lm\.arpa")
    assert not list((lang_dir / "graphs").glob("*.fst"))


def test_what_the_lexicon_cannot_spell_is_not_lost(make_archive, lang_dir: Path) -> None:
    add_words(lang_dir, "ab a b\n", None)
    good, bad = np.full((3, 5), -np.inf, np.float32), np.full((3, 5), -np.inf, np.float32)
    good[[0, 1, 2], [2, 0, 3]] = bad[:, 3] = 0.0
    reader = make_archive([("good", good), ("bad", bad), ("again", good)])
    ways = [
        ("wfst", {"graph": "HL"}),
        *[("beam", {"lexicon": True, "lm_scale": 0.0, "beam_tokens": n}) for n in (0, 1)],
    ]
    for method, options in ways:
        found = list(search(reader, lang_dir, method, **options))
        assert [(h.text, h.fallback) for h in found] == [("ab", None), (found[1].text, "wider beam"), ("ab", None)]
        assert found[1].text in ("", "ab") and not any(h.failure for h in found)


def test_a_word_that_has_only_begun_is_left_out(make_archive, lang_dir: Path) -> None:
    add_words(lang_dir, "ab a b\nc c\n", None)
    log_probs = np.full((3, 5), -500.0, np.float32)
    log_probs[[0, 1, 2], [4, 0, 2]] = 0.0  # "ca"
    reader = make_archive([("u", log_probs)])
    ways: list[tuple[str, dict[str, Any]]] = [
        ("wfst", {"graph": "HL", "search_beam": 5.0, "min_active": 0}),
        ("beam", {"lexicon": True, "lm_scale": 0.0, "beam_threshold": 5.0}),
    ]
    for method, options in ways:
        (found,) = search(reader, lang_dir, method, **options)
        assert (found.fallback, found.failure) == ("partial path", None)
        assert found.tokens == [4, 2] and found.text.split()[0] == "c" and found.score > -100.0
