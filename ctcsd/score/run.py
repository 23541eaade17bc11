"""Stage 5: score everything that was decoded with a run, and keep the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctcsd.decode.hypothesis import read_hypotheses
from ctcsd.errors import UserError
from ctcsd.revision import revision
from ctcsd.run_dir import RunDir
from ctcsd.score.agreement import agreement_of_run
from ctcsd.score.files import read_jsonl, write_errs, write_jsonl, write_recogs, write_summary
from ctcsd.score.significance import bootstrap_interval
from ctcsd.score.wer import characters, utterance_errors, wer


def score_run(
    run: RunDir,
    references: Mapping[str, Mapping[str, str]],
    methods: Sequence[str],
    exits: Sequence[str],
    reference: RunDir | None = None,
) -> list[dict[str, Any]]:
    """Score the hypotheses of a run: recogs-, errs-, cers-, utterances- and wer-summary- files, and `results.jsonl`.

    Args:
        references: split -> cut id -> reference text.
        methods: search methods; exits: exit names.
        reference: the run of a separate teacher, with which the student's frames are compared.

    Raises:
        UserError: hypotheses are missing, or are not those of the split.
    """
    record = run.train_record()
    rows = []
    for split, texts in references.items():
        agreement = agreement_of_run(run, split, reference)
        for method in methods:
            summary = []
            for exit in exits:
                row = _score(run, method, split, exit, texts)
                summary.append((exit, row["wer"]))
                rows.append(
                    {
                        **{key: record[key] for key in ("corpus", "method", "seed")},
                        "init_from": record.get("init_from"),
                        "exit": exit,
                        "parameters": record["parameters"][exit],
                        "decoder": method,
                        "options": _options(run, method, split, exit),
                        "split": split,
                        **row,
                        **agreement,
                        "train_seconds": record["seconds"],
                        "peak_memory_mib": record["peak_memory_mib"],
                        "trained_at": record["revision"],
                        "revision": revision(),
                    }
                )
            write_summary(run.decoded(method) / f"wer-summary-{split}.txt", summary)
    write_jsonl(run.results, rows)
    return rows


def _score(run: RunDir, method: str, split: str, exit: str, texts: Mapping[str, str]) -> dict[str, Any]:
    path = run.hypotheses(method, split, exit)
    found = {h.cut_id: h.text for h in read_hypotheses(path)}
    if set(found) != set(texts):
        missing = len(set(texts) - set(found))
        extra = len(set(found) - set(texts))
        raise UserError(f"{path}: {missing} cuts of the split are missing and {extra} are not of it: run stage 4")
    words = [(cut_id, texts[cut_id].split(), found[cut_id].split()) for cut_id in sorted(texts)]
    chars = [(cut_id, characters(texts[cut_id]), characters(found[cut_id])) for cut_id in sorted(texts)]
    folder = run.decoded(method)
    write_recogs(folder / f"recogs-{split}-{exit}.txt", words)
    stats = write_errs(folder / f"errs-{split}-{exit}.txt", f"{split}-{exit}", words)
    cer = write_errs(folder / f"cers-{split}-{exit}.txt", f"{split}-{exit}", chars)
    counts = [_counts(cut_id, texts[cut_id], found[cut_id]) for cut_id in sorted(texts)]
    write_jsonl(run.utterances(method, split, exit), counts)
    low, high = bootstrap_interval([c["word_errors"] for c in counts], [c["words"] for c in counts])
    cer_low, cer_high = bootstrap_interval([c["char_errors"] for c in counts], [c["chars"] for c in counts])
    return {
        "utterances": len(words),
        "words": stats.words,
        "wer": round(stats.rate, 2),
        "wer_low": round(low, 2),
        "wer_high": round(high, 2),
        "ins": stats.ins,
        "dels": stats.dels,
        "subs": stats.subs,
        "cer": round(cer.rate, 2),
        "cer_low": round(cer_low, 2),
        "cer_high": round(cer_high, 2),
    }


def _counts(cut_id: str, reference: str, hypothesis: str) -> dict[str, Any]:
    """What a paired comparison needs of an utterance."""
    words = utterance_errors(reference.split(), hypothesis.split())
    chars = utterance_errors(characters(reference), characters(hypothesis))
    return {
        "cut_id": cut_id,
        "word_errors": words.errors,
        "words": words.words,
        "char_errors": chars.errors,
        "chars": chars.words,
    }


def _options(run: RunDir, method: str, split: str, exit: str) -> dict[str, Any]:
    """The options that a search was made with, from its marker."""
    marker = run.hypotheses_marker(method, split, exit)
    try:
        held = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(
            f"{run.hypotheses(method, split, exit)} is not whole ({marker.name} is missing): run stage 4"
        ) from None
    return {key: value for key, value in held.items() if not key.startswith("file ")}


def decoder_agreement(run: RunDir, split: str, exit: str, first: str, second: str) -> float:
    """Percentage of words on which two search methods agree, the first taken as the reference."""
    a = {h.cut_id: h.text for h in read_hypotheses(run.hypotheses(first, split, exit))}
    b = {h.cut_id: h.text for h in read_hypotheses(run.hypotheses(second, split, exit))}
    return 100.0 - wer((a[cut_id].split(), b.get(cut_id, "").split()) for cut_id in a).rate


def result_files(exp_dir: Path) -> list[Path]:
    """The results.jsonl of every run below a folder, but not of runs that were moved aside into `.old`."""
    found = sorted(Path(exp_dir).rglob("results.jsonl"))
    return [path for path in found if ".old" not in path.relative_to(exp_dir).parts]


def read_rows(exp_dir: Path) -> list[dict[str, Any]]:
    """All result rows below a folder; `folder` is that of the run.

    Raises:
        UserError: there is none, or a file is damaged.
    """
    rows = [{**row, "folder": str(path.parent)} for path in result_files(exp_dir) for row in read_jsonl(path)]
    if not rows:
        raise UserError(f"no results below {exp_dir}: run stage 5")
    return rows
