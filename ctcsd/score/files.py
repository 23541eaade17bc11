"""recogs-, errs- and wer-summary- files in icefall's layout, and JSON lines."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

import kaldialign

from ctcsd.errors import UserError
from ctcsd.files import read_json_lines, replacing, write_text
from ctcsd.score.wer import WerStats, wer

EPS = "*"  # how nothing is written
GAP = " "  # nothing, in an alignment: no word or character is a space
# Column of the summary -> key of the result row.
SUMMARY = {
    "settings": "exit",
    "WER": "wer",
    "CER": "cer",
    "SER": "ser",
    "oracle WER": "oracle_wer",
    "failed": "failed",
    "normalize": "normalize",
}


def write_recogs(path: Path, rows: Sequence[tuple[str, list[str], list[str]]]) -> None:
    """(cut id, reference words, hypothesis words) per utterance, two lines each."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as out:
        for cut_id, reference, hypothesis in rows:
            out.write(f"{cut_id}:\tref={reference}\n{cut_id}:\thyp={hypothesis}\n")


def write_errs(path: Path, rows: Sequence[tuple[str, list[str], list[str]]]) -> WerStats:
    """The error report: totals, alignments, confusions, insertions, deletions and counts per word."""
    stats = wer((reference, hypothesis) for _, reference, hypothesis in rows)
    subs: Counter[tuple[str, str]] = Counter()
    ins: Counter[str] = Counter()
    dels: Counter[str] = Counter()
    words: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0, 0])  # correct, ref sub, hyp sub, ins, del
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as out:
        correct = stats.words - stats.subs - stats.dels
        out.write(
            f"%WER = {stats.rate:.2f}\nErrors: {stats.ins} insertions, {stats.dels} deletions, "
            f"{stats.subs} substitutions, over {stats.words} reference words ({correct} correct)\n"
            "Search below for sections starting with PER-UTT DETAILS:, SUBSTITUTIONS:, "
            "DELETIONS:, INSERTIONS:, PER-WORD STATS:\n\nPER-UTT DETAILS: corr or (ref->hyp)  \n"
        )
        for cut_id, reference, hypothesis in rows:
            alignment = kaldialign.align(reference, hypothesis, GAP)
            for ref, hyp in alignment:
                if ref == hyp:
                    words[ref][0] += 1
                elif ref == GAP:
                    ins[hyp] += 1
                    words[hyp][3] += 1
                elif hyp == GAP:
                    dels[ref] += 1
                    words[ref][4] += 1
                else:
                    subs[ref, hyp] += 1
                    words[ref][1] += 1
                    words[hyp][2] += 1
            out.write(f"{cut_id}:\t{' '.join(_pieces(alignment))}\n")
        out.write("\nSUBSTITUTIONS: count ref -> hyp\n")
        out.writelines(f"{n}   {ref} -> {hyp}\n" for (ref, hyp), n in _descending(subs))
        out.write("\nDELETIONS: count ref\n")
        out.writelines(f"{n}   {ref}\n" for ref, n in _descending(dels))
        out.write("\nINSERTIONS: count hyp\n")
        out.writelines(f"{n}   {hyp}\n" for hyp, n in _descending(ins))
        _write_words(out, words)
    return stats


def write_summary(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """A line per exit, best first: icefall's `settings WER`, then what else its result row says of its errors."""
    header = "\t".join(SUMMARY) + "\n"
    lines = [header.replace("WER", "PER") if any(row.get("unit") == "phone" for row in rows) else header]
    for row in sorted(rows, key=lambda row: row["wer"]):
        lines.append("\t".join(_cell(row.get(key)) for key in SUMMARY.values()) + "\n")
    write_text(path, "".join(lines))


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line, whole or not at all."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """What `write_jsonl` wrote; raises UserError where it is missing or damaged."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run stage 5")
    try:
        return list(read_json_lines(path))
    except UserError as error:
        raise UserError(f"{error}: damaged: run stage 5 again") from None


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return " ".join(value) if value and isinstance(value, list) else str(value or "-")


def _pieces(alignment: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Correct words, and (reference->hypothesis) for errors in a row."""
    for correct, pairs in groupby(alignment, key=lambda pair: pair[0] == pair[1]):
        sides = [[word for word in side if word != GAP] for side in zip(*pairs)]
        if correct:
            yield from sides[0]
        else:
            yield "({}->{})".format(*(" ".join(side) or EPS for side in sides))


def _descending(counts: Counter) -> list:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _write_words(out: TextIO, words: dict[str, list[int]]) -> None:
    out.write("\nPER-WORD STATS: word  corr tot_errs count_in_ref count_in_hyp\n")
    for word, (corr, ref_sub, hyp_sub, ins, dels) in sorted(
        words.items(), key=lambda item: (-sum(item[1][1:]), item[0])
    ):
        errors = ref_sub + hyp_sub + ins + dels
        out.write(f"{word}   {corr} {errors} {corr + ref_sub + dels} {corr + hyp_sub + ins}\n")
