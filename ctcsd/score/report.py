"""The results of an experiment folder: the table, the command, and what produced it."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctcsd.errors import UserError
from ctcsd.files import read_json
from ctcsd.run_dir import RunDir
from ctcsd.score.paired import paired_table
from ctcsd.score.run import decoder_agreement, read_rows, result_files
from ctcsd.score.tables import Row, check_one_table, label, more_tests_table, results_table
from ctcsd.stamp import FILE

# Row key -> what its column means.
COLUMN_NOTES = {
    "agreement": "agreement: share of test frames on which student and teacher exit have the same most probable token "
    "(in brackets: where the teacher's is not blank)",
    "ref_agreement": "ref. agreement: the same with the separate teacher",
    "ser": "SER: sentence error rate, the share of utterances with a wrong word",
    "oracle_wer": "oracle WER: that of the best candidate in each n-best list",
    "rtf": "RTF: seconds of the processor that a search takes for a second of test audio, once its graph is made; "
    "search memory: the peak of its process, with libraries, graph and language model",
    "spike_offset_ms": "spike offset: mean distance of the student's spikes from those of the teacher exit",
}
PAIRED_NOTE = (
    "difference: error rate minus the baseline's in percentage points, on the test split, over the seeds that both "
    "have; interval and probability of improvement from a paired bootstrap over utterances (Bisani and Ney 2004)"
)


def results_report(
    exp_dir: Path,
    command: str = "",
    methods: Sequence[str] = (),
    decoder: str | None = None,
    baseline: str | None = None,
    seeds: Sequence[int] = (),
) -> tuple[str, str]:
    """The tables for the screen, and RESULTS.md with the command, revisions and sizes beside them.

    Args:
        methods: these stand first, in this order.
        decoder: list this search method only.
        baseline: the method that the others are compared with; None: ctc, where it is among others.
        seeds: list the runs of these only; none named: all.

    Raises:
        UserError: there are no results yet, none of that decoder, baseline or seed, or such as fit no common table.
    """
    order = {name: position for position, name in enumerate(methods)}
    rows = _only(_only(read_rows(exp_dir), "decoder", [decoder] if decoder else []), "seed", seeds)
    rows.sort(key=lambda row: order.get(row["method"], len(order)))
    dev, test, *more = _splits(rows)
    check_one_table(rows)
    _check_alike(rows)
    last = [row for row in rows if row["split"] == test]
    wanted = (results_table(rows, dev, test), more_tests_table(rows, more), paired_table(last, baseline))
    tables = [table for table in wanted if table]
    notes = _notes(last, paired=bool(wanted[-1])) + _search_agreement(exp_dir, test)
    text = "\n\n".join([*tables, "\n".join(f"- {note}" for note in notes)])
    markdown = f"# Results\n\n{text}\n"
    if command:
        markdown += f"\nCommand:\n\n    {command}\n"
    return text, markdown


def _only(rows: list[Row], key: str, wanted: Sequence[object]) -> list[Row]:
    """The rows with one of these values; nothing wanted: all."""
    known = dict.fromkeys(row[key] for row in rows)
    for value in wanted:
        if value not in known:
            raise UserError(f"no results of the {key} '{value}'; there are: {', '.join(map(str, known))}")
    return [row for row in rows if not wanted or row[key] in wanted]


def _splits(rows: Sequence[Row]) -> list[str]:
    """Dev and test, which all runs share, and what some were tested on besides."""
    of_run: dict[str, dict[str, None]] = {}
    for row in rows:
        of_run.setdefault(row["folder"], {})[row["split"]] = None
    splits = list(dict.fromkeys(row["split"] for row in rows))
    if len({tuple(found)[:2] for found in of_run.values()}) > 1:
        raise UserError(f"runs on different splits ({', '.join(splits)}): name a folder whose runs share theirs")
    return splits if len(splits) > 1 else 2 * splits


def _check_alike(rows: Sequence[Row]) -> None:
    """Raises UserError where two seeds of a method were trained by different options."""
    first: dict[str, tuple[str, dict[str, Any]]] = {}
    for name, folder in dict.fromkeys((label(row), row["folder"]) for row in rows):
        marker = RunDir(Path(folder)).train_marker
        if not marker.is_file():
            continue
        options = {key: value for key, value in read_json(marker).items() if key != "seed" and not key.startswith(FILE)}
        other, theirs = first.setdefault(name, (folder, options))
        if differing := [key for key in options.keys() & theirs.keys() if options[key] != theirs[key]]:
            key = min(differing)
            raise UserError(
                f"{other} and {folder} are both {name}, but {key} is {theirs[key]} and {options[key]}: train them "
                "alike, or name a folder that holds only one kind"
            )


def _notes(rows: Sequence[Row], paired: bool) -> list[str]:
    """What the reader of the tables must know; `rows` are those of the test split."""
    rule = rows[0].get("normalize", "none")
    trained = sorted({row["trained_at"] for row in rows})
    sizes = {f"{row['words']} {row.get('unit', 'word')}s" for row in rows}
    return [
        f"error rates in percent over {rows[0]['utterances']} test utterances ({', '.join(sorted(sizes))}), with 95 % "
        "bootstrap intervals over utterances (10,000 resamples), or mean ± sample standard deviation over the seeds",
        *([f"texts were normalised before scoring: {rule}"] if rule != "none" else []),
        *(note for key, note in COLUMN_NOTES.items() if any(row.get(key) is not None for row in rows)),
        *([PAIRED_NOTE] if paired else []),
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
