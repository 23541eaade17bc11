"""What a search does where no path survives its beam: it looks again with a wider one, then takes what it has."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Optional

import numpy as np

from ctcsd.decode.hypothesis import NOTHING, Found

FLOOR = np.float32(-1e3)  # nats; of an impossible token, where a search looks again


class Attempt(NamedTuple):
    """How to look: beams and active states `widen` times as wide, and whether a path may end anywhere."""

    fallback: str | None = None
    widen: int = 1
    partial: bool = False


ATTEMPTS = (Attempt(), Attempt("wider beam", 4), Attempt("partial path", 4, True))
Search = Callable[[np.ndarray, Attempt], Optional[Found]]


def first_found(search: Search, log_probs: np.ndarray) -> Found:
    """What the first attempt finds that finds anything in the (T, V) log-probs; `fallback` names it."""
    for attempt in ATTEMPTS:
        found = search(np.maximum(log_probs, FLOOR) if attempt.fallback else log_probs, attempt)
        if found is not None:
            return found._replace(fallback=found.fallback or attempt.fallback)
    return NOTHING._replace(failure="no path survives the beam")
