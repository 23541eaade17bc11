"""Text normalisation: from a sentence as shipped to the words a recogniser is trained on. Runs on Python 3.9."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from ctcsd.errors import UserError

APOSTROPHES = dict.fromkeys(map(ord, "\u2019\u2018\u02bc\u02b9\u2032\u00b4`\uff07"), "'")
_LATIN = "abcdefghijklmnopqrstuvwxyz"
_LETTERS: dict[str, str] = {
    "cs": _LATIN + "áčďéěíňóřšťúůýž",
    "de": _LATIN + "äöüß",
    "en": _LATIN + "'",
    "es": _LATIN + "áéíñóúü",
    "fr": _LATIN + "'àâæçéèêëîïôœùûüÿ",
    "it": _LATIN + "'àèéìíîòóùú",
    "nl": _LATIN + "'áàâäéèêëíïóôöúüû",
    "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
}


def alphabet_of(language: str) -> frozenset[str] | None:
    """What a normalised text of `language` (`en`, `en-GB`) may hold; None, any letter, for an unlisted language."""
    letters = _LETTERS.get(language.replace("_", "-").split("-")[0].lower())
    return None if letters is None else frozenset(letters)


def normalize(text: str, alphabet: frozenset[str] | None = None, digits: bool = False) -> str:
    """Lower-case words separated by single spaces; may be empty.

    NFC, lower case, every apostrophe to `'`, everything but letters, apostrophes and combining marks to a space,
    invisible format characters (soft hyphens) removed, apostrophes at word ends stripped. An apostrophe that `alphabet`
    lacks becomes a space. Letters outside the alphabet stay: `outside` finds them, so that a caller can drop the
    utterance rather than train on a hole. With `digits`, numbers stay too.
    """
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower().translate(APOSTROPHES))
    apostrophe = "'" if alphabet is None or "'" in alphabet else " "
    kept: list[str] = []
    for char in text:
        category = unicodedata.category(char)
        if char == "'":
            kept.append(apostrophe)
        elif category[0] in "LM" or (digits and category[0] == "N"):
            kept.append(char)
        elif category != "Cf":
            kept.append(" ")
    words = (word.strip("'") for word in "".join(kept).split())
    return " ".join(word for word in words if word)


# Score alike, by name: what is done to reference and hypothesis before they are compared.
SCORING_RULES: dict[str, Callable[[str], str]] = {
    "none": str,
    "lower": lambda text: unicodedata.normalize("NFC", text).lower(),
    "nopunct": lambda text: normalize(text, digits=True),
}


def scoring_rule(name: str) -> Callable[[str], str]:
    """The rule of that name; raises UserError where there is none."""
    if name not in SCORING_RULES:
        raise UserError(f"score.normalize={name}: no such rule; known: {', '.join(SCORING_RULES)}")
    return SCORING_RULES[name]


def outside(normalized: str, alphabet: frozenset[str] | None) -> str:
    """The characters of a normalised text that `alphabet` lacks, sorted, each once; spaces do not count."""
    if alphabet is None:
        return ""
    return "".join(sorted(set(normalized) - alphabet - {" "}))


def spoken_symbols(text: str) -> str:
    """Digits and signs of a raw text that are read aloud but that normalisation deletes (`7`, `&`, `$`), sorted."""
    return "".join(
        sorted(
            {c for c in text if unicodedata.category(c)[0] == "N" or unicodedata.category(c) == "Sc" or c in "&%+=°"}
        )
    )
