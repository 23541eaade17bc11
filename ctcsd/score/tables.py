"""Result rows as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

HEADER = ("method", "exit", "parameters", "decoder", "dev WER", "test WER", "test CER", "agreement", "training")


def results_table(rows: Sequence[dict[str, Any]], dev: str, test: str) -> str:
    """One line per method, seed, exit and decoder; WER with its 95 % bootstrap interval, all in percent.

    `agreement` is the share of test frames on which student and teacher exit have the same most probable token;
    in brackets, over the frames where the teacher's is not blank.
    """
    grouped: dict[tuple, dict[str, dict[str, Any]]] = {}
    for row in rows:
        key = (row["method"], row["seed"], row["exit"], row["decoder"])
        grouped.setdefault(key, {})[row["split"]] = row
    several = len({row["seed"] for row in rows}) > 1
    lines = []
    for (method, seed, exit, decoder), splits in grouped.items():
        any_row = next(iter(splits.values()))
        lines.append(
            (
                f"{method} (seed {seed})" if several else method,
                exit,
                f"{any_row['parameters'] / 1e6:.2f} M",
                decoder,
                _rate(splits.get(dev)),
                _rate(splits.get(test)),
                f"{splits[test]['cer']:.1f}" if test in splits else "-",
                _agreement(splits.get(test)),
                f"{any_row['train_seconds'] / 60:.1f} min",
            )
        )
    return markdown(HEADER, lines)


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well on a terminal too."""
    widths = [max(len(str(line[i])) for line in [header, *lines]) for i in range(len(header))]

    def row(cells: Sequence[str]) -> str:
        return "| " + " | ".join(str(cell).ljust(width) for cell, width in zip(cells, widths)) + " |"

    return "\n".join([row(header), row(["-" * width for width in widths]), *(row(line) for line in lines)])


def _rate(row: dict[str, Any] | None) -> str:
    return f"{row['wer']:.1f} [{row['wer_low']:.1f}, {row['wer_high']:.1f}]" if row else "-"


def _agreement(row: dict[str, Any] | None) -> str:
    if not row or "agreement" not in row:
        return "-"
    return f"{row['agreement']:.1f} ({row['agreement_nonblank']:.1f})"
