"""Stage 4b for a whole run: every archive, every method, each in an interpreter that can do it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ctcsd.config import Config, DecodeConfig, search_config
from ctcsd.decode.cost import Cost
from ctcsd.decode.graphs import DEFAULT_LM_SCALE, graph_scale
from ctcsd.decode.hypothesis import Hypothesis, write_hypotheses, write_nbest
from ctcsd.decode.search import BEAMS, METHODS, PRIOR, RESCORE, k2_methods, lang_files, search, search_name
from ctcsd.errors import SomeFailed, UserError
from ctcsd.files import write_text
from ctcsd.k2_env import find_k2_python
from ctcsd.posteriors import DamagedManifest, PosteriorReader
from ctcsd.run_dir import RunDir
from ctcsd.stamp import depends, mark, up_to_date


def search_options(method: str, cfg: DecodeConfig) -> dict[str, Any]:
    """The options of a method, or variant, out of the configuration; those of a prior only where one is used.

    Results tell them, so that none is left to a default of the search's own.

    Raises:
        UserError: no such method; an option that it does not take, of `per_method` or of the variant.
    """
    name = search_name(method)
    changed = [change.partition("=")[0] for change in method.split("+")[1:]]
    given, cfg, method = cfg.per_method.get(name) or {}, search_config(cfg, method), name
    for option in (*changed, *given):
        if option not in METHODS[name]:
            raise UserError(f"search method '{name}' takes no option '{option}'; known: {', '.join(METHODS[name])}")
    names = [name for name in METHODS[method] if cfg.prior_scale or name not in PRIOR]
    options = {name: getattr(cfg, name) for name in names if hasattr(cfg, name)}
    if "lm_scale" in options and options["lm_scale"] is None:
        lms = ("lexicon", "token_lm") if method == "beam" else ()
        with_lm = any(options[key] for key in lms) if lms else options.get("graph", "HLG") == "HLG"
        options["lm_scale"] = DEFAULT_LM_SCALE if with_lm else 0.0
    if "rescore_scale" in options and options["rescore_scale"] is None:
        options["rescore_scale"] = options["lm_scale"] or DEFAULT_LM_SCALE  # 0 on HL: a list may be rescored there
    if method == "k2-nbest" and options["rescore_lm"] is None:
        options = {name: value for name, value in options.items() if name not in RESCORE}
    for option, default in BEAMS.get(method, {}).items():
        if options[option] is None:
            options[option] = default
    if "graph" in options:
        graph_scale(options["graph"], options["lm_scale"])
    return options


def with_prior(options: dict[str, Any], run: RunDir, exit: str) -> dict[str, Any]:
    """The options with the exit's own prior, where they want one and name none."""
    return {**options, "prior": str(options["prior"] or run.prior(exit))} if "prior" in options else options


def search_run(
    run: Path,
    lang_dir: Path,
    cfg: Config,
    exits: Sequence[str],
    methods: Sequence[str],
    k2_python: Path | None = None,
    here: bool = False,
) -> None:
    """Decode dev and the test sets at the given exits with the given methods.

    Args:
        k2_python: the interpreter for k2's methods; found when None.
        here: never hand over to another interpreter.

    Raises:
        UserError: an unknown method, or no interpreter with a working k2 for a method that needs it.
        SomeFailed: at the end, utterances that could not be decoded.
    """
    for method in methods:
        search_name(method)
    python = None if here else k2_interpreter(methods, k2_python)
    elsewhere = k2_methods(methods) if python else []
    failed: list[Path] = []
    for method in methods:
        if method not in elsewhere:
            options = search_options(method, cfg.decode)
            for split in cfg.data.decoded:
                for exit in exits:
                    failed += _search_archive(RunDir(run), lang_dir, split, exit, method, options)
    notes = []
    if failed:
        count = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in failed)
        which = ", ".join(map(str, failed))
        notes = [f"{count} utterances could not be decoded and have empty hypotheses; which and why: {which}"]
    code = _hand_over(run, lang_dir, cfg, exits, elsewhere, python) if elsewhere else 0
    if code not in (0, UserError.code, SomeFailed.code):  # of those it has said why
        notes.append(f"the search under {python} ended with code {code}")
    if failed or code:
        raise (SomeFailed if code in (0, SomeFailed.code) else UserError)("; ".join(notes))


def _search_archive(
    run: RunDir, lang_dir: Path, split: str, exit: str, method: str, options: dict[str, Any]
) -> list[Path]:
    """Decode an archive unless that is done; returns the list of failed utterances, where there are some."""
    target = run.hypotheses(method, split, exit)
    marker = run.hypotheses_marker(method, split, exit)
    failed = target.with_name(f"failed-{split}-{exit}.txt")
    options = with_prior(options, run, exit)
    name = search_name(method)
    files = [run.archive_marker(split, exit), *(lang_dir / file for file in lang_files(name, options))]
    files += [Path(options[key]) for key in ("prior", "rescore_lm", "token_lm") if options.get(key)]
    needs = depends(options, files)
    lists = [run.nbest(method, split, exit)] if name == "k2-nbest" or options.get("nbest") else []
    if not up_to_date(f"{method} on {split} {exit}", marker, needs, [target, *lists], keep=True):
        reader = PosteriorReader(run.archive(split, exit), lang_dir)
        failures: dict[str, str] = {}
        fallbacks: Counter[str] = Counter()
        cost = Cost()
        found = search(reader, lang_dir, name, **options)  # or refuses the options, and what is there stays
        for stale in (marker, run.nbest(method, split, exit)):
            stale.unlink(missing_ok=True)
        cost.start()
        if lists:
            found = write_nbest(lists[0], found)
        count = write_hypotheses(target, _note(found, failures, fallbacks))
        failed.unlink(missing_ok=True)
        if failures:
            write_text(failed, "".join(f"{cut_id}\t{why}\n" for cut_id, why in failures.items()))
        figures = cost.figures(reader.seconds)
        write_text(run.search_cost(method, split, exit), json.dumps(figures) + "\n")
        mark(marker, needs)
        tail = "".join(f", {number} by {how}" for how, number in sorted(fallbacks.items()))
        tail += f", {len(failures)} failed" if failures else ""
        seconds = figures["search_seconds"]
        print(f"{method} on {split} {exit}: {count} utterances in {seconds:.1f} s{tail}", flush=True)
    return [failed] if failed.is_file() else []


def _note(hypotheses: Iterable[Hypothesis], failures: dict[str, str], fallbacks: Counter[str]) -> Iterator[Hypothesis]:
    try:
        for hypothesis in hypotheses:
            if hypothesis.fallback:
                fallbacks[hypothesis.fallback] += 1
            if hypothesis.failure:
                failures[hypothesis.cut_id] = hypothesis.failure
            yield hypothesis
    except DamagedManifest as error:
        failures["(all others)"] = str(error)


def k2_interpreter(methods: Sequence[str], k2_python: Path | None = None) -> Path | None:
    """The interpreter to run k2's methods under, as given or found; None where that is this one, or there are none."""
    with_k2 = k2_methods(methods)
    python = (k2_python or need_k2(with_k2)).absolute() if with_k2 else None
    return None if python == Path(sys.executable).absolute() else python


def need_k2(methods: Sequence[str]) -> Path:
    """The interpreter in which k2's search methods work; UserError where there is none."""
    python = find_k2_python()
    if python is None:
        raise UserError(
            f"{', '.join(methods)}: no interpreter here has a working k2 ('ctcsd doctor' says why); "
            "tools/setup.sh makes one, or name other searches with decode.methods=[...]"
        )
    return python


def _hand_over(
    run: Path, lang_dir: Path, cfg: Config, exits: Sequence[str], methods: Sequence[str], python: Path | None
) -> int:
    """Search in another interpreter; its exit code."""
    command = [str(python), "-m", "ctcsd", "search", "--run", str(run), "--lang", str(lang_dir)]
    command += ["--here", f"data.dev={cfg.data.dev}", f"data.test={cfg.data.test}"]
    command.append(f"data.more_tests={json.dumps(cfg.data.more_tests)}")
    command += [part for exit in exits for part in ("--exit", exit)]
    command += [part for method in methods for part in ("--method", method)]
    options = {name: value for name, value in vars(cfg.decode).items() if name != "methods"}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in options.items()}
    command += [f"decode.{name}={text}" for name, text in texts.items()]  # None too: run's may differ
    return subprocess.run(command, check=False).returncode
