"""The results of an experiment folder: the table, the command, and what produced it."""

from __future__ import annotations

import platform
from collections import OrderedDict
from pathlib import Path
from typing import Any

from ctcsd.run_dir import RunDir
from ctcsd.score.run import decoder_agreement, read_rows, result_files
from ctcsd.score.tables import results_table


def results_report(exp_dir: Path, command: str = "") -> tuple[str, str]:
    """The table for the screen, and RESULTS.md with the command, revisions and sizes beside it.

    Raises:
        UserError: there are no results yet.
    """
    rows = read_rows(exp_dir)
    splits = list(OrderedDict.fromkeys(row["split"] for row in rows))
    dev, test = splits[0], splits[-1]
    table = results_table(rows, dev, test)
    notes = _notes(rows, test)
    notes += _search_agreement(exp_dir, test)
    body = "\n".join(f"- {note}" for note in notes)
    markdown = f"# Results\n\n{table}\n\n{body}\n"
    if command:
        markdown += f"\nCommand:\n\n    {command}\n"
    return f"{table}\n\n{body}", markdown


def _notes(rows: list[dict[str, Any]], test: str) -> list[str]:
    first = next(row for row in rows if row["split"] == test)
    trained = sorted({row["trained_at"] for row in rows})
    return [
        f"WER and CER in percent over {first['utterances']} test utterances ({first['words']} words), "
        "with 95 % bootstrap intervals over utterances (10,000 resamples)",
        "agreement: share of test frames on which student and teacher exit have the same most probable token "
        "(in brackets: where the teacher's is not blank)",
        f"revision of the code: {', '.join(trained)}; {platform.machine()}, Python {platform.python_version()}",
    ]


def _search_agreement(exp_dir: Path, test: str) -> list[str]:
    """How far k2's best path and greedy search agree, over the runs that have both."""
    shares = []
    for path in result_files(exp_dir):
        run = RunDir(path.parent)
        for exit in ("student", "teacher"):
            pair = [run.hypotheses(method, test, exit) for method in ("greedy", "k2-1best")]
            if all(p.is_file() for p in pair):
                shares.append(decoder_agreement(run, test, exit, "greedy", "k2-1best"))
    return [f"greedy and k2-1best agree on {min(shares):.2f} % of the test words or more"] if shares else []
