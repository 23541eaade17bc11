"""KenLM's reader, the copy of it in flashlight-text, takes the models, and scores as we do."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from flashlight.lib.text.decoder.kenlm import KenLM
from flashlight.lib.text.dictionary import Dictionary

from ctcsd.text.arpa import read_arpa, write_arpa
from ctcsd.text.ngram import estimate

ALICE = Path(__file__).parents[1] / "portable" / "alice.txt"


def score(model: KenLM, ids: list[int], bos: bool, eos: bool) -> float:
    state, total = model.start(not bos), 0.0
    for index in ids:
        state, step = model.score(state, index)
        total += step
    return total + (model.finish(state)[1] if eos else 0.0)


@pytest.mark.parametrize("prune", [(), (0, 0, 1)])
@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_kenlm_gives_the_same_scores(tmp_path: Path, order: int, prune: tuple[int, ...]) -> None:
    text = ALICE.read_text(encoding="utf-8").splitlines()
    path = tmp_path / "lm.arpa"
    write_arpa(estimate(text, order, prune[:order]), path)
    words = [*sorted({word for line in text for word in line.split()}), "cheshire"]
    ours, theirs = read_arpa(path), KenLM(str(path), Dictionary(words))
    draw = random.Random(order)
    sentences = [line.split() for line in text] + [draw.choices(words, k=draw.randrange(12)) for _ in range(100)]
    for sentence in sentences:
        for bos in (True, False):
            for eos in (True, False):
                expected = score(theirs, [words.index(word) for word in sentence], bos, eos)
                assert ours.score(sentence, bos, eos) == pytest.approx(expected, abs=1e-4)
