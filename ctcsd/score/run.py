"""Stage 5: score everything that was decoded with a run, and keep the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from ctcsd.decode.cost import read_cost
from ctcsd.decode.hypothesis import read_hypotheses
from ctcsd.decode.search import search_name
from ctcsd.errors import UserError
from ctcsd.files import is_number, read_json
from ctcsd.revision import revision
from ctcsd.run_dir import RunDir
from ctcsd.score.agreement import agreement_of_run
from ctcsd.score.breakdown import write_breakdown
from ctcsd.score.files import read_jsonl, write_errs, write_jsonl, write_recogs, write_summary
from ctcsd.score.oracle import oracle_figures
from ctcsd.score.significance import bootstrap_interval
from ctcsd.score.trn import write_trn
from ctcsd.score.units import WORDS, Units, units_of
from ctcsd.score.utterances import score_utterances
from ctcsd.score.wer import sentence_error_rate, wer
from ctcsd.stamp import FILE
from ctcsd.text.normalize import SCORING_RULES, scoring_rule
from ctcsd.text.reference import Reference
from ctcsd.text.tokenizer import TokenTable

# Fields of a result row that tables read: text; numbers; and what may be missing.
TEXTS = ("method", "exit", "decoder", "split", "trained_at")
NUMBERS = ("parameters", "utterances", "words", "wer", "cer", "train_seconds", "peak_memory_mib")
OPTIONAL_TEXTS = ("init_from", "normalize", "unit")
OPTIONAL_NUMBERS = (
    *("wer_low", "wer_high", "cer_low", "cer_high", "ser", "oracle_wer", "rtf", "search_peak_mib", "spike_offset_ms"),
    *("agreement", "agreement_nonblank", "ref_agreement", "ref_agreement_nonblank"),
)


def score_run(
    run: RunDir,
    references: Mapping[str, Mapping[str, Reference]],
    methods: Sequence[str],
    exits: Sequence[str],
    reference: RunDir | None = None,
    rule: str = "none",
    lang_dir: Path | None = None,
) -> list[dict[str, Any]]:
    """Score the hypotheses of a run: the files that `_score` writes, wer-summary- files, and `results.jsonl`.

    Rows of other exits, search methods and splits of the same training stay; those scored now are returned.

    Args:
        references: split -> cut id -> reference.
        methods: search methods; exits: exit names.
        reference: the run of a separate teacher, with which the frames of each exit are compared.
        rule: the text normalisation of reference and hypothesis, one of SCORING_RULES.
        lang_dir: needed where its tokens are phones.

    Raises:
        UserError: an unknown rule; a lang dir is missing where one is needed; hypotheses are missing, or are not those
            of the split.
    """
    record = run.train_record(exits)
    rows = []
    for split, texts in references.items():
        agreement = agreement_of_run(run, split, exits, reference)
        for method in methods:
            for exit in exits:
                options = _options(run, method, split, exit)
                units = _units(run, method, options, lang_dir)
                rows.append(
                    {
                        **{key: record[key] for key in ("corpus", "method", "seed")},
                        "init_from": record.get("init_from"),
                        "exit": exit,
                        "parameters": record["parameters"][exit],
                        "decoder": method,
                        "options": options,
                        "split": split,
                        **_score(run, method, split, exit, texts, rule, units),
                        **agreement[exit],
                        **read_cost(run.search_cost(method, split, exit)),
                        "train_seconds": record["seconds"],
                        "peak_memory_mib": record["peak_memory_mib"],
                        "trained_at": record["revision"],
                        "revision": revision(),
                    }
                )
    whole = [*_kept(run, record, rows, rule), *rows]
    order = list(dict.fromkeys([*references, *(row["split"] for row in whole)]))
    whole.sort(key=lambda row: order.index(row["split"]))  # dev and test first: tables go by it
    for split, method in dict.fromkeys((row["split"], row["decoder"]) for row in rows):
        summary = [row for row in whole if (row["split"], row["decoder"]) == (split, method)]
        write_summary(run.decoded(method) / f"wer-summary-{split}.txt", summary)
    write_jsonl(run.results, whole)
    return rows


def _kept(run: RunDir, record: dict[str, Any], rows: Sequence[dict[str, Any]], rule: str) -> list[dict[str, Any]]:
    """Earlier result rows of the same training and text normalisation, in the places of which none comes now."""
    try:
        before = read_jsonl(run.results) if run.results.is_file() else []
    except UserError:  # damaged: what was scored now stands for itself
        return []
    place = itemgetter("split", "decoder", "exit")
    now = set(map(place, rows))
    return [
        row
        for row in before
        if not _wrong_fields(row)
        and (row["train_seconds"], row["trained_at"]) == (record["seconds"], record["revision"])
        and row.get("normalize") == rule
        and place(row) not in now
        and run.hypotheses(row["decoder"], row["split"], row["exit"]).is_file()
    ]


def _score(
    run: RunDir, method: str, split: str, exit: str, references: Mapping[str, Reference], rule: str, units: Units
) -> dict[str, Any]:
    """Write recogs-, errs-, cers-, breakdown-, ref-, hyp- and utterances- files; returns the result row's figures."""
    normalize = scoring_rule(rule)
    scored = score_utterances(run.hypotheses(method, split, exit), references, normalize, units)
    folder, stem = run.decoded(method), f"{split}-{exit}"
    words = [(u.cut_id, u.reference.text.split(), u.hypothesis.split()) for u in scored]
    chars = [(u.cut_id, units.parts(u.reference.text), units.parts(u.hypothesis)) for u in scored]
    write_recogs(folder / f"recogs-{stem}.txt", words)
    stats = write_errs(folder / f"errs-{stem}.txt", words)
    cer = write_errs(folder / f"cers-{stem}.txt", chars)
    write_breakdown(folder / f"breakdown-{stem}.tsv", scored)
    write_trn(folder / f"ref-{stem}.trn", folder / f"hyp-{stem}.trn", scored)
    write_jsonl(run.utterances(method, split, exit), (u.row() for u in scored))
    low, high = bootstrap_interval([u.words.errors for u in scored], [u.words.words for u in scored])
    cer_low, cer_high = bootstrap_interval([u.chars.errors for u in scored], [u.chars.words for u in scored])
    return {
        "unit": units.name,
        "normalize": rule,
        "utterances": len(scored),
        "failed": [u.cut_id for u in scored if u.failure],
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
        "ser": round(sentence_error_rate([u.words for u in scored]), 2),
        **oracle_figures(run.nbest(method, split, exit), scored, normalize),
    }


def describe(row: dict[str, Any]) -> str:
    """A result row in a line."""
    phones = row.get("unit") == "phone"
    rates = {"PER": "wer"} if phones else {"WER": "wer", "CER": "cer"}
    rates = {**rates, "SER": "ser", "oracle PER" if phones else "oracle WER": "oracle_wer"}
    shown = "  ".join(f"{name} {row[key]:.2f}" for name, key in rates.items() if key in row)
    failed = f"  ({len(row['failed'])} failed, counted as deleted: {' '.join(row['failed'])})" if row["failed"] else ""
    return f"{row['split']} {row['exit']} {row['decoder']}: {shown}{failed}"


def _units(run: RunDir, method: str, options: dict[str, Any], lang_dir: Path | None) -> Units:
    if lang_dir is not None:
        return units_of(search_name(method), options, lang_dir)
    if (run.path / "tokens.txt").is_file() and not TokenTable.load(run.path).spells:
        raise UserError(f"{run.path}: its tokens are phones, so scoring wants --lang: the lang dir that spells words")
    return WORDS


def _options(run: RunDir, method: str, split: str, exit: str) -> dict[str, Any]:
    """The options that a search was made with, from its marker."""
    marker = run.hypotheses_marker(method, split, exit)
    if not marker.is_file():
        raise UserError(f"{run.hypotheses(method, split, exit)} is not whole ({marker.name} is missing): run stage 4")
    return {key: value for key, value in read_json(marker).items() if not key.startswith(FILE)}


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
    rows = []
    for path in result_files(exp_dir):
        seen: set[tuple[Any, ...]] = set()
        for number, row in enumerate(read_jsonl(path), start=1):
            where = f"{path}: line {number}"
            if wrong := _wrong_fields(row):
                raise UserError(f"{where}: '{wrong[0]}' is missing or of another kind: damaged, run stage 5 again")
            key = tuple(row[name] for name in ("method", "seed", "exit", "decoder", "split"))
            if key in seen:
                raise UserError(f"{where} stands twice: damaged, run stage 5 again")
            seen.add(key)
            rows.append({**row, "folder": str(path.parent)})
    if not rows:
        raise UserError(f"no results below {exp_dir}: run stage 5")
    return rows


def _wrong_fields(row: dict[str, Any]) -> list[str]:
    """The fields of a result row that a table could not read."""
    wrong = [key for key in TEXTS if not isinstance(row.get(key), str)]
    wrong += [key for key in OPTIONAL_TEXTS if not isinstance(row.get(key), (str, type(None)))]
    wrong += [key for key in NUMBERS if not is_number(row.get(key))]
    wrong += [key for key in OPTIONAL_NUMBERS if row.get(key) is not None and not is_number(row[key])]
    if row.get("normalize") not in (None, *SCORING_RULES):
        wrong.append("normalize")
    if type(row.get("seed")) is not int:
        wrong.append("seed")
    return wrong
