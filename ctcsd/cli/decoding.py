"""Commands of decoding: posteriors, search, sweeps, times of words."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict, List, Optional

import typer

from ctcsd.cli.app import (
    DATA,
    DECODE_CONFIG,
    EXIT,
    JOBS,
    LANG,
    OVERRIDES,
    RUN,
    SEARCH_METHOD,
    app,
    chosen_exits,
    run_config,
)
from ctcsd.errors import SomeFailed, UserError


@app.command()
def posteriors(
    run: Path = RUN,
    data: Path = DATA,
    lang: Path = LANG,
    exit: Optional[List[str]] = EXIT,
    split: Optional[List[str]] = typer.Option(None, "--split", help="Split; may be repeated. Default: dev and tests."),
    top_k: int = typer.Option(0, min=0, help="Keep only the k most probable tokens of a frame; 0 keeps all."),
    config: Optional[List[Path]] = DECODE_CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 4a: the log-posteriors of every exit on dev and test (on train: the archive of a stored teacher)."""
    from ctcsd.config import search_config
    from ctcsd.train.infer import posteriors_run, prior_run

    cfg = run_config(run, config, overrides)
    posteriors_run(run, data, lang, cfg, chosen_exits(cfg, exit), split or cfg.data.decoded, top_k)
    searches = [search_config(cfg.decode, method) for method in cfg.decode.methods]
    if any(options.prior_scale and options.prior is None for options in searches):
        prior_run(run, data, lang, cfg, chosen_exits(cfg, exit))


@app.command()
def search(
    run: Path = RUN,
    lang: Path = LANG,
    exit: Optional[List[str]] = EXIT,
    method: Optional[List[str]] = SEARCH_METHOD,
    k2_python: Optional[Path] = typer.Option(None, help="Interpreter that has k2; found by itself as a rule."),
    here: bool = typer.Option(False, "--here", hidden=True),
    config: Optional[List[Path]] = DECODE_CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 4b: from posteriors to hypotheses; methods of k2 run in the interpreter that has it."""
    from ctcsd.decode.run import search_run

    cfg = run_config(run, config, overrides)
    search_run(run, lang, cfg, chosen_exits(cfg, exit), list(method or cfg.decode.methods), k2_python, here)


@app.command()
def transcribe(
    audio: List[Path] = typer.Argument(..., help="Audio files of any format, rate and number of channels."),
    run: Path = typer.Option(..., "--run", help="Folder of the run, or one that `ctcsd export` wrote."),
    exit: str = typer.Option("student", "--exit", help="Exit whose posteriors are searched."),
    method: str = typer.Option("greedy", "--method", help="Search; NAME+KEY=VALUE sets options of it."),
    lang: Optional[Path] = typer.Option(None, "--lang", help="Lang dir, for a search with words.  [default: RUN]"),
) -> None:
    """Recognise audio files: a line `FILE<tab>TEXT` for each, in their order.

    Options of the search are those of the recipe that the run was trained with. Example:
    --run egs/fotaq/exp/default/skd/seed1 --method wfst --lang egs/fotaq/data/lang_char *.wav
    """
    from ctcsd.export.transcribe import transcribe

    cfg = run_config(run, None, None)
    if exit not in cfg.model.exits:
        raise UserError(f"{run} has no exit '{exit}', only {', '.join(cfg.model.exits)}")
    failed = 0
    for hypothesis in transcribe(run, cfg, exit, lang or run, method, dict.fromkeys(audio)):
        if hypothesis.failure:
            failed += 1
            print(f"{hypothesis.cut_id}: {hypothesis.failure}", file=sys.stderr, flush=True)
        else:
            print(f"{hypothesis.cut_id}\t{hypothesis.text}", flush=True)
    if failed:
        raise SomeFailed(f"{failed} of {len(set(audio))} files could not be recognised (listed above)")


@app.command()
def sweep(
    run: Path = RUN,
    data: Path = DATA,
    lang: Path = LANG,
    exit: str = typer.Option("student", "--exit", help="Exit whose posteriors are searched."),
    method: str = typer.Option(..., "--method", help="Search method, such as beam or wfst."),
    grid: List[str] = typer.Option(..., "--grid", help="Axis OPTION=VALUE,VALUE,... of decode; may be repeated."),
    jobs: int = JOBS,
    config: Optional[List[Path]] = DECODE_CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Try a grid of search options on dev, take the best by WER, and apply it to test once.

    Writes every setting's WER, CER, real-time factor and failed utterances as sweep-EXIT.csv, a picture as
    sweep-EXIT.png, and what the best gives on both as sweep-EXIT.json, into RUN/decode/METHOD. Example:
    --method beam --grid lm_scale=0.3,0.5,0.8 --grid word_score=-1,0,1 decode.lexicon=true
    """
    from ctcsd.config import search_config
    from ctcsd.data.batches import references
    from ctcsd.data.features import cuts_file
    from ctcsd.decode.run import k2_interpreter, search_options, with_prior
    from ctcsd.decode.search import search_name
    from ctcsd.run_dir import RunDir
    from ctcsd.score.plot import plot_sweep
    from ctcsd.score.sweep import best_of, evaluate, grid_of, write_best, write_csv
    from ctcsd.score.sweep import sweep as search_grid
    from ctcsd.train.infer import prior_run

    name = search_name(method)
    where = f"decode.per_method.{name}"  # which goes above decode.KEY
    python = k2_interpreter([name])
    settings = []
    for setting in grid_of(grid):
        wished = [f"{where}.{key}={value}" for key, value in setting.items()]
        options = search_options(method, run_config(run, config, [*(overrides or []), *wished]).decode)
        settings.append((setting, with_prior(options, RunDir(run), exit)))
    cfg = run_config(run, config, overrides)
    chosen_exits(cfg, [exit])
    if any("prior" in options for _, options in settings) and search_config(cfg.decode, method).prior is None:
        prior_run(run, data, lang, cfg, [exit])
    spoken = {split: references(cuts_file(data, cfg, split)) for split in (cfg.data.dev, cfg.data.test)}
    texts = {split: {cut_id: cut.text for cut_id, cut in cuts.items()} for split, cuts in spoken.items()}
    files = RunDir(run)
    rule = cfg.score.normalize
    dev, tests = (files.archive(split, exit) for split in (cfg.data.dev, cfg.data.test))
    points = search_grid(dev, lang, name, settings, texts[cfg.data.dev], jobs, rule, python)
    best = best_of(points)
    folder = files.decoded(method)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / f"sweep-{exit}.csv", points)
    plot_sweep(folder / f"sweep-{exit}.png", points, f"{method} on {cfg.data.dev} {exit}")
    options = next(options for setting, options in settings if setting == best.setting)
    test = evaluate(tests, lang, name, best.setting, options, texts[cfg.data.test], rule, python)
    found = {f"{where}.{key}": value for key, value in best.setting.items()}
    write_best(folder / f"sweep-{exit}.json", found, {cfg.data.dev: best, cfg.data.test: test})
    best_overrides = " ".join(f"{key}={value}" for key, value in found.items())
    print(f"best of {len(points)} on {cfg.data.dev}: {best_overrides}")
    print(f"{cfg.data.dev}: WER {best.wer:.2f}  CER {best.cer:.2f}")
    print(f"{cfg.data.test}: WER {test.wer:.2f}  CER {test.cer:.2f}  real-time factor {test.rtf:.5f}")
    failed = {cfg.data.dev: best.failed, cfg.data.test: test.failed}
    if any(failed.values()):
        counts = " and ".join(f"{count} of {split}" for split, count in failed.items() if count)
        raise SomeFailed(f"{counts} could not be decoded and count as empty: `ctcsd search --method {name}` says which")


@app.command()
def align(
    run: Path = RUN,
    data: Path = DATA,
    lang: Path = LANG,
    exit: str = typer.Option("student", "--exit", help="Exit whose posteriors count."),
    split: str = typer.Option("test", "--split", help="Split; its posteriors are made where they are missing."),
    hypotheses: Optional[str] = typer.Option(
        None, help="Align what this search method recognised, not the transcript."
    ),
    out: Optional[Path] = typer.Option(None, help="CTM file.  [default: RUN/times/SPLIT-EXIT[-METHOD].ctm]"),
    textgrids: Optional[Path] = typer.Option(None, help="Folder for a TextGrid per cut (Praat)."),
    by_token: bool = typer.Option(False, "--tokens", help="Write a second CTM, of tokens: OUT with -tokens.ctm."),
) -> None:
    """When each word was said: forced alignment of transcripts, or of hypotheses, with confidences, as CTM."""
    from ctcsd.data.batches import references
    from ctcsd.data.features import cuts_file
    from ctcsd.decode.hypothesis import read_hypotheses
    from ctcsd.decode.times import words_of_phones, write_times
    from ctcsd.posteriors import PosteriorReader
    from ctcsd.run_dir import RunDir
    from ctcsd.text.tokenizer import Tokenizer, UnknownWord
    from ctcsd.train.infer import posteriors_run

    cfg = run_config(run, None, None)
    posteriors_run(run, data, lang, cfg, chosen_exits(cfg, [exit]), [split])
    files = RunDir(run)
    unknown: Dict[str, str] = {}
    tokenizer = Tokenizer(lang)
    tokens, texts = {}, {}
    if hypotheses:
        for h in read_hypotheses(files.hypotheses(hypotheses, split, exit)):
            tokens[h.cut_id], texts[h.cut_id] = h.tokens, h.text
            if h.failure:
                unknown[h.cut_id] = h.failure
    else:
        for cut_id, cut in references(cuts_file(data, cfg, split)).items():
            try:
                tokens[cut_id], texts[cut_id] = tokenizer.encode(cut.text), cut.text
            except UnknownWord as error:
                unknown[cut_id] = str(error)
    parts, wordless = words_of_phones(tokens, texts, tokenizer, first_only=not hypotheses)
    unknown.update(wordless)
    tokens = {cut_id: found for cut_id, found in tokens.items() if cut_id not in unknown}
    target = out or run / "times" / f"{split}-{exit}{f'-{hypotheses}' if hypotheses else ''}.ctm"
    beside = target.with_name(f"{target.stem}-tokens.ctm") if by_token else None
    failed = write_times(PosteriorReader(files.archive(split, exit), lang), tokens, target, textgrids, beside, parts)
    print(f"{target}: {len(tokens) - len(failed)} cuts aligned")
    failed.update(unknown)
    for cut_id, reason in failed.items():
        print(f"not aligned: {cut_id}: {reason}")
    if failed:
        raise SomeFailed(f"{len(failed)} of {len(tokens) + len(unknown)} cuts could not be aligned (listed above)")
