"""Prefix beam search (Hannun et al. 2014) under a model of words; flashlight calls Python for every token it tries."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple, Optional

import numpy as np

from ctcsd.decode.words import Reading, State, WordModel

CACHED_SCORES = 4_000_000  # numbers: some 50 MB

Times = Optional[tuple[Any, int]]  # of the tokens before, and the frame in which the last one starts


class Sentence(NamedTuple):
    """Complete words (None: the tokens spell them), tokens, the frame in which each token starts, and the score."""

    words: list[str] | None
    tokens: list[int]
    frames: list[int]
    score: float


class Place:
    """Where prefixes are in the model of words, whatever came before: a state of value 0.

    `extension`, (V,), is what one more token adds to a score, -inf where no word goes on so.
    """

    def __init__(self, state: State, extension: np.ndarray) -> None:
        self.state, self.extension = state, extension
        self.after: dict[int, Place] = {}


class Prefix:
    """A token sequence of the beam."""

    def __init__(self, parent: Prefix | None, token: int, place: Place) -> None:
        self.parent, self.token, self.place = parent, token, place
        self.longer: dict[int, Prefix] = {}

    def tokens(self) -> list[int]:
        """All of them."""
        found: list[int] = []
        prefix: Prefix = self
        while prefix.parent is not None:
            found.append(prefix.token)
            prefix = prefix.parent
        return found[::-1]


class Beam(NamedTuple):
    """P prefixes; the scores, all arrays (P,), of their paths that end in the last token, and of those in a blank."""

    prefixes: list[Prefix]
    label: np.ndarray
    blank: np.ndarray
    label_times: list[Times]
    blank_times: list[Times]


class WordBeam:
    """Sums the paths of each prefix. A prefix counts twice in the beam: as ending in its token, and in a blank.

    Args:
        vocab_size: V.
        beam: sums kept after each frame; threshold: nats behind the best one.
        tokens: only so many tokens of a frame are tried, the best ones; 0: all.
    """

    def __init__(self, model: WordModel, vocab_size: int, beam: int, threshold: float, tokens: int = 0) -> None:
        self.model, self.vocab_size = model, vocab_size
        self.beam, self.threshold, self.tokens = beam, threshold, tokens
        self.places: dict[Any, Place] = {}

    def __call__(self, log_probs: np.ndarray, partial: bool = False, most: int | None = None) -> list[Sentence]:
        """The `most` best sentences of (T, V) log-probs, best first; `partial` as in `WordModel.finish`."""
        if len(self.places) * (self.vocab_size + 100) > CACHED_SCORES:
            self.places.clear()
        root = Prefix(None, 0, self._place(self.model.start()))
        beam = Beam([root], np.array([-np.inf]), np.zeros(1), [None], [None])
        for time, frame in enumerate(log_probs.astype(np.float64)):
            if 0 < self.tokens < len(frame):
                frame[np.argpartition(-frame, self.tokens - 1)[self.tokens :]] = -np.inf
            beam = self._step(beam, frame, time)
            if not beam.prefixes:
                return []
        return list(islice(self._sentences(beam, partial), most))

    def _step(self, beam: Beam, frame: np.ndarray, time: int) -> Beam:
        prefixes, label, blank = beam.prefixes, beam.label, beam.blank
        size = len(prefixes)
        each, last = np.arange(size), np.array([prefix.token for prefix in prefixes])
        both = np.logaddexp(label, blank)
        times = [a if first else b for a, b, first in zip(beam.label_times, beam.blank_times, (label > blank).tolist())]
        extensions = np.array([prefix.place.extension for prefix in prefixes]) + frame
        longer = extensions + both[:, None]
        longer[each, last] = extensions[each, last] + blank  # without a blank between, a token only goes on
        again = (label + frame[last]).tolist()
        peaks = np.maximum(label, blank)
        label_times = list(beam.label_times)
        index = {prefix: i for i, prefix in enumerate(prefixes)}
        for i, prefix in enumerate(prefixes):
            before = index.get(prefix.parent) if prefix.parent else None
            if before is not None:
                repeat = prefix.token == prefixes[before].token
                if extensions[before, prefix.token] + (blank if repeat else peaks)[before] > again[i]:
                    label_times[i] = ((beam.blank_times if repeat else times)[before], time)
                again[i] = np.logaddexp(again[i], longer[before, prefix.token])
                longer[before, prefix.token] = -np.inf
        scores = np.concatenate([again, both + frame[0], longer.ravel()])
        kept = np.flatnonzero(scores > scores.max() - self.threshold)
        if len(kept) > self.beam:
            kept = kept[np.argpartition(-scores[kept], self.beam - 1)[: self.beam]]
        found: dict[Prefix, tuple[float, float, Times, Times]] = {}
        nothing = (-np.inf, -np.inf, None, None)
        for place, score in zip(kept.tolist(), scores[kept].tolist()):
            if place < size:
                _, y, _, b = found.get(prefixes[place], nothing)
                found[prefixes[place]] = (score, y, label_times[place], b)
            elif place < 2 * size:
                x, _, a, _ = found.get(prefixes[place - size], nothing)
                found[prefixes[place - size]] = (x, score, a, times[place - size])
            else:
                before, token = divmod(place - 2 * size, self.vocab_size)
                own = beam.blank_times if token == prefixes[before].token else times
                found[self._longer(prefixes[before], token)] = (score, -np.inf, (own[before], time), None)
        label_scores, blank_scores, label_ends, blank_ends = zip(*found.values()) if found else ((), (), (), ())
        return Beam(list(found), np.array(label_scores), np.array(blank_scores), list(label_ends), list(blank_ends))

    def _longer(self, prefix: Prefix, token: int) -> Prefix:
        if token not in prefix.longer:
            place = prefix.place
            if token not in place.after:
                place.after[token] = self._place(self.model.advance(place.state, token))
            prefix.longer[token] = Prefix(prefix, token, place.after[token])
        return prefix.longer[token]

    def _place(self, state: State) -> Place:
        readings = {at: Reading(reading.score - state.value, ()) for at, reading in state.readings.items()}
        key = tuple((*at, round(reading.score, 9)) for at, reading in readings.items())
        if key not in self.places:
            state = State(readings)
            self.places[key] = Place(state, self.model.extension(state, self.vocab_size))
        return self.places[key]

    def _sentences(self, beam: Beam, partial: bool) -> Iterator[Sentence]:
        """Those that are whole, best first."""
        scores = np.logaddexp(beam.label, beam.blank)
        ends = [self.model.finish(prefix.place.state, partial) for prefix in beam.prefixes]
        scores += [-np.inf if end is None else end.score for end in ends]
        for i in np.argsort(-scores, kind="stable").tolist():
            if scores[i] > -np.inf:
                tokens = beam.prefixes[i].tokens()
                times = (beam.label_times if beam.label[i] > beam.blank[i] else beam.blank_times)[i]
                frames = []
                while times is not None:
                    times, frame = times
                    frames.append(frame)
                yield Sentence(self.model.words_of(tokens, partial), tokens, frames[::-1], float(scores[i]))
