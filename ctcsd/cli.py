"""The console script `ctcsd`; every command imports what it needs only when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

import typer

from ctcsd.errors import UserError, one_line_errors

if TYPE_CHECKING:
    from ctcsd.config import Config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train, distill, decode and ship CTC speech recognisers. `./run.sh` calls these commands stage by stage.",
)

CONFIG = typer.Option(None, "--config", "-c", help="YAML file; may be given several times, later ones win.")
OVERRIDES = typer.Argument(None, metavar="[KEY=VALUE]...", help="Overrides, such as train.lr=0.0005.")
DATA = typer.Option(..., "--data", help="Data folder of the corpus (manifests/, fbank/).")
LANG = typer.Option(..., "--lang", help="Lang dir (tokens.txt).")
RUN = typer.Option(..., "--run", help="Folder of the run: exp/<preset>/<method>/seed<n>.")
EXIT = typer.Option(None, "--exit", help="Only this exit; may be given several times. Default: all.")
SEARCH_METHOD = typer.Option(None, "--method", help="Search method; default: decode.methods.")
JOBS = typer.Option(2, "--jobs", "-j", min=1, help="Processes.")


@app.command()
def doctor() -> None:
    """Say what works on this machine: Python, torch, CUDA, lhotse, k2, disk, cores."""
    from ctcsd.doctor import doctor as check

    raise typer.Exit(0 if check() else 1)


@app.command()
def features(
    data: Path = DATA,
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
    jobs: int = JOBS,
) -> None:
    """Stage 1: log-mel filterbank features of the train, dev and test split."""
    from ctcsd.data.features import compute_features

    cfg = _config(config, overrides)
    for split in (cfg.data.train, cfg.data.dev, cfg.data.test):
        speeds = cfg.features.speeds if split == cfg.data.train else []
        compute_features(data, split, cfg.features.num_mel_bins, speeds, jobs)


@app.command()
def lang(
    data: Path = DATA,
    out: Path = typer.Option(..., "--out", help="Lang dir to write."),
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 2: the units (characters or sentencepiece BPE) of the training text."""
    from ctcsd.data.features import lang_of_corpus

    lang_of_corpus(data, out, _config(config, overrides).lang)


@app.command()
def train(
    method: str = typer.Option(..., "--method", "-m", help="A method of ctcsd/conf/methods, or a YAML file."),
    data: Path = DATA,
    lang: Path = LANG,
    run: Path = RUN,
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 3: train a method; a run that was interrupted goes on from its last epoch."""
    cfg = _method_config(method, config, overrides)
    from ctcsd.train.fit import fit_run

    fit_run(cfg, data, lang, run)


@app.command()
def posteriors(
    run: Path = RUN,
    data: Path = DATA,
    lang: Path = LANG,
    exit: Optional[List[str]] = EXIT,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 4a: the log-posteriors of every exit on dev and test."""
    from ctcsd.train.infer import posteriors_run

    cfg = _run_config(run, overrides)
    posteriors_run(run, data, lang, cfg, _exits(list(cfg.model.exits), exit))


@app.command()
def search(
    run: Path = RUN,
    lang: Path = LANG,
    exit: Optional[List[str]] = EXIT,
    method: Optional[List[str]] = SEARCH_METHOD,
    k2_python: Optional[Path] = typer.Option(None, help="Interpreter that has k2; found by itself as a rule."),
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 4b: from posteriors to hypotheses; methods of k2 run in the interpreter that has it."""
    from ctcsd.decode.run import search_run

    cfg = _run_config(run, overrides)
    search_run(run, lang, cfg, _exits(list(cfg.model.exits), exit), list(method or cfg.decode.methods), k2_python)


@app.command()
def score(
    run: Path = RUN,
    data: Path = DATA,
    exit: Optional[List[str]] = EXIT,
    method: Optional[List[str]] = SEARCH_METHOD,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 5: WER and CER with intervals, error files, frame agreement."""
    from ctcsd.data.batches import split_cuts, transcript
    from ctcsd.decode.run import search_options
    from ctcsd.run_dir import RunDir
    from ctcsd.score.run import score_run

    cfg = _run_config(run, overrides)
    splits = (cfg.data.dev, cfg.data.test)
    references = {split: {cut.id: transcript(cut) for cut in split_cuts(cfg, data, split)} for split in splits}
    methods = list(method or cfg.decode.methods)
    options = {name: search_options(name, cfg.decode) for name in methods}
    rows = score_run(RunDir(run), references, methods, _exits(list(cfg.model.exits), exit), options)
    for row in rows:
        print(f"{row['split']} {row['exit']} {row['decoder']}: WER {row['wer']:.2f}  CER {row['cer']:.2f}")


@app.command()
def table(
    exp: Path = typer.Argument(..., help="Folder below which the runs lie."),
    out: Optional[Path] = typer.Option(None, help="Write the table into this Markdown file too."),
    command: str = typer.Option("", help="The command that made the runs, noted in the file."),
) -> None:
    """Stage 5: the table of every run below a folder, on the screen and in RESULTS.md."""
    from ctcsd.score.report import results_report

    text, markdown = results_report(exp, command)
    print(text)
    if out:
        out.write_text(markdown, encoding="utf-8")


@app.command()
def plan(
    method: List[str] = typer.Option(..., "--method", "-m", help="Methods to check."),
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Check the configuration of every method, and print the name of the lang dir that they share."""
    configs = [_method_config(name, config, overrides) for name in method]
    print(configs[0].lang.name)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def once(
    context: typer.Context,
    marker: Path = typer.Argument(..., help="Done-marker to read and to write."),
    depends: Optional[List[Path]] = typer.Option(None, help="File or folder whose content the output depends on."),
) -> None:
    """Run COMMAND (after --) unless it was done with the same words and the same content of what it depends on."""
    from ctcsd.stamp import run_once

    raise typer.Exit(run_once(marker, list(depends or []), context.args))


def _config(files: Optional[List[Path]], overrides: Optional[List[str]]) -> Config:
    from ctcsd.config import load_config

    return load_config(files or [], overrides or [])


def _method_config(method: str, files: Optional[List[Path]], overrides: Optional[List[str]]) -> Config:
    from ctcsd.config import load_config, method_file

    path = method_file(method)
    return load_config([*(files or []), path], [f"method={path.stem}", *(overrides or [])])


def _run_config(run: Path, overrides: Optional[List[str]]) -> Config:
    if not (run / "config.yaml").is_file():
        raise UserError(f"no run at {run} (config.yaml is missing): run stage 3")
    return _config([run / "config.yaml"], overrides)


def _exits(known: List[str], wanted: Optional[List[str]]) -> List[str]:
    """The wanted exits that a run has; a run without a wanted exit (ctc has no teacher) is decoded at the others."""
    if not wanted:
        return known
    chosen = [name for name in known if name in wanted]
    if not chosen:
        raise UserError(f"this run has no exit {' or '.join(wanted)}; it has: {', '.join(known)}")
    return chosen


def main() -> None:
    """Entry of the console script: exit code 1 with one line for what the user can mend."""
    with one_line_errors():
        app(prog_name="ctcsd")


if __name__ == "__main__":
    main()
