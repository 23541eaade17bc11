"""Splits and small subsets chosen by hashes: the same on every machine, whatever the order or number of utterances."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence

SPLITS = ("train", "dev", "test")
Bounds = Sequence[tuple[str, int]]
DEFAULT_BOUNDS: Bounds = (("test", 10), ("dev", 15), ("train", 100))
MINI_PERCENT = 12
MORE_SPLITS = re.compile(r"(dev|test)_\w+")  # such as test_other: further sets that a corpus ships


def split_of(normalized: str, bounds: Bounds = DEFAULT_BOUNDS) -> str:
    """The first of `bounds` above sha1(normalised text) mod 100: no dev or test sentence is ever in training."""
    value = _sha1(normalized) % 100
    return next(name for name, bound in bounds if value < bound)


def is_split(name: str) -> bool:
    """Whether a corpus may name a split so: train, dev, test, or further ones `dev_NAME` and `test_NAME`."""
    return name in SPLITS or bool(MORE_SPLITS.fullmatch(name))


def in_order(names: Iterable[str]) -> list[str]:
    """train, dev and test, then the further splits among `names`."""
    return [*SPLITS, *sorted(set(names) - set(SPLITS))]


def check_bounds(bounds: Bounds) -> None:
    """Raises ValueError unless the bounds name each split once and rise to 100."""
    values = [bound for _, bound in bounds]
    if sorted(name for name, _ in bounds) != sorted(SPLITS) or values != sorted(set(values)) or values[-1] != 100:
        raise ValueError(f"split bounds must name {', '.join(SPLITS)} once each and rise to 100: {bounds}")


def mini_ids(ids: Iterable[str], percent: int = MINI_PERCENT) -> set[str]:
    """About `percent` % of the ids, by their hash; at least one, because an empty subset fails every later stage."""
    ordered = sorted(ids, key=lambda name: (_sha1(name) % 100, name))
    return {name for name in ordered if _sha1(name) % 100 < percent} or set(ordered[:1])


def safe_id(name: str) -> str:
    """A file name for an utterance id; different ids give different names, also where one had to be changed."""
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).lstrip(".-")[:120]
    return safe if safe == name else f"{safe}-{_sha1(name) % 16**8:08x}"


def _sha1(text: str) -> int:
    return int(hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest(), 16)
