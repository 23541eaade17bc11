"""Where the files of a run lie: exp/<preset>/<method>/seed<seed>/."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctcsd.errors import UserError


@dataclass(frozen=True)
class RunDir:
    """The folder of one trained model and all that was decoded with it."""

    path: Path

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

    def train_record(self) -> dict[str, Any]:
        """train.json; raises UserError where the training is not finished."""
        path = self.path / "train.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except OSError:
            raise UserError(f"{self.path} holds no finished training: run stage 3") from None
        except ValueError:
            raise UserError(f"{path}: damaged: run stage 3 again") from None
