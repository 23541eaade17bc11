"""The archive of log-posteriors, where stages 4a and 4b meet (and what a stored teacher is).

A folder with `arrays/` (lhotse's numpy_files storage, float32, exact), `manifest.jsonl.gz` (cut id and lhotse
array manifest per line) and `tokens.txt`, the table that the posteriors were made for.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from lhotse.array import Array
from lhotse.features.io import NumpyFilesReader, NumpyFilesWriter

from ctcsd.errors import UserError
from ctcsd.text.tokenizer import TokenTable

MANIFEST = "manifest.jsonl.gz"


class PosteriorWriter:
    """Writes an archive beside its target and renames it when the `with` block ends without an error.

    Args:
        path: folder of the archive; an older one there is replaced at the end.
        table: the token table that the last axis counts.
        frame_shift: seconds between frames.
    """

    def __init__(self, path: Path, table: TokenTable, frame_shift: float = 0.04) -> None:
        self.path, self.table, self.frame_shift = Path(path), table, frame_shift
        self._partial = self.path.with_name(self.path.name + ".partial")

    def __enter__(self) -> PosteriorWriter:
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        (self._partial / "tokens.txt").write_text(self.table.text, encoding="utf-8")
        self._arrays = NumpyFilesWriter(self._partial / "arrays")
        self._manifest = gzip.open(self._partial / MANIFEST, "wt", encoding="utf-8")
        return self

    def write(self, cut_id: str, log_probs: np.ndarray) -> None:
        """Append one utterance: (T, V) natural-log probabilities."""
        if log_probs.ndim != 2 or log_probs.shape[1] != len(self.table):
            raise ValueError(f"{cut_id}: expected (T, {len(self.table)}), got {log_probs.shape}")
        name = hashlib.sha1(cut_id.encode("utf-8")).hexdigest()  # an id may hold what a file name must not
        key = self._arrays.write(name, np.ascontiguousarray(log_probs, dtype=np.float32))
        array = Array(self._arrays.name, "arrays", key, list(log_probs.shape))
        row = {"id": cut_id, "frame_shift": self.frame_shift, "array": array.to_dict()}
        self._manifest.write(json.dumps(row, ensure_ascii=False) + "\n")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._manifest.close()
        if kind is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            return
        if self.path.exists():
            shutil.rmtree(self.path)
        self._partial.rename(self.path)


class PosteriorReader:
    """Streams an archive, in the order in which it was written; holds one utterance at a time.

    Raises:
        UserError: no archive there, a damaged one, or one for another token table than the lang dir's.
    """

    def __init__(self, path: Path, lang_dir: Path | None = None) -> None:
        self.path = Path(path)
        if not (self.path / MANIFEST).is_file():
            raise UserError(f"no posteriors archive at {self.path}: run stage 4")
        self.table = TokenTable.load(self.path)
        if lang_dir is not None and TokenTable.load(lang_dir).fingerprint != self.table.fingerprint:
            raise UserError(f"the archive {self.path} was made with another token table than {lang_dir}/tokens.txt")

    def rows(self) -> Iterator[dict[str, Any]]:
        """The manifest's rows: id, frame_shift (seconds), array."""
        try:
            with gzip.open(self.path / MANIFEST, "rt", encoding="utf-8") as lines:
                for line in lines:
                    yield json.loads(line)
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(f"{self.path / MANIFEST}: damaged ({error})") from None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        """(cut id, (T, V) float32 natural-log probabilities)."""
        reader = NumpyFilesReader(self.path / "arrays")
        for row in self.rows():
            try:
                yield row["id"], reader.read(row["array"]["storage_key"])
            except (OSError, EOFError, ValueError, KeyError) as error:
                raise UserError(f"{self.path}: utterance {row.get('id')}: unreadable ({error})") from None
