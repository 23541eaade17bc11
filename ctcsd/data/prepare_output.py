"""The files that stage 0 leaves: audio, manifests, list of drops, report; they appear together or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from ctcsd.data.checks import Drop, Kept, Limits
from ctcsd.data.manifests import write_manifests
from ctcsd.data.report import build_report, report_text, write_drops
from ctcsd.data.splits import SPLITS
from ctcsd.errors import UserError
from ctcsd.lock import locked

PARTIAL = ".preparing"
FAILED = "dropped.failed.tsv"
REPORT = "report.json"


class Output:
    """Collects results in a hidden folder of `out_dir`, locked for one run; `finish` moves them into place."""

    def __init__(self, out_dir: Path, language: str) -> None:
        self.out_dir = out_dir.absolute()
        self.language = language
        self.partial = self.out_dir / PARTIAL
        self.audio = self.partial / "audio"
        self.kept: list[Kept] = []
        self.dropped: list[tuple[str, Drop]] = []

    def __enter__(self) -> Output:
        self.out_dir.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.out_dir, f"another preparation is writing into {self.out_dir}")
        self._lock.__enter__()
        if not (self.out_dir / REPORT).is_file():
            self._refuse_what_is_not_ours()
        shutil.rmtree(self.partial, ignore_errors=True)  # of a killed run
        self.audio.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.partial, ignore_errors=True)
        self._lock.__exit__(None, None, None)

    def drop(self, utterance_id: str, drop: Drop) -> None:
        self.dropped.append((utterance_id, drop))

    def keep(self, kept: Kept) -> None:
        self.kept.append(kept)

    def finish(self, limits: Limits, max_bad: float, incomplete: Sequence[str] = ()) -> dict:
        """Write manifests and reports, move all into place; `incomplete` stands in the report.

        Raises:
            UserError: too many drops, or an empty split.
        """
        self.kept.sort(key=lambda one: one.name)
        self.dropped.sort(key=lambda pair: (pair[0], pair[1].reason))
        write_drops(self.partial / "dropped.tsv", self.dropped)
        self._refuse(max_bad)
        report = build_report(self.language, self.kept, self.dropped, limits, incomplete)
        write_manifests(self.partial / "manifests", self.kept, self.out_dir / "audio", self.language)
        (self.partial / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        text = report_text(report)
        (self.partial / "report.txt").write_text(text, encoding="utf-8")
        self._move()
        print(text, end="")
        return report

    def _refuse(self, max_bad: float) -> None:
        bad = [(name, drop) for name, drop in self.dropped if not drop.expected]
        total = len(self.kept) + len(bad)
        if not total:
            raise UserError("the recipe found no utterances at all")
        message = ""
        if len(bad) > max_bad * total:
            reasons = [drop.reason for _, drop in bad]
            common = max(sorted(set(reasons)), key=reasons.count)
            name, drop = next(pair for pair in bad if pair[1].reason == common)
            message = (
                f"{len(bad)} of {total} utterances dropped (more than {max_bad:.0%}); "
                f"most often: {common} ({reasons.count(common)}, such as {name}: {drop.detail})"
            )
        elif empty := [split for split in SPLITS if not any(one.split == split for one in self.kept)]:
            message = (
                f"no utterance is left for {', '.join(empty)} ({len(self.kept)} kept, {len(self.dropped)} dropped)"
            )
        if message:
            os.replace(self.partial / "dropped.tsv", self.out_dir / FAILED)
            raise UserError(f"{message}; all drops: {self.out_dir / FAILED}")

    def _refuse_what_is_not_ours(self) -> None:
        for name in ("audio", "manifests"):
            if (self.out_dir / name).exists():
                self._lock.__exit__(None, None, None)
                raise UserError(
                    f"{self.out_dir / name} is not of a preparation ({REPORT} is missing beside it) and would be "
                    "replaced: give another data folder"
                )

    def _move(self) -> None:
        """Manifests go first and come last: without them nothing looks whole. The report says that the rest is ours."""
        shutil.rmtree(self.out_dir / "manifests", ignore_errors=True)
        shutil.rmtree(self.out_dir / "audio", ignore_errors=True)
        (self.out_dir / FAILED).unlink(missing_ok=True)
        for name in (REPORT, "audio", "dropped.tsv", "report.txt", "manifests"):
            os.replace(self.partial / name, self.out_dir / name)
