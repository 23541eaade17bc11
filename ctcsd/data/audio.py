"""Reading audio files; what is wrong with one becomes a drop with a reason."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import soundfile

from ctcsd.data.checks import Drop

FORMATS = {
    ".wav": {"WAV", "WAVEX", "RF64", "W64"},
    ".flac": {"FLAC"},
    ".ogg": {"OGG"},
    ".oga": {"OGG"},
    ".opus": {"OGG"},
    ".mp3": {"MP3", "MPEG"},
    ".aiff": {"AIFF"},
    ".sph": {"NIST"},
}
# libsndfile shortens a WAV whose data ends early without an error, but notes it.
SHORTENED = re.compile(r"^data : (\d+) \(should be (\d+)\)", re.MULTILINE)
STREAMED = 0x7FFF0000  # bytes: a header written before the length was known claims this much or more
MOST = 10_000  # samples in a byte: FLAC's frames of silence hold 4,000 or so; a damaged header asks for terabytes
WHOLE = 0.98  # of the samples that the header promises: the length of an MP3 may be an estimate


class BadAudio(Exception):
    """A file that gives no sound: the reason and the detail of its drop."""

    @property
    def drop(self) -> Drop:
        return Drop(*self.args)


def load_file(
    path: str | Path, start: float = 0.0, end: float | None = None, channel: int | None = None
) -> tuple[np.ndarray, int]:
    """Read an audio file, or from `start` to `end` (seconds) of it: float32 (samples, channels), and its rate in Hz.

    `channel`: only this one, counted from 0. Raises BadAudio where the file is missing, empty, truncated or no audio.
    """
    path = Path(path)
    try:
        size = path.stat().st_size if path.is_file() else None
    except OSError as error:  # no permission, or a name that is too long
        raise BadAudio("unreadable audio", f"{path}: {error.strerror}") from None
    if size is None:
        raise BadAudio("missing audio", f"no file {path}")
    if size == 0:
        raise BadAudio("empty audio", f"{path} has 0 bytes")
    try:
        info = soundfile.info(path, verbose=True)
    except soundfile.SoundFileError as error:
        raise BadAudio("unreadable audio", f"{path}: {_reason(error)}") from None
    shortened = SHORTENED.search(info.extra_info)
    if shortened and int(shortened[2]) < int(shortened[1]) < STREAMED:
        raise BadAudio("truncated audio", f"{path}: {shortened[2]} of {shortened[1]} bytes")
    first = round(start * info.samplerate)
    last = info.frames if end is None else round(end * info.samplerate)
    if first and first >= info.frames:
        raise BadAudio("segment outside the audio", f"{path}: from {start:.2f} s of {info.duration:.2f} s")
    if last - info.frames > 0.1 * info.samplerate:
        raise BadAudio("segment outside the audio", f"{path}: to {end:.2f} s of {info.duration:.2f} s")
    last = min(last, info.frames)
    if last - first > MOST * size:
        raise BadAudio("unreadable audio", f"{path}: {info.frames} samples in {size} bytes")
    try:
        samples, rate = soundfile.read(path, start=first, stop=last, dtype="float32", always_2d=True)
    except soundfile.SoundFileError as error:
        raise BadAudio(
            "truncated audio", f"{path}: {info.duration:.2f} s by its header, then {_reason(error)}"
        ) from None
    if len(samples) < WHOLE * (last - first):
        raise BadAudio("truncated audio", f"{path}: {len(samples)} of {last - first} samples")
    if channel is not None:
        if channel >= samples.shape[1]:
            raise BadAudio("no such channel", f"{path}: channel {channel} of {samples.shape[1]} (counted from 0)")
        samples = samples[:, channel : channel + 1]
    return samples, rate


def wrong_extension(path: Path) -> Drop | None:
    """Whether the name of a readable audio file says another format than its content."""
    known, found = FORMATS.get(path.suffix.lower()), soundfile.info(path).format
    return None if known is None or found in known else Drop("wrong extension", f"{path} holds {found}")


def _reason(error: soundfile.SoundFileError) -> str:
    """libsndfile's own words, without the name of the file, which every message has already."""
    return getattr(error, "error_string", str(error)).removeprefix("Error : ").rstrip(".")
