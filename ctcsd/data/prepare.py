"""Stage 0: the corpus writer that every recipe shares: `Utterance`s in, FLAC files and lhotse manifests out."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import soxr
from tqdm import tqdm

from ctcsd.data.checks import SAMPLING_RATE, Drop, Kept, Limits, check_shape, check_signal, check_text, clipped_share
from ctcsd.data.splits import DEFAULT_BOUNDS, SPLITS, Bounds, check_bounds, safe_id, split_of
from ctcsd.errors import UserError
from ctcsd.text.normalize import alphabet_of, normalize

if TYPE_CHECKING:
    from ctcsd.data.prepare_output import Output

Loader = Callable[[], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Utterance:
    """One utterance as a corpus ships it.

    `load()` returns float32 samples, (samples,) or (samples, channels), and their rate in Hz. It runs in another
    process, so it must be picklable: a function of a module with its arguments, `functools.partial(load_file, path)`,
    not a lambda. `split` is for corpora that come with their own splits; None: by the hash of the normalised text.
    """

    id: str
    text: str
    speaker: str
    load: Loader
    split: str | None = None


def load_file(path: str | Path) -> tuple[np.ndarray, int]:
    """Read a whole audio file: float32 (samples, channels) and its rate in Hz."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return samples, rate


def prepare(
    utterances: Iterable[Utterance],
    out_dir: str | Path,
    language: str,
    *,
    alphabet: frozenset[str] | None = None,
    expected_rate: int | None = None,
    bounds: Bounds = DEFAULT_BOUNDS,
    limits: Limits | None = None,
    max_dropped: float = 0.2,
    jobs: int = 1,
) -> dict:
    """Normalise, check, resample to 16 kHz mono, write FLAC and manifests; returns what OUT/report.json holds.

    `alphabet`: the characters that texts may hold (default: the language's). `max_dropped`: a larger share of dropped
    utterances is an error. The output does not depend on `jobs`. Until the end everything lies in a hidden folder, so
    that a killed run leaves nothing that looks whole. Raises UserError where nothing sound can be made of the corpus,
    OSError where the system refuses (full disk).
    """
    # here, because worker processes import this module too and lhotse would cost each of them seconds
    from ctcsd.data.prepare_output import Output

    check_bounds(bounds)
    limits = limits or Limits()
    alphabet = alphabet or alphabet_of(language)
    with Output(Path(out_dir), language) as output:
        tasks = list(_select(utterances, alphabet, bounds, output))
        work = partial(_process, audio_dir=output.audio, expected_rate=expected_rate, limits=limits)
        seen: dict[str, str] = {}
        for task, result in zip(tasks, _run(work, tasks, jobs), strict=True):
            if isinstance(result, Drop):
                output.drop(task.utterance.id, result)
            elif result.digest in seen:
                output.drop(task.utterance.id, Drop("duplicate audio", f"same samples as {seen[result.digest]}"))
                (output.audio / f"{task.name}.flac").unlink()
            else:
                seen[result.digest] = task.utterance.id
                output.keep(
                    Kept(
                        task.name, task.utterance.text, task.text, task.utterance.speaker, task.split, *result.measures
                    )
                )
        return output.finish(limits, max_dropped)


@dataclass(frozen=True)
class _Task:
    """An utterance whose text is fit: `name` for files, the normalised text, and its split."""

    utterance: Utterance
    name: str
    text: str
    split: str


@dataclass(frozen=True)
class _Done:
    """A written FLAC file: a digest of the samples as read, and (samples at 16 kHz, clipped share, gain)."""

    digest: str
    measures: tuple[int, float, float]


def _select(
    utterances: Iterable[Utterance], alphabet: frozenset[str] | None, bounds: Bounds, output: Output
) -> Iterator[_Task]:
    ids: set[str] = set()
    for utterance in utterances:
        text = normalize(utterance.text, alphabet)
        drop = check_text(utterance.text, text, alphabet)
        if utterance.id in ids:
            drop = Drop("duplicate id", utterance.text)
        if drop:
            output.drop(utterance.id, drop)
            continue
        ids.add(utterance.id)
        split = utterance.split or split_of(text, bounds)
        if split not in SPLITS:
            raise UserError(f"utterance {utterance.id}: unknown split {split!r} (known: {', '.join(SPLITS)})")
        yield _Task(utterance, safe_id(utterance.id), text, split)


def _run(work: Callable[[_Task], _Done | Drop], tasks: list[_Task], jobs: int) -> Iterator[_Done | Drop]:
    """Results in the order of the tasks, with a progress bar."""
    bar = partial(tqdm, total=len(tasks), desc="preparing", unit="utt", mininterval=0.5)
    if jobs <= 1:
        yield from bar(map(work, tasks))
        return
    # spawned, not forked: a fork of a process whose libraries run threads can hang
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _start_worker) as pool:
        try:
            yield from bar(pool.map(work, tasks, chunksize=16))
        except BrokenProcessPool as error:
            raise UserError(
                "a worker process died (out of memory, or a decoder crashed): try --jobs 1 to see where"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    """Leave Ctrl-C to the parent, and end with it: a killed parent cannot stop its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _process(task: _Task, audio_dir: Path, expected_rate: int | None, limits: Limits) -> _Done | Drop:
    try:
        samples, rate = task.utterance.load()
        samples = np.asarray(samples, dtype=np.float32)
    except MemoryError:
        raise
    except Exception as error:  # a decoder may raise anything; whatever it is costs one utterance, not the corpus
        return Drop("unreadable audio", f"{type(error).__name__}: {error}")
    if drop := check_shape(samples, rate, expected_rate):
        return drop
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    if drop := check_signal(mono, rate, len(task.text), limits):
        return drop
    resampled = mono if rate == SAMPLING_RATE else soxr.resample(mono, rate, SAMPLING_RATE)
    # lossy codecs and resampling overshoot full scale: turning the utterance down keeps its shape, unlike cutting
    gain = min(1.0, 0.999 / max(float(np.abs(resampled).max()), 1e-9))
    pcm = np.rint(resampled * (gain * 32767)).astype(np.int16)
    encoded = io.BytesIO()
    soundfile.write(encoded, pcm, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    # written by Python and not by libsndfile, which does not report a full disk
    (audio_dir / f"{task.name}.flac").write_bytes(encoded.getvalue())
    digest = hashlib.sha1(f"{rate} ".encode() + mono.tobytes()).hexdigest()
    return _Done(digest, (len(pcm), clipped_share(mono), gain))
