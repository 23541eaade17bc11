"""What makes one utterance unfit for training: a failed check is a drop with a reason, never an abort."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from ctcsd.text.normalize import outside, spoken_symbols

SAMPLING_RATE = 16000  # Hz, of everything that is written
SOUND_WORD = re.compile(r"[\s.]*(<\w+>|\(\w+\)|\[\w+\])[\s.]*")


@dataclass(frozen=True)
class Limits:
    """Bounds of what is kept; durations in seconds.

    Slow speech: an utterance may last `slow_base + slow_per_char * characters`. A bound per character alone would drop
    spelt letters (1.4 s each in fotaq) or let a sentence pass over someone else's monologue; these two leave 5 of
    fotaq's 6,587 clips out (growls and long pauses).
    Fast speech: fotaq's fastest clip has 25 characters a second, its 99.9th percentile 21.
    Clipping: hard clipping of a share p of speech (Laplace amplitudes) distorts it at about 10 log10(1/p) dB: a warning
    above 0.1 % (30 dB), a drop above 10 % (10 dB, where the distortion drowns consonants).
    """

    min_seconds: float = 0.2
    max_seconds: float = 30.0
    max_chars_per_second: float = 30.0
    slow_base: float = 2.0
    slow_per_char: float = 0.3
    warn_clipped: float = 0.001
    max_clipped: float = 0.1
    silence_peak: float = 1e-4


@dataclass(frozen=True)
class Kept:
    """One utterance that passed: its FLAC file is `name`.flac with `num_samples` at 16 kHz, scaled by `gain`.

    `sound`: a digest of its samples as read. `source`: the file itself, where it is used as it lies.
    """

    name: str
    text_raw: str
    text: str
    speaker: str
    split: str
    num_samples: int
    clipped: float
    gain: float
    sound: str
    source: Path | None = None

    @property
    def seconds(self) -> float:
        return self.num_samples / SAMPLING_RATE


@dataclass(frozen=True)
class Drop:
    """Why an utterance is left out: a fixed reason (counted) and the detail (listed).

    `expected`: the corpus has such by its nature, so that it is not held against `--max-bad`.
    """

    reason: str
    detail: str = ""
    expected: bool = False


def check_text(raw: str, normalized: str, alphabet: frozenset[str] | None) -> Drop | None:
    """Broken characters, empty text, digits and signs that are read aloud, letters that the alphabet lacks."""
    if drop := check_characters(raw):
        return drop
    if symbols := spoken_symbols(raw):
        return Drop("digits or symbols in text", f"{symbols} in: {raw}")
    if SOUND_WORD.fullmatch(raw):  # "(sigh)", "<sneeze>": a noise is heard, not the word
        return Drop("a sound instead of words", raw)
    if not normalized:
        return Drop("empty text", raw)
    if letters := outside(normalized, alphabet):
        return Drop("character outside the alphabet", f"{letters} in: {raw}")
    return None


def check_characters(raw: str) -> Drop | None:
    """Control characters, and what stands where a text was decoded wrongly (U+FFFD, unassigned or private letters)."""
    broken = {
        c for c in raw if c == "\ufffd" or (unicodedata.category(c) in ("Cc", "Cn", "Co", "Cs") and c not in "\t\r\n")
    }
    if not broken:
        return None
    return Drop("control characters in text", f"{' '.join(f'U+{ord(c):04X}' for c in sorted(broken))} in: {raw}")


def main_script(texts: Iterable[str]) -> str:
    """The script that most letters of the texts belong to, such as LATIN; empty where they have no letters."""
    counts = Counter(_script(c) for text in texts for c in text if c.isalpha())
    return max(sorted(counts), key=counts.__getitem__, default="")


def check_script(text: str, expected: str) -> Drop | None:
    """A text most of whose letters are of another script than `expected`, the rest of the corpus's."""
    found = main_script([text])
    return (
        Drop("another script than the corpus", f"{found}, not {expected}: {text}")
        if found not in ("", expected)
        else None
    )


@cache
def _script(letter: str) -> str:
    words = unicodedata.name(letter, "UNKNOWN").split()
    script = words[1] if words[0] in ("FULLWIDTH", "HALFWIDTH") and len(words) > 1 else words[0]
    return "CJK" if script in ("HIRAGANA", "KATAKANA", "HANGUL", "IDEOGRAPHIC") else script


def check_shape(samples: np.ndarray, rate: int, expected_rate: int | None) -> Drop | None:
    """Wrong sampling rate (Hz), no samples, neither (samples,) nor (samples, channels), NaN or infinite samples."""
    if expected_rate is not None and rate != expected_rate:
        return Drop("wrong sampling rate", f"{rate} Hz instead of {expected_rate} Hz")
    if rate <= 0:
        return Drop("unreadable audio", f"sampling rate {rate} Hz")
    if samples.size == 0:
        return Drop("empty audio", "no samples")
    if samples.ndim > 2 or (samples.ndim == 2 and samples.shape[1] > max(16, samples.shape[0])):
        return Drop("unreadable audio", f"shape {samples.shape} is not (samples,) or (samples, channels)")
    if not np.isfinite(samples).all():
        return Drop("non-finite samples", f"{int((~np.isfinite(samples)).sum())} of {samples.size}")
    return None


def check_signal(mono: np.ndarray, rate: int, characters: int, limits: Limits) -> Drop | None:
    """Silence, duration, duration against the transcript's length, clipping. `mono` is (samples,) at `rate` Hz."""
    seconds = len(mono) / rate
    if seconds < limits.min_seconds:
        return Drop("too short", f"{seconds:.3f} s")
    if seconds > limits.max_seconds:
        return Drop("too long", f"{seconds:.2f} s")
    if float(np.abs(mono - mono.mean()).max()) < limits.silence_peak:
        return Drop("silent audio", f"{seconds:.2f} s")
    if characters / seconds > limits.max_chars_per_second:
        return Drop("too fast for its text", f"{characters} characters in {seconds:.2f} s")
    if seconds > limits.slow_base + limits.slow_per_char * characters:
        return Drop("too slow for its text", f"{characters} characters in {seconds:.2f} s")
    if (share := clipped_share(mono)) > limits.max_clipped:
        return Drop("clipped audio", f"{share:.1%} of the samples")
    return None


def sounding_seconds(mono: np.ndarray, rate: int, below: float = 25.0) -> float:
    """The time in which `mono` (samples,) is at most `below` dB under its loudest 10 ms: no pause, no echo."""
    step = max(rate // 100, 1)
    power = np.square(mono[: len(mono) // step * step].reshape(-1, step)).mean(1)
    return float((power > 10 ** (-below / 10) * power.max(initial=0.0)).sum() * step / rate)


def sound_digest(mono: np.ndarray, rate: int) -> str:
    """The same for the same samples at the same rate: what makes a duplicate."""
    return hashlib.sha1(f"{rate} ".encode() + mono.tobytes()).hexdigest()


def clipped_share(mono: np.ndarray) -> float:
    """The share of samples that touch full scale beside another that does: lone peaks are no clipping."""
    full = np.abs(mono) >= 0.999
    if not full.any():
        return 0.0
    paired = np.zeros_like(full)
    paired[1:] |= full[:-1]
    paired[:-1] |= full[1:]
    return float((full & paired).mean())
