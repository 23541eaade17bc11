"""The archive of log-posteriors, where stages 4a and 4b meet (and what a stored teacher is).

A folder with `arrays/` (lhotse's numpy_files storage, float32, exact), `manifest.jsonl.gz` (cut id and lhotse
array manifest and checksum per line) and `tokens.txt`, the table that the posteriors were made for.

A top-k archive keeps the k most probable tokens of a frame, as (T, 2k): their ids, then their log-probs; reading
spreads the rest of the mass evenly over the other tokens.
"""

from __future__ import annotations

import copy
import gzip
import hashlib
import json
import math
import re
import shutil
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from lhotse.array import Array
from lhotse.features.io import NumpyFilesWriter

from ctcsd.errors import UserError
from ctcsd.files import read_json_lines, writing
from ctcsd.text.tokenizer import TokenTable

MANIFEST = "manifest.jsonl.gz"
FRAME_SHIFT = 0.04  # seconds, of an encoder with 4x subsampling over 10 ms features


class PosteriorWriter:
    """Writes an archive beside its target and renames it when the `with` block ends without an error.

    Args:
        path: folder of the archive; an older one there is replaced at the end.
        table: the token table that the last axis counts.
        frame_shift: seconds between frames.
        top_k: keep only so many tokens of a frame; 0 keeps all.
    """

    def __init__(self, path: Path, table: TokenTable, frame_shift: float = FRAME_SHIFT, top_k: int = 0) -> None:
        self.path, self.table, self.frame_shift = Path(path), table, frame_shift
        self.top_k = top_k if top_k < len(table) else 0
        self._partial = self.path.with_name(self.path.name + ".partial")

    def __enter__(self) -> PosteriorWriter:
        shutil.rmtree(self._partial, ignore_errors=True)
        with self._guarded():
            self._partial.mkdir(parents=True)
            (self._partial / "tokens.txt").write_text(self.table.text, encoding="utf-8")
            self._arrays = NumpyFilesWriter(self._partial / "arrays")
            self._manifest = gzip.open(self._partial / MANIFEST, "wt", encoding="utf-8")
        return self

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """What fails inside leaves no half of an archive."""
        try:
            with writing(self.path):
                yield
        except BaseException:
            shutil.rmtree(self._partial, ignore_errors=True)
            raise

    def write(self, cut_id: str, log_probs: np.ndarray) -> None:
        """Append one utterance: (T, V) natural-log probabilities."""
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.table):
            raise ValueError(f"{cut_id}: expected (T, {len(self.table)}), got {log_probs.shape}")
        name = hashlib.sha1(cut_id.encode("utf-8")).hexdigest()  # an id may hold what a file name must not
        stored = _keep_top(log_probs, self.top_k) if self.top_k else log_probs
        stored = np.ascontiguousarray(stored, dtype="<f4")
        with self._guarded():
            array = Array(self._arrays.name, "arrays", self._arrays.write(name, stored), list(stored.shape))
            row = {"id": cut_id, "frame_shift": self.frame_shift, "top_k": self.top_k, "array": array.to_dict()}
            row["crc32"] = zlib.crc32(stored.data)
            self._manifest.write(json.dumps(row, ensure_ascii=False) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            with suppress(OSError):  # the first error counts
                self._manifest.close()
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        with self._guarded():
            self._manifest.close()  # writes the rest
            if self.path.exists():
                shutil.rmtree(self.path)
            self._partial.rename(self.path)


class DamagedEntry(UserError):
    """An array of an archive that is damaged or gone; the others may be whole."""


class DamagedManifest(UserError):
    """The list of an archive, which is damaged from some line on; the utterances before it may be whole."""


class PosteriorReader:
    """Streams an archive in the order in which it was written, or reads one cut; holds one utterance at a time.

    Raises:
        UserError: no archive there, a damaged one, or one for another token table than the lang dir's.
    """

    def __init__(self, path: Path, lang_dir: Path | None = None) -> None:
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            raise UserError(f"no posteriors archive at {self.path}: run stage 4")
        self.table = TokenTable.load(self.path)
        self._pool = 1  # stored frames of which one is made
        if lang_dir is not None:
            self.check_table(lang_dir)

    def check_table(self, lang_dir: Path) -> None:
        """Raises UserError, which names the first token that differs, where the lang dir has another token table."""
        if other := self.table.unlike(TokenTable.load(lang_dir)):
            raise UserError(f"the archive {self.path} has another token table than {lang_dir}/tokens.txt: its {other}")

    def at(self, frame_shift: float) -> PosteriorReader:
        """The same archive in frames of so many seconds: means of the probabilities of as many frames as make one.

        Raises:
            UserError: no whole number of them does.
        """
        pool = frames_in(frame_shift, self.frame_shift)
        if not pool:
            raise UserError(
                f"{self.path} has a frame every {1000 * self.frame_shift:g} ms, which does not divide "
                f"{1000 * frame_shift:g} ms"
            )
        coarse = copy.copy(self)
        coarse._pool *= pool
        return coarse

    def rows(self) -> Iterator[dict[str, Any]]:
        """The manifest's rows: id, frame_shift (seconds), top_k, array, crc32 (archives before it have none).

        Raises:
            DamagedManifest: at the end of those that can be read, where there were more.
        """
        manifest, seen = self.path / MANIFEST, set()
        try:
            for number, row in enumerate(read_json_lines(manifest), start=1):
                row.setdefault("top_k", 0)  # the first archives did not say
                if not _is_row(row, len(self.table)) or row["id"] in seen:
                    raise UserError(f"{manifest}: line {number} is not the row of another utterance")
                seen.add(row["id"])
                yield row
        except UserError as error:
            raise DamagedManifest(str(error)) from None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(cut id, (T, V) float32 natural-log probabilities)."""
        for cut_id, found in self.entries():
            if isinstance(found, UserError):
                raise found
            yield cut_id, found

    def entries(self) -> Iterator[tuple[str, np.ndarray | UserError]]:
        """The same, and in the place of an array that cannot be read the error that says so: the others can."""
        for row in self.rows():
            try:
                yield row["id"], self._load(row)
            except UserError as error:
                yield row["id"], error

    @cached_property
    def index(self) -> dict[str, dict[str, Any]]:
        """Manifest rows by cut id."""
        return {row["id"]: row for row in self.rows()}

    @property
    def frame_shift(self) -> float:
        """Seconds between frames."""
        return self._pool * float(next(self.rows(), {}).get("frame_shift", FRAME_SHIFT))

    @property
    def seconds(self) -> float:
        """Of all the audio that a damaged list still names."""
        total = 0.0
        with suppress(DamagedManifest):
            for row in self.rows():
                total += row["frame_shift"] * row["array"]["shape"][0]
        return total

    def read(self, cut_id: str) -> np.ndarray:
        """(T, V) float32 natural-log probabilities of one cut.

        Raises:
            UserError: the archive lacks the cut; DamagedEntry: its array is damaged or gone.
        """
        if cut_id not in self.index:
            raise UserError(f"the archive {self.path} lacks the cut {cut_id}: it was made from another cut set")
        return self._load(self.index[cut_id])

    def _load(self, row: dict[str, Any]) -> np.ndarray:
        try:
            array = row["array"]
            stored = _read_npy(f"{self.path}/arrays/{array['storage_key']}", array["shape"], row.get("crc32"))
            log_probs = _spread_rest(stored, row["top_k"], len(self.table)) if row["top_k"] else stored
            return _averaged(log_probs, self._pool) if self._pool > 1 else log_probs
        except (OSError, ValueError, IndexError) as error:
            raise DamagedEntry(f"{self.path}: utterance {row['id']}: unreadable ({error})") from None


def frames_in(longer: float, shorter: float) -> int:
    """How many frames of one shift make one of another, both in seconds; 0 where no whole number does."""
    count = round(longer / shorter)
    return count if abs(longer / shorter - count) <= 1e-3 else 0


def _is_row(row: dict[str, Any], vocab_size: int) -> bool:
    """Whether a manifest's row names an array inside the archive, of a shape that fits the token table."""
    array, frame_shift, top_k = row.get("array"), row.get("frame_shift"), row.get("top_k")
    if not (isinstance(row.get("id"), str) and isinstance(array, dict) and type(top_k) is int):
        return False
    key, shape = array.get("storage_key"), array.get("shape")
    return (
        isinstance(frame_shift, float)
        and 0 < frame_shift < math.inf
        and 0 <= top_k < vocab_size
        and isinstance(key, str)
        and re.fullmatch(r"\w+/\w+\.npy", key) is not None
        and isinstance(shape, list)
        and len(shape) == 2
        and type(shape[0]) is int
        and shape[0] >= 0
        and shape[1] == (2 * top_k or vocab_size)
    )


def _read_npy(path: str, shape: Sequence[int], crc32: int | None) -> np.ndarray:
    """A float32 array of known shape; `numpy.load` spends ten times as long, on understanding the header.

    Raises:
        ValueError: the file does not hold such an array, or not the one of this checksum.
    """
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {tuple(shape)}, }}".encode()
    with open(path, "rb", buffering=0) as file:
        data = bytearray(file.read())
    start = 10 + int.from_bytes(data[8:10], "little")  # magic, version, length of the header; header; array
    if not data.startswith(b"\x93NUMPY\x01\x00") or not data.startswith(header, 10):
        raise ValueError("it is not the array of the manifest")
    if crc32 is not None and zlib.crc32(memoryview(data)[start:]) != crc32:
        raise ValueError("wrong checksum")
    return np.frombuffer(data, dtype="<f4", offset=start).reshape(shape)


def _keep_top(log_probs: np.ndarray, k: int) -> np.ndarray:
    """(T, V) -> (T, 2k): ids of the k most probable tokens, then their log-probs."""
    ids = np.argpartition(-log_probs, k - 1, axis=1)[:, :k]
    return np.concatenate([ids, np.take_along_axis(log_probs, ids, axis=1)], axis=1)


def _averaged(log_probs: np.ndarray, pool: int) -> np.ndarray:
    """(T, V) -> (T // pool, V)."""
    whole = len(log_probs) // pool
    grouped = np.exp(log_probs[: whole * pool]).reshape(whole, pool, log_probs.shape[1])
    return np.log(np.maximum(grouped.mean(1), 1e-30))


def _spread_rest(stored: np.ndarray, k: int, vocab_size: int) -> np.ndarray:
    """(T, 2k) -> (T, V), the mass that was not kept spread evenly."""
    ids, kept = stored[:, :k].astype(np.int64), stored[:, k:]
    rest = np.maximum(1.0 - np.exp(kept).sum(1, keepdims=True), 1e-30) / (vocab_size - k)
    log_probs = np.repeat(np.log(rest), vocab_size, axis=1).astype(np.float32)
    np.put_along_axis(log_probs, ids, kept, axis=1)
    return log_probs
