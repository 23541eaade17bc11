"""Where the files of a run lie: exp/<preset>/<method>/seed<seed>/."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctcsd.errors import UserError
from ctcsd.files import read_json

# Fields of train.json that others read -> their types.
TRAIN_RECORD: dict[str, type | tuple[type, ...]] = {
    "corpus": str,
    "method": str,
    "seed": int,
    "parameters": dict,
    "seconds": (int, float),
    "peak_memory_mib": int,
    "revision": str,
}


@dataclass(frozen=True)
class RunDir:
    """The folder of one trained model and all that was decoded with it."""

    path: Path

    @property
    def train_marker(self) -> Path:
        """Done-marker of the training, which holds its options."""
        return self.path / ".done"

    def archive(self, split: str, exit: str, top_k: int = 0) -> Path:
        """Posteriors of a split at an exit: all of them, or the k largest of a frame."""
        return self.path / "posteriors" / (f"{split}-{exit}-top{top_k}" if top_k else f"{split}-{exit}")

    def archive_marker(self, split: str, exit: str, top_k: int = 0) -> Path:
        """Done-marker of an archive."""
        target = self.archive(split, exit, top_k)
        return target.with_name(f".{target.name}.done")

    def prior(self, exit: str) -> Path:
        """The mean posterior of an exit over training cuts, (V,)."""
        return self.path / "posteriors" / f"prior-{exit}.npy"

    def hypotheses(self, method: str, split: str, exit: str) -> Path:
        """What a search method recognised."""
        return self.path / "decode" / method / f"hyps-{split}-{exit}.jsonl"

    def hypotheses_marker(self, method: str, split: str, exit: str) -> Path:
        """Done-marker of a search, which holds its options."""
        target = self.hypotheses(method, split, exit)
        return target.with_name(f".{target.name}.done")

    def search_cost(self, method: str, split: str, exit: str) -> Path:
        """What a search cost: processor time and memory."""
        return self.decoded(method) / f"cost-{split}-{exit}.json"

    def nbest(self, method: str, split: str, exit: str) -> Path:
        """The n-best lists of a search method that makes them, one JSON object per utterance."""
        return self.decoded(method) / f"nbest-{split}-{exit}.jsonl"

    def decoded(self, method: str) -> Path:
        """Folder of a search method's hypotheses and score files."""
        return self.path / "decode" / method

    def utterances(self, method: str, split: str, exit: str) -> Path:
        """Errors and reference lengths of every utterance."""
        return self.decoded(method) / f"utterances-{split}-{exit}.jsonl"

    @property
    def results(self) -> Path:
        """One JSON object per result row."""
        return self.path / "results.jsonl"

    def train_record(self, exits: Iterable[str] = ()) -> dict[str, Any]:
        """train.json; raises UserError where the training is not finished, or the file lacks a field or an exit."""
        path = self.path / "train.json"
        if not path.is_file():
            raise UserError(f"{self.path} holds no finished training: run stage 3")
        record = read_json(path)
        wrong = [key for key, kind in TRAIN_RECORD.items() if not isinstance(record.get(key), kind)]
        sizes = {} if wrong else record["parameters"]
        wrong += [f"parameters.{exit}" for exit in {*exits, *sizes} if not isinstance(sizes.get(exit), int)]
        if wrong:
            raise UserError(f"{path}: {wrong[0]} is missing or of another kind: damaged, run stage 3 again")
        return record
