"""`ctcsd check-data`: what is wrong with a corpus, by the rules that stage 0 goes by, before hours are spent on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ctcsd.data.audio import BadAudio, load_file, wrong_extension
from ctcsd.data.checks import (
    SAMPLING_RATE,
    Drop,
    Limits,
    check_script,
    check_shape,
    check_signal,
    check_text,
    clipped_share,
    main_script,
    sound_digest,
    sounding_seconds,
)
from ctcsd.data.feasibility import ctc_feasible
from ctcsd.data.splits import SPLITS
from ctcsd.data.workers import in_processes
from ctcsd.errors import UserError
from ctcsd.files import is_number, json_object, lines_of
from ctcsd.posteriors import FRAME_SHIFT
from ctcsd.text.normalize import alphabet_of, normalize

# The other reasons are warnings: a run goes through, if not well.
STOPS = frozenset(
    {
        "damaged manifest",
        "duplicate id",
        "empty audio",
        "empty text",
        "missing audio",
        "missing split",
        "non-finite samples",
        "segment outside the audio",
        "truncated audio",
        "unreadable audio",
        "wrong duration in the manifest",
        "wrong sampling rate",
        "wrong sampling rate in the manifest",
    }
)
TOLERANCE = 0.025  # seconds that a manifest may be wrong by: lhotse's own
EXAMPLES = 2


@dataclass
class Segment:
    """A transcript: from `start` (seconds) of its recording, for `duration`."""

    id: str
    text: str
    language: str
    start: float
    duration: float


@dataclass
class Sound:
    """A recording by its manifest, with its segments; `source` is None where it is no plain file."""

    id: str
    source: Path | None
    samples: int
    rate: float
    seconds: float
    segments: list[Segment] = field(default_factory=list)


@dataclass
class Findings:
    """All that was found, as (id, drop), and how much was looked at."""

    found: list[tuple[str, Drop]] = field(default_factory=list)
    utterances: int = 0
    seconds: float = 0.0

    def add(self, name: str, reason: str, detail: str = "") -> None:
        self.found.append((name, Drop(reason, detail)))

    @property
    def stops(self) -> bool:
        return any(drop.reason in STOPS for _, drop in self.found)

    def summary(self) -> str:
        """Counts by reason, each with examples."""
        lines = [f"checked {self.utterances:,} utterances, {self.seconds / 3600:.2f} h"]
        for title, fatal in (("would stop a run", True), ("warnings", False)):
            chosen = [(name, drop) for name, drop in self.found if (drop.reason in STOPS) == fatal]
            lines.append(f"{title}: {len(chosen):,}")
            for reason, count in sorted(Counter(drop.reason for _, drop in chosen).items()):
                lines.append(f"  {count:>6,}  {reason}")
                examples = [(name, drop.detail) for name, drop in chosen if drop.reason == reason][:EXAMPLES]
                lines += [f"          {name}: {' '.join(detail.split())}"[:160] for name, detail in examples]
        return "\n".join(lines)


def check_corpus(paths: Sequence[Path], jobs: int = 1, limits: Limits | None = None) -> Findings:
    """Look at every recording and every transcript.

    Args:
        paths: a data folder, whose cuts of train, dev and test are checked, or lhotse manifests (.jsonl, .jsonl.gz) of
            recordings, supervisions or cuts, in any mixture.

    Raises:
        UserError: nothing to check there. Whatever is wrong with a line or a file is a finding.
    """
    findings = Findings()
    sounds: dict[str, Sound] = {}
    supervisions: list[dict] = []
    ids: set[str] = set()
    files = [file for path in paths for file in _manifests(path, findings)]
    for file in files:
        seen: set[str] = set()  # a recording may stand in several manifests, each of its segments in one
        for item in _items(file, findings):
            try:
                if "sources" in item:
                    sound = _sound(item)
                    if sound.id in seen:
                        findings.add(sound.id, "duplicate id", f"a recording of {file}")
                    seen.add(sound.id)
                    sounds.setdefault(sound.id, sound)
                elif "recording" in item:
                    _add_cut(item, file, sounds, ids, findings)
                elif "recording_id" in item:
                    supervisions.append(item)
                else:
                    findings.add(
                        str(item.get("id")), "not checked", f"{file}: {item.get('type', 'neither cut nor recording')}"
                    )
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                findings.add(str(item.get("id")), "damaged manifest", f"{file}: {type(error).__name__}: {error}")
    for item in supervisions:
        _add_supervision(item, sounds, ids, findings)
    if not sounds and not findings.found:
        raise UserError(f"{', '.join(map(str, paths))}: no recordings")
    _check_texts(sounds, findings)
    tasks = list(sounds.values())
    digests: dict[str, str] = {}
    work = partial(_check_sound, limits=limits or Limits())
    for sound, (drops, seconds, digest) in zip(tasks, in_processes(work, tasks, jobs, "checking", "file", _crashed)):
        findings.found += drops
        findings.seconds += seconds
        findings.utterances += len(sound.segments)
        if digest and digests.setdefault(digest, sound.id) != sound.id:
            findings.add(sound.id, "duplicate audio", f"same samples as {digests[digest]}")
    findings.found.sort(key=lambda one: (one[1].reason not in STOPS, one[1].reason, one[0]))
    return findings


def _manifests(path: Path, findings: Findings) -> list[Path]:
    if not path.is_dir():
        return [path]
    folder = path / "manifests" if (path / "manifests").is_dir() else path
    cuts = [one for one in sorted(folder.glob("cuts_*.jsonl*")) if not one.name.startswith("cuts_mini_")]
    for split in SPLITS if cuts else ():
        if not any(one.name.split(".")[0] == f"cuts_{split}" for one in cuts):
            findings.add(split, "missing split", f"no cuts_{split}.jsonl.gz in {folder}")
    found = cuts or sorted(folder.glob("*.jsonl*"))
    if not found:
        raise UserError(f"{path}: no manifests (*.jsonl.gz) in it")
    return found


def _items(file: Path, findings: Findings) -> Iterator[dict[str, Any]]:
    try:
        for number, line in enumerate(lines_of(file), start=1):
            try:
                item = json_object(line, f"{file}: line {number}")
            except UserError as error:
                findings.add(file.name, "damaged manifest", str(error))
            else:
                yield item
    except UserError as error:
        findings.add(file.name, "damaged manifest", str(error))


def _sound(recording: dict) -> Sound:
    sources = recording["sources"]
    plain = len(sources) == 1 and sources[0]["type"] == "file" and not recording.get("transforms")
    source = Path(sources[0]["source"]) if plain else None
    numbers = [recording[key] for key in ("num_samples", "sampling_rate", "duration")]
    if not all(map(is_number, numbers)) or "\0" in str(source):
        raise ValueError("a length, rate or path that is none")
    return Sound(str(recording["id"]), source, *numbers)


def _add_cut(cut: dict, file: Path, sounds: dict[str, Sound], ids: set[str], findings: Findings) -> None:
    sound, name = _sound(cut["recording"]), str(cut["id"])
    sound = sounds.setdefault(sound.id, sound)
    if name in ids:
        findings.add(name, "duplicate id", f"again in {file}")
    ids.add(name)
    for one in cut.get("supervisions") or [{"text": None, "start": 0.0, "duration": cut["duration"]}]:
        sound.segments.append(_segment(one, name, cut["start"]))


def _add_supervision(item: dict, sounds: dict[str, Sound], ids: set[str], findings: Findings) -> None:
    name = str(item.get("id"))
    if name in ids:
        findings.add(name, "duplicate id", "a supervision")
    ids.add(name)
    sound = sounds.get(str(item["recording_id"]))
    if sound is None:
        findings.add(name, "missing audio", f"no recording {item['recording_id']} for: {item.get('text')}")
        return
    try:
        sound.segments.append(_segment(item, name, 0.0))
    except (LookupError, TypeError, ValueError) as error:
        findings.add(name, "damaged manifest", f"{type(error).__name__}: {error}")


def _segment(supervision: dict, name: str, offset: float) -> Segment:
    """Raises ValueError where a field is of another type than a manifest's."""
    text, language = supervision.get("text") or "", supervision.get("language") or ""
    start, seconds = supervision["start"], supervision["duration"]
    if not isinstance(text, str) or not isinstance(language, str):
        raise ValueError("a text or language that is no text")
    if not all(map(is_number, (offset, start, seconds))):
        raise ValueError("a start or duration that is no number")
    return Segment(name, text, language, offset + start, seconds)


def _check_texts(sounds: dict[str, Sound], findings: Findings) -> None:
    segments = [one for sound in sounds.values() for one in sound.segments]
    script = main_script(one.text for one in segments)
    for one in segments:
        alphabet = alphabet_of(one.language)
        drop = check_text(one.text, normalize(one.text, alphabet), alphabet)
        if script and (drop is None or drop.reason == "character outside the alphabet"):
            drop = check_script(one.text, script) or drop
        if drop:
            findings.found.append((one.id, drop))
    for sound in sounds.values():
        if not sound.segments:
            findings.add(sound.id, "missing transcript", f"audio only: {sound.source}")


def _crashed(sound: Sound) -> tuple[list[tuple[str, Drop]], float, str]:
    return [(sound.id, Drop("unreadable audio", f"{sound.source}: the process that read it died"))], 0.0, ""


def _check_sound(sound: Sound, limits: Limits) -> tuple[list[tuple[str, Drop]], float, str]:
    """What is wrong with a recording and its segments, the seconds of speech in it, and a digest of its samples."""
    if sound.source is None:
        return [(sound.id, Drop("not checked", "not a plain file"))], 0.0, ""
    try:
        samples, rate = load_file(sound.source)
    except BadAudio as bad:
        return [(sound.id, bad.drop)], 0.0, ""
    drops: list[tuple[str, Drop]] = []
    if len(samples) and abs(len(samples) - sound.samples) > TOLERANCE * rate:
        detail = f"{sound.samples} samples by the manifest, {len(samples)} in {sound.source}"
        drops.append((sound.id, Drop("wrong duration in the manifest", detail)))
    elif sound.rate != rate:
        detail = f"{sound.rate:g} Hz by the manifest, {rate} Hz in {sound.source}"
        drops.append((sound.id, Drop("wrong sampling rate in the manifest", detail)))
    elif abs(sound.seconds - sound.samples / rate) > TOLERANCE:
        detail = f"{sound.seconds:.3f} s, but {sound.samples} samples at {rate} Hz"
        drops.append((sound.id, Drop("wrong duration in the manifest", detail)))
    if drop := check_shape(samples, rate, SAMPLING_RATE):
        drops.append((sound.id, drop))
        if drop.reason != "wrong sampling rate":
            return drops, 0.0, ""
    if drop := wrong_extension(sound.source):
        drops.append((sound.id, drop))
    if samples.shape[1] > 1:
        drops.append((sound.id, Drop("more than one channel", f"{samples.shape[1]} in {sound.source}")))
    mono = samples.mean(axis=1)
    for one in sound.segments:
        if one.start < 0 or one.start + one.duration > len(mono) / rate + TOLERANCE:
            detail = f"from {one.start:.2f} s to {one.start + one.duration:.2f} s of {len(mono) / rate:.2f} s"
            drops.append((one.id, Drop("segment outside the audio", detail)))
            continue
        part = mono[round(one.start * rate) : round((one.start + one.duration) * rate)]
        if part.size == 0:
            drops.append((one.id, Drop("empty audio", f"a segment of {one.duration:.3f} s")))
        elif drop := check_signal(part, rate, len(normalize(one.text)), limits):
            drops.append((one.id, drop))
        else:
            if (share := clipped_share(part)) > limits.warn_clipped:
                drops.append((one.id, Drop("some clipping", f"{share:.1%} of the samples")))
            if drop := _check_pace(one.text, part, rate):
                drops.append((one.id, drop))
    seconds = sum(one.duration for one in sound.segments)
    return drops, seconds, sound_digest(mono, rate)


def _check_pace(text: str, mono: np.ndarray, rate: int) -> Drop | None:
    """Characters that CTC cannot spell in the frames in which somebody speaks, and would have to move into pauses."""
    characters = [ord(letter) for letter in normalize(text)]
    frames = round(sounding_seconds(mono, rate) / FRAME_SHIFT)
    if ctc_feasible(frames, characters):
        return None
    detail = f"{len(characters)} characters in {frames} frames of {FRAME_SHIFT} s that are no pause"
    return Drop("characters faster than frames", detail)
