"""Plain English sentences out of the files of fortune(6): adages, quotations and jokes, separated by lines of `%`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

# No prose: pictures, verse, chat, code; and what is not English.
SKIPPED = {"ascii-art", "knghtbrd", "perl", "songs-poems", "translate-me"}
MIN_WORDS, MAX_WORDS = 3, 15

ATTRIBUTION = re.compile(r"^\s*(-- ?|\[).*", re.MULTILINE | re.DOTALL)
# A sentence ends before a capital, but not behind an initial or a title.
END = re.compile(
    r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[DMS][rst]\.)(?<!\bMrs\.)(?<!\bvs\.)(?<!\betc\.)(?<!\bProf\.)\s+(?=[A-Z])"
)
SENTENCE = re.compile(r"[A-Z][A-Za-z',; -]*[a-z][.!?]+")
# Capitals (read letter by letter), a word without a vowel, a letter that is no word: the text is not what is heard.
UNSPEAKABLE = re.compile(r"\b(?<!')(?:\w*[A-Z]{2}\w*|[^\W_aeiouyAEIOUY]{2,}|[^\W_AaIOo])\b(?!')")


def sentences(folder: Path) -> Iterator[str]:
    """The sentences of every file in a folder of fortunes, in the order of the files' names."""
    for path in sorted(folder.iterdir()):
        if not path.suffix and path.is_file() and path.name not in SKIPPED:
            for cookie in re.split(r"^%.*\n", path.read_text(encoding="utf-8", errors="replace"), flags=re.MULTILINE):
                yield from sentences_of(cookie)


def sentences_of(cookie: str) -> Iterator[str]:
    """The sentences of 3 to 15 words in one fortune that hold nothing but words, commas, semicolons and hyphens.

    What follows a line of attribution is left out, quotation marks are dropped.
    """
    for paragraph in re.split(r"\n\s*\n", ATTRIBUTION.sub("", cookie)):
        prose = " ".join(re.sub(r"[\"()]|``|''", "", paragraph).split())
        for sentence in END.split(prose):
            words = len(sentence.split())
            if MIN_WORDS <= words <= MAX_WORDS and SENTENCE.fullmatch(sentence) and not UNSPEAKABLE.search(sentence):
                yield sentence
