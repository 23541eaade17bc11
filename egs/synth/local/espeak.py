"""Speech from text with espeak-ng: the library and the voices that the Python package espeakng-loader brings."""

from __future__ import annotations

import _ctypes
import ctypes
import re
from pathlib import Path

import numpy as np

from ctcsd.errors import UserError

# of speak_lib.h
SYNCHRONOUS, CHARACTERS, UTF8 = 2, 1, 1
RATE, VOLUME, PITCH = 1, 2, 3
QUIET = 60  # of 100, the default, at which some voices clip

VARIANT = re.compile(r"[fm]\d|klatt\d?")  # the others are caricatures, whispers and robots
OTHER_SCRIPT = {"en-Shaw"}
Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def voices(language: str) -> list[str]:
    """Every accent of `language` (`en`: `en`, `en-US`, ...) in every variant, such as `en-US+f3`, sorted.

    Raises UserError where the library is missing or has no such language.
    """
    data = _files()[1]
    accents = [
        path.name for path in data.glob("lang/*/*") if f"{path.name}-".lower().startswith(f"{language}-".lower())
    ]
    variants = [path.name for path in data.glob("voices/!v/*") if VARIANT.fullmatch(path.name)]
    if not (accents and variants):
        raise UserError(f"espeak-ng has no voice for the language '{language}'")
    return sorted(f"{accent}+{variant}" for accent in accents if accent not in OTHER_SCRIPT for variant in variants)


def speak(text: str, voice: str, rate: int, pitch: int, seed: int) -> tuple[np.ndarray, int]:
    """Samples in [-1, 1], float32, and their rate in Hz; the same arguments give the same bits.

    `rate` in words per minute, `pitch` from 0 to 100 (50 is the voice's own). The library keeps state that none of its
    functions resets (the phase of its flutter), so every call loads it anew, which costs 6 ms, and seeds C's `rand`,
    from which it draws breath. Raises ValueError where it refuses or stays silent.
    """
    pieces: list[bytes] = []

    @Callback
    def collect(samples: int | None, count: int, events: int | None) -> int:
        if samples:
            pieces.append(ctypes.string_at(samples, 2 * count))
        return 0

    ctypes.CDLL(None).srand(ctypes.c_uint(seed))
    path, data = _files()
    library = ctypes.CDLL(str(path))
    try:
        sampling_rate = library.espeak_Initialize(SYNCHRONOUS, 0, bytes(data), 0)
        library.espeak_SetSynthCallback(collect)
        refused = library.espeak_SetVoiceByName(voice.encode())
        for parameter, value in ((RATE, rate), (VOLUME, QUIET), (PITCH, pitch)):
            refused |= library.espeak_SetParameter(parameter, value, 0)
        spoken = text.encode() + b"\0"
        refused |= library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken)), 0, CHARACTERS, 0, UTF8, None, None)
        library.espeak_Terminate()
    finally:
        _ctypes.dlclose(library._handle)
    samples = np.frombuffer(b"".join(pieces), np.int16).astype(np.float32) / 32768
    if refused or not samples.any():
        raise ValueError(f"espeak-ng does not speak this with the voice {voice}")
    return samples, sampling_rate


def _files() -> tuple[Path, Path]:
    """The library and its folder of data."""
    try:
        import espeakng_loader
    except ImportError:
        raise UserError(
            "espeak-ng is missing: .venv/bin/python -m pip install -c tools/constraints.txt espeakng-loader"
        ) from None
    return Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path())
