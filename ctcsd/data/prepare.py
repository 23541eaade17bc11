"""Stage 0: the corpus writer that every recipe shares: `Utterance`s in, FLAC files and lhotse manifests out."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr

from ctcsd.data.audio import BadAudio, load_file
from ctcsd.data.checks import (
    SAMPLING_RATE,
    Drop,
    Kept,
    Limits,
    check_script,
    check_shape,
    check_signal,
    check_text,
    clipped_share,
    main_script,
    sound_digest,
)
from ctcsd.data.splits import DEFAULT_BOUNDS, SPLITS, Bounds, check_bounds, is_split, safe_id, split_of
from ctcsd.data.workers import in_processes
from ctcsd.errors import UserError
from ctcsd.files import writing
from ctcsd.text.normalize import alphabet_of, normalize

if TYPE_CHECKING:
    from ctcsd.data.prepare_output import Output

__all__ = ["Utterance", "load_file", "prepare"]

Loader = Callable[[], tuple[np.ndarray, int]]
Normalizer = Callable[[str, "frozenset[str] | None"], str]
MAX_BAD = 0.1


@dataclass(frozen=True)
class Utterance:
    """One utterance as a corpus ships it.

    `load()` returns float32 samples, (samples,) or (samples, channels), and their rate in Hz. It runs in another
    process, so it must be picklable: a function of a module with its arguments, `functools.partial(load_file, path)`,
    not a lambda. `split` is for corpora that come with their own splits; None: by the hash of the normalised text.
    `source`: the file that `load` reads as a whole; where it is 16 kHz mono, the manifests point at it, and nothing is
    copied. `drop`: why the recipe itself finds it unfit; it is listed with the others.
    """

    id: str
    text: str
    speaker: str
    load: Loader
    split: str | None = None
    source: Path | None = None
    drop: Drop | None = None


def prepare(
    utterances: Iterable[Utterance],
    out_dir: str | Path,
    language: str,
    *,
    alphabet: frozenset[str] | None = None,
    expected_rate: int | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
    limits: Limits | None = None,
    normalizer: Normalizer = normalize,
    max_bad: float = MAX_BAD,
    incomplete: Sequence[str] = (),
    jobs: int = 1,
) -> dict:
    """Normalise, check, resample to 16 kHz mono, write FLAC and manifests; returns what OUT/report.json holds.

    `alphabet`: the characters that texts may hold (default: the language's). `normalizer`: from the text as shipped and
    the alphabet to the text to train on. `max_bad`: a larger share of dropped utterances is an error. `incomplete`:
    lines for the report, as `check_counts` makes them. The output does not depend on `jobs`. Until the end everything
    lies in a hidden folder, so that a killed run leaves nothing that looks whole. Raises UserError where nothing sound
    can be made of the corpus, OSError where the system refuses (full disk).
    """
    # here, because worker processes import this module too and lhotse would cost each of them seconds
    from ctcsd.data.prepare_output import Output

    check_bounds(bounds)
    limits = limits or Limits()
    alphabet = alphabet or alphabet_of(language)
    with Output(Path(out_dir), language) as output:
        tasks = list(_select(utterances, normalizer, alphabet, bounds, output))
        work = partial(_process, audio_dir=output.audio, expected_rate=expected_rate, limits=limits)
        seen: dict[str, str] = {}
        for task, result in zip(tasks, in_processes(work, tasks, jobs, "preparing", "utt", _crashed), strict=True):
            if isinstance(result, Drop):
                output.drop(task.utterance.id, result)
            elif result.digest in seen:
                output.drop(task.utterance.id, Drop("duplicate audio", f"same samples as {seen[result.digest]}"))
                (output.audio / f"{task.name}.flac").unlink(missing_ok=True)
            else:
                seen[result.digest] = task.utterance.id
                heard = task.utterance
                kept = (task.name, heard.text, task.text, heard.speaker, task.split, *result.measures)
                output.keep(Kept(*kept, result.digest, result.source))
        return output.finish(limits, max_bad, incomplete)


@dataclass(frozen=True)
class _Task:
    """An utterance whose text is fit: `name` for files, the normalised text, and its split."""

    utterance: Utterance
    name: str
    text: str
    split: str


@dataclass(frozen=True)
class _Done:
    """Audio that is fit: a digest of the samples as read, (samples at 16 kHz, clipped share, gain), and its file."""

    digest: str
    measures: tuple[int, float, float]
    source: Path | None = None


def _select(
    utterances: Iterable[Utterance],
    normalizer: Normalizer,
    alphabet: frozenset[str] | None,
    bounds: Bounds,
    output: Output,
) -> Iterator[_Task]:
    ids: set[str] = set()
    utterances = list(utterances)
    script = main_script(utterance.text for utterance in utterances) if alphabet is None else ""
    for utterance in utterances:
        text = normalizer(utterance.text, alphabet)
        drop = utterance.drop or check_text(utterance.text, text, alphabet)
        if script and not drop:
            drop = check_script(text, script)
        if utterance.id in ids:
            drop = Drop("duplicate id", utterance.text)
        if drop:
            output.drop(utterance.id, drop)
            continue
        ids.add(utterance.id)
        split = utterance.split or split_of(text, bounds)
        if not is_split(split):
            known = f"{', '.join(SPLITS)}, or further ones dev_NAME, test_NAME"
            raise UserError(f"utterance {utterance.id}: unknown split {split!r} (known: {known})")
        yield _Task(utterance, safe_id(utterance.id), text, split)


def _process(task: _Task, audio_dir: Path, expected_rate: int | None, limits: Limits) -> _Done | Drop:
    try:
        samples, rate = task.utterance.load()
        samples = np.asarray(samples, dtype=np.float32)
    except MemoryError:
        raise
    except BadAudio as bad:
        return bad.drop
    except Exception as error:  # a decoder may raise anything; whatever it is costs one utterance, not the corpus
        return Drop("unreadable audio", f"{type(error).__name__}: {error}")
    if drop := check_shape(samples, rate, expected_rate):
        return drop
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if drop := check_signal(mono, rate, len(task.text), limits):
        return drop
    digest = sound_digest(mono, rate)
    if task.utterance.source and rate == SAMPLING_RATE and mono.size == samples.size:
        return _Done(digest, (len(mono), clipped_share(mono), 1.0), task.utterance.source.absolute())
    resampled = mono if rate == SAMPLING_RATE else soxr.resample(mono, rate, SAMPLING_RATE)
    # lossy codecs and resampling overshoot full scale: turning the utterance down keeps its shape, unlike cutting
    gain = min(1.0, 0.999 / max(float(np.abs(resampled).max()), 1e-9))
    pcm = np.rint(resampled * (gain * 32767)).astype(np.int16)
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    # written by Python and not by libsndfile, which does not report a full disk
    target = audio_dir / f"{task.name}.flac"
    with writing(target):
        target.write_bytes(encoded.getvalue())
    return _Done(digest, (len(pcm), clipped_share(mono), gain))


def _crashed(task: _Task) -> Drop:
    return Drop("unreadable audio", "the process that read it died (its decoder crashed, or out of memory)")
