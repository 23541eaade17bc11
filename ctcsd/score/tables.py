"""Result rows as a Markdown table: one line per method, exit and search method, over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from ctcsd.errors import UserError

Row = dict[str, Any]
WARM = " (warm)"


def label(row: Row) -> str:
    """The name of a row's method in tables: one that started from another model is marked as warm."""
    return row["method"] + (WARM if row.get("init_from") else "")


def check_one_table(rows: Sequence[Row]) -> None:
    """Raises UserError where rows were not scored alike, or two runs are of one method and seed."""
    rules = {row.get("normalize", "none"): row["folder"] for row in rows}
    if len(rules) > 1:
        where = " and ".join(f"{rule} in {folder}" for rule, folder in sorted(rules.items()))
        raise UserError(f"score.normalize is {where}: score all of them alike (stage 5)")
    folders: dict[tuple[str, int], str] = {}
    for row in rows:
        first = folders.setdefault((label(row), row["seed"]), row["folder"])
        if first != row["folder"]:
            both = f"{first} and {row['folder']}"
            raise UserError(f"{both} are both {label(row)} with seed {row['seed']}: name a folder that holds only one")


def with_seeds(name: str, seeds: int) -> str:
    """A method's name with the number of its seeds, where that is more than one."""
    return f"{name}, {seeds} seeds" if seeds > 1 else name


def student_rows(rows: Sequence[Row]) -> list[Row]:
    """Of one method's rows those of its student exit, or of the first exit there is."""
    exits = [row["exit"] for row in rows]
    return [row for row in rows if row["exit"] == ("student" if "student" in exits else exits[0])]


def results_table(rows: Sequence[Row], dev: str, test: str) -> str:
    """One line per method, exit and decoder, in the order of the rows; columns that no row fills are left out.

    A rate of one seed stands with its bootstrap interval, one of several seeds as mean and sample standard deviation;
    all other columns hold the mean over the seeds, and the peak memory the maximum. Rates and agreement are in percent.
    """
    grouped: dict[tuple[str, str, str], dict[str, list[Row]]] = {}
    for row in rows:
        splits = grouped.setdefault((label(row), row["exit"], row["decoder"]), {})
        splits.setdefault(row["split"], []).append(row)
    lines = [_cells(splits.get(dev, []), splits.get(test, [])) for splits in grouped.values()]
    header = [name for name in lines[0] if any(line[name] for line in lines)]
    return markdown(header, [[line[name] or "-" for name in header] for line in lines])


def more_tests_table(rows: Sequence[Row], splits: Sequence[str]) -> str:
    """WER on further test sets, a line as in `results_table`; empty where there are none."""
    grouped: dict[tuple[str, str, str], list[Row]] = {}
    for row in _in([row for row in rows if row["split"] in splits], "word"):
        grouped.setdefault((label(row), row["exit"], row["decoder"]), []).append(row)
    lines = []
    for (name, exit, decoder), runs in grouped.items():
        found = [[row for row in runs if row["split"] == split] for split in splits]
        lines.append([with_seeds(name, max(map(len, found))), exit, decoder, *(_rate(some, "wer") for some in found)])
    header = ["method", "exit", "decoder", *(f"{split} WER" for split in splits)]
    return markdown(header, [[cell or "-" for cell in line] for line in lines]) if lines else ""


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well on a terminal too."""
    widths = [max(len(str(line[i])) for line in [header, *lines]) for i in range(len(header))]

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join([row(header), row(["-" * width for width in widths]), *(row(line) for line in lines)])


def _cells(dev: Sequence[Row], test: Sequence[Row]) -> dict[str, str]:
    """Column -> text of one line, empty where nothing is known."""
    runs = test or dev
    return {
        "method": with_seeds(label(runs[0]), len(runs)),
        "exit": runs[0]["exit"],
        "parameters": f"{runs[0]['parameters'] / 1e6:.2f} M",
        "decoder": runs[0]["decoder"],
        "dev WER": _rate(_in(dev, "word"), "wer"),
        "test WER": _rate(_in(test, "word"), "wer"),
        "test CER": _rate(_in(test, "word"), "cer"),
        "dev PER": _rate(_in(dev, "phone"), "wer"),
        "test PER": _rate(_in(test, "phone"), "wer"),
        "test SER": _mean(test, "ser", "{:.1f}"),
        "oracle WER": _mean(test, "oracle_wer", "{:.1f}"),
        "agreement": _agreement(test, ""),
        "ref. agreement": _agreement(test, "ref_"),
        "spike offset": _mean(test, "spike_offset_ms", "{:.0f} ms"),
        "RTF": _mean(test, "rtf", "{:.2g}"),
        "search memory": _mean(test, "search_peak_mib", "{:.0f} MiB"),
        "training": f"{fmean(row['train_seconds'] for row in runs) / 60:.1f} min",
        "peak memory": f"{max(row['peak_memory_mib'] for row in runs)} MiB",
    }


def _in(runs: Sequence[Row], unit: str) -> list[Row]:
    """The rows that were scored in a unit, `word` or `phone`."""
    return [row for row in runs if row.get("unit", "word") == unit]


def _rate(runs: Sequence[Row], unit: str) -> str:
    """`value [interval]` of one run, `mean ± sample standard deviation` of several."""
    if len(runs) > 1:
        rates = [row[unit] for row in runs]
        return f"{fmean(rates):.1f} ± {stdev(rates):.1f}"
    return (
        _mean(runs, unit, "{:.1f}") + _mean(runs, f"{unit}_low", " [{:.1f}, ") + _mean(runs, f"{unit}_high", "{:.1f}]")
    )


def _agreement(runs: Sequence[Row], whose: str) -> str:
    """Over all frames, and in brackets over those where the teacher's most probable token is not blank."""
    nonblank = _mean(runs, f"{whose}agreement_nonblank", " ({:.1f})")
    return _mean(runs, f"{whose}agreement", "{:.1f}") + nonblank


def _mean(runs: Sequence[Row], key: str, pattern: str) -> str:
    values = [row[key] for row in runs if row.get(key) is not None]
    return pattern.format(fmean(values)) if values else ""
