"""Modified Kneser-Ney models against lmplz's figures and a second implementation."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctcsd.errors import UserError
from ctcsd.text.arpa import Arpa, read_arpa, write_arpa
from ctcsd.text.ngram import discounts, estimate

ALICE = Path(__file__).with_name("alice.txt")  # L. Carroll, Alice's Adventures in Wonderland (1865)
TEXT = ALICE.read_text(encoding="utf-8").splitlines()
PRUNINGS = [(), (0, 1), (0, 0, 1), (0, 1, 2)]


def arpa_of(folder: Path, *args, **options) -> Arpa:
    write_arpa(estimate(*args, **options), folder / "lm.arpa")
    return read_arpa(folder / "lm.arpa")


def total(arpa: Arpa, context: list[str]) -> float:
    words = [ngram[0] for ngram in arpa.probabilities if len(ngram) == 1 and ngram[0] != "<s>"]
    return sum(10 ** arpa.log10(context, word) for word in words)


class Reference:
    """p(w | h) of interpolated modified Kneser-Ney by its definition, over dictionaries and without any backoff."""

    def __init__(self, sentences: list[str], order: int, prune: tuple[int, ...] = ()) -> None:
        self.raw: Counter = Counter()
        for words in filter(None, map(str.split, sentences)):
            padded = ["<s>", *words, "</s>"]
            self.raw.update(tuple(padded[i : i + n]) for n in range(1, order + 1) for i in range(len(padded) - n + 1))
        self.order = max(map(len, self.raw))
        self.prune = {
            n: ([0] * order if not prune else [*prune, *[prune[-1]] * order])[n - 1] for n in range(1, order + 1)
        }
        self.words = sorted({g[0] for g in self.raw if len(g) == 1} - {"<s>"} | {"<unk>"})
        self.adjusted = {g: self._adjusted(g) for g in self.raw if g != ("<s>",)}
        self.discounts = {n: self._discounts(n) for n in range(1, self.order + 1)}

    def _adjusted(self, ngram: tuple[str, ...]) -> int:
        if len(ngram) == self.order or ngram[0] == "<s>":
            return self.raw[ngram]
        return len({longer[0] for longer in self.raw if longer[1:] == ngram})

    def _discounts(self, n: int) -> list[float]:
        of = Counter(a for g, a in self.adjusted.items() if len(g) == n)
        try:
            y = of[1] / (of[1] + 2 * of[2])
            found = [0, 1 - 2 * y * of[2] / of[1], 2 - 3 * y * of[3] / of[2], 3 - 4 * y * of[4] / of[3]]
        except ZeroDivisionError:
            found = [-1]
        return [0, 0.5, 1, 1.5] if min(found) < 0 else found

    def p(self, word: str, context: tuple[str, ...]) -> float:
        context = context[max(0, len(context) - self.order + 1) :]
        lower = self.p(word, context[1:]) if context else 1 / len(self.words)
        following = {g: a for g, a in self.adjusted.items() if len(g) == len(context) + 1 and g[:-1] == context}
        if not following:
            return lower
        d = self.discounts[len(context) + 1]
        kept = {g: a for g, a in following.items() if not context or self.raw[g] > self.prune[len(g)]}
        ngram = (*context, word)
        direct = kept[ngram] - d[min(kept[ngram], 3)] if ngram in kept else 0
        free = sum(d[min(a, 3)] if g in kept else a for g, a in following.items())
        return (direct + free * lower) / sum(following.values())


def agree(arpa: Arpa, reference: Reference, contexts: list[tuple[str, ...]]) -> None:
    for context in contexts:
        for word in reference.words:
            expected = reference.p(word, context)
            assert 10 ** arpa.log10(context, word) == pytest.approx(expected, rel=2e-6, abs=1e-12), (context, word)


sentences = st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=1, max_size=8)


@settings(max_examples=40, deadline=None)
@given(sentences.filter(lambda found: any(found)), st.integers(1, 5), st.sampled_from(PRUNINGS))
def test_equals_the_definition_on_tiny_texts(tmp_path_factory, found: list[str], order: int, prune) -> None:
    prune = prune[:order]
    reference = Reference(found, order, prune)
    arpa = arpa_of(tmp_path_factory.mktemp("lm"), found, order, prune)
    contexts = sorted({g[:-1] for g in reference.raw}) + [("<unk>",), ("d", "a"), ("<s>", "c", "c"), ("b",) * 6]
    agree(arpa, reference, contexts)


@pytest.mark.parametrize("prune", PRUNINGS)
def test_equals_the_definition_on_real_text(tmp_path: Path, prune: tuple[int, ...]) -> None:
    some = TEXT[:12]
    reference = Reference(some, 3, prune)
    contexts = random.Random(0).sample(sorted({g[:-1] for g in reference.raw}), 25) + [("alice", "alice"), ()]
    agree(arpa_of(tmp_path, some, 3, prune), reference, contexts)


@pytest.mark.parametrize("prune", PRUNINGS)
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_probabilities_sum_to_one(tmp_path: Path, order: int, prune: tuple[int, ...]) -> None:
    arpa = arpa_of(tmp_path, TEXT, order, prune[:order])
    draw = random.Random(order)
    words = sorted({word for line in TEXT for word in line.split()}) + ["<unk>", "unheard-of"]
    for line in draw.sample(TEXT, 15):
        seen = ["<s>", *line.split()]
        unseen = [draw.choice(words) for _ in range(draw.randrange(5))]
        for context in (seen[: draw.randrange(len(seen) + 1)], unseen):
            assert total(arpa, context) == pytest.approx(1, abs=1e-6), context


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=20),
    st.integers(1, 5),
    st.sampled_from(PRUNINGS),
)
def test_any_text_at_all(tmp_path_factory, found: list[str], order: int, prune: tuple[int, ...]) -> None:
    found = ["a line", *(line for line in found if not {"<s>", "</s>", "<unk>"} & set(line.split()))]
    arpa = arpa_of(tmp_path_factory.mktemp("lm"), found, order, prune[:order])
    for line in found:
        assert total(arpa, ["<s>", *line.split()]) == pytest.approx(1, abs=1e-6)


SENTENCES = (
    "alice fell down the rabbit hole",
    "the white rabbit had nothing to do",
    "a cheshire cat thought of her sister",
)


@pytest.mark.parametrize(
    ("order", "prune", "counts", "scores"),
    [
        (1, (), [222], [-13.40660, -15.91680, -16.66348]),
        (2, (), [222, 489], [-10.99259, -14.00479, -15.89540]),
        (3, (), [222, 489, 511], [-11.07325, -12.40302, -16.21704]),
        (5, (), [222, 489, 511, 473, 431], [-11.37428, -12.27350, -16.21704]),
        (3, (0, 0, 1), [222, 489, 4], [-10.71262, -14.14986, -15.91601]),
    ],
)
def test_figures_of_lmplz(tmp_path: Path, order: int, prune, counts: list[int], scores: list[float]) -> None:
    """KenLM 0.3.0: lmplz -o ORDER --discount_fallback [--prune ...] --text alice.txt (fallback from order 3 on)."""
    arpa = arpa_of(tmp_path, TEXT, order, prune)
    assert arpa.counts == counts
    assert [arpa.score(sentence.split()) for sentence in SENTENCES] == pytest.approx(scores, abs=2e-5)


def test_discounts() -> None:
    counts = np.repeat([0, 1, 2, 3, 4, 5, 9], [3, 10, 5, 3, 2, 7, 1])
    y = 10 / (10 + 2 * 5)
    assert discounts(counts) == pytest.approx((1 - 2 * y * 5 / 10, 2 - 3 * y * 3 / 5, 3 - 4 * y * 2 / 3))
    assert discounts(np.array([1, 1, 2, 3])) == pytest.approx((0.5, 0.5, 3.0)), "no fours: a discount of 3"
    assert discounts(np.array([1, 2, 2, 4])) == (0.5, 1.0, 1.5), "no threes"
    assert discounts(np.repeat([1, 2, 3], [9, 1, 9])) == (0.5, 1.0, 1.5), "D(2) below 0"


def test_closed_vocabulary(tmp_path: Path) -> None:
    arpa = arpa_of(tmp_path, TEXT, 3, vocabulary=["alice", "the", "rabbit", "cheshire"])
    assert sorted(g[0] for g in arpa.probabilities if len(g) == 1) == sorted(
        ["<unk>", "<s>", "</s>", "alice", "the", "rabbit", "cheshire"]
    )
    assert ("the", "<unk>", "<unk>") in arpa.probabilities
    assert arpa.log10([], "<unk>") > arpa.log10([], "the") > arpa.log10([], "cheshire")
    for context in ([], ["<s>"], ["the", "<unk>"], ["cheshire"], ["the", "hatter"]):
        assert total(arpa, context) == pytest.approx(1, abs=1e-6)


def test_pruning_drops_and_keeps(tmp_path: Path) -> None:
    arpa = arpa_of(tmp_path, ["a b c", "a b d", "a b c", "c a"], 3, (0, 1, 1))
    assert {g for g in arpa.probabilities if len(g) == 3} == {("<s>", "a", "b"), ("a", "b", "c"), ("b", "c", "</s>")}
    assert ("b", "d") not in arpa.probabilities and ("d",) in arpa.probabilities
    assert arpa.counts == [7, 4, 3]


@pytest.mark.parametrize(
    ("found", "order", "prune", "message"),
    [
        (["a"], 0, (), "is 1 to 5, not 0"),
        (["a"], 6, (), "is 1 to 5, not 6"),
        (["a"], 3, (1,), "not 1$"),
        (["a"], 3, (0, 2, 1), "not 0 2 1"),
        (["a"], 2, (0, 1, 1), "at most 2 thresholds"),
        ([], 3, (), "no text"),
        (["", "  "], 3, (), "no text"),
        (["a b", "a <s> b"], 3, (), "sentence 2 of the text holds the word <s>"),
        (["<unk>"], 3, (), "sentence 1 of the text holds the word <unk>"),
    ],
)
def test_wrong_input(found: list[str], order: int, prune: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        estimate(found, order, prune)
