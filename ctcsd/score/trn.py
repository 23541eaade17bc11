"""Transcripts in NIST's trn format, to be scored by sclite too."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ctcsd.files import write_text
from ctcsd.score.utterances import Utterance

# What sclite gives a meaning: alternatives {a / b}, optional (words), comments ;;, null words @, tags <...>.
_SPECIAL_IN_WORDS = re.compile(r"[%(){}<>/\\@;*]")
_SPECIAL_IN_IDS = re.compile(r"[^\w.-]")


def write_trn(reference: Path, hypothesis: Path, utterances: Sequence[Utterance]) -> None:
    """The pair for `sclite -r REF trn -h HYP trn -i spu_id -s -e utf-8`; utterances are named `speaker-cut_id`.

    What has a meaning for sclite is written as in a URL, `%28` for an opening parenthesis, in both files alike.
    """
    write_text(reference, "".join(_line(u, u.reference.text) for u in utterances))
    write_text(hypothesis, "".join(_line(u, u.hypothesis) for u in utterances))


def _line(utterance: Utterance, text: str) -> str:
    words = " ".join(_escaped(word, _SPECIAL_IN_WORDS) for word in text.split())
    speaker = _escaped(utterance.reference.speaker or "unknown", _SPECIAL_IN_IDS)
    for separator in "-_":  # sclite takes what stands before the first one for the speaker
        speaker = speaker.replace(separator, f"%{ord(separator):02X}")
    return f"{words} ({speaker}-{_escaped(utterance.cut_id, _SPECIAL_IN_IDS)})\n"


def _escaped(text: str, special: re.Pattern[str]) -> str:
    return special.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode()), text)
