"""In which units a search is scored: words, or phones where a model of phones was decoded without a lexicon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ctcsd.decode.search import finds_words
from ctcsd.score.wer import characters
from ctcsd.text.tokenizer import Tokenizer, TokenTable


class Units(NamedTuple):
    """`name` of the unit whose error rate is `wer`; `reference`: transcript -> what is compared; `parts` of the CER.

    Of phones the error rate is the PER, and there is no CER apart from it.
    """

    name: str
    reference: Callable[[str], str]
    parts: Callable[[str], list[str]]


WORDS = Units("word", str, characters)


def units_of(method: str, options: dict[str, Any], lang_dir: Path) -> Units:
    """The units of a search with some options on a lang dir; raises UserError where that is none."""
    if finds_words(method, options) or TokenTable.load(lang_dir).spells:
        return WORDS
    return Units("phone", Tokenizer(lang_dir).as_decoded, str.split)
