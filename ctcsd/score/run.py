"""Stage 5: score everything that was decoded with a run, and keep the rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctcsd.decode.hypothesis import read_hypotheses
from ctcsd.errors import UserError
from ctcsd.posteriors import PosteriorReader
from ctcsd.revision import revision
from ctcsd.run_dir import RunDir
from ctcsd.score.alignment import frame_agreement
from ctcsd.score.files import write_errs, write_recogs, write_summary
from ctcsd.score.significance import bootstrap_interval
from ctcsd.score.wer import characters, utterance_errors, wer


def score_run(
    run: RunDir,
    references: Mapping[str, Mapping[str, str]],
    methods: Sequence[str],
    exits: Sequence[str],
) -> list[dict[str, Any]]:
    """Score the hypotheses of a run; writes recogs-, errs-, cers- and wer-summary- files and `results.jsonl`.

    Args:
        references: split -> cut id -> reference text.
        methods: search methods; exits: exit names.

    Raises:
        UserError: hypotheses are missing, or are not those of the split.
    """
    record = run.train_record()
    rows = []
    for split, texts in references.items():
        agreement = _agreement(run, split)
        for method in methods:
            summary = []
            for exit in exits:
                row = _score(run, method, split, exit, texts)
                summary.append((exit, row["wer"]))
                rows.append(
                    {
                        **{key: record[key] for key in ("corpus", "method", "seed")},
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
    partial = run.results.with_name(f".{run.results.name}.partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.rename(run.results)
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
    counts = [utterance_errors(reference, hypothesis) for _, reference, hypothesis in words]
    low, high = bootstrap_interval([c.errors for c in counts], [c.words for c in counts])
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


def _agreement(run: RunDir, split: str) -> dict[str, Any]:
    """Frame agreement of the student with the teacher of the same encoder, where there are both."""
    student, teacher = run.archive(split, "student"), run.archive(split, "teacher")
    if not (student.is_dir() and teacher.is_dir()):
        return {}
    agreed = frame_agreement(PosteriorReader(teacher), PosteriorReader(student))
    return {
        "agreement": round(agreed.accuracy, 2),
        "agreement_nonblank": round(agreed.nonblank_accuracy, 2),
        "student_blank_share": round(agreed.blank_share, 2),
    }


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
    """All result rows below a folder.

    Raises:
        UserError: there is none, or a file is damaged.
    """
    rows = []
    for path in result_files(exp_dir):
        try:
            rows += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        except ValueError:
            raise UserError(f"{path}: damaged: run stage 5 again") from None
    if not rows:
        raise UserError(f"no results below {exp_dir}: run stage 5")
    return rows
