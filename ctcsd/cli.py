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
DECODE_CONFIG = typer.Option(None, "--config", "-c", help="YAML file whose decode section counts here.")
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
        compute_features(data, cfg, split, jobs)


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
    config: Optional[List[Path]] = DECODE_CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 4a: the log-posteriors of every exit on dev and test."""
    from ctcsd.train.infer import posteriors_run

    cfg = _run_config(run, config, overrides)
    posteriors_run(run, data, lang, cfg, _exits(cfg, exit))


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

    cfg = _run_config(run, config, overrides)
    search_run(run, lang, cfg, _exits(cfg, exit), list(method or cfg.decode.methods), k2_python, here)


@app.command()
def score(
    run: Path = RUN,
    data: Path = DATA,
    exit: Optional[List[str]] = EXIT,
    method: Optional[List[str]] = SEARCH_METHOD,
    config: Optional[List[Path]] = DECODE_CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 5: WER and CER with intervals, error files, frame agreement."""
    from ctcsd.data.batches import transcript
    from ctcsd.data.features import cuts_file, load_cuts
    from ctcsd.run_dir import RunDir
    from ctcsd.score.run import score_run

    cfg = _run_config(run, config, overrides)
    splits = (cfg.data.dev, cfg.data.test)
    cuts = {split: load_cuts(cuts_file(data, cfg, split), stage=1) for split in splits}
    references = {split: {cut.id: transcript(cut) for cut in cuts[split]} for split in splits}
    rows = score_run(RunDir(run), references, list(method or cfg.decode.methods), _exits(cfg, exit))
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
    exit: Optional[List[str]] = EXIT,
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Check the configuration of every method, and print the name of the lang dir that they share."""
    from ctcsd.train.method import check

    configs = [_method_config(name, config, overrides) for name in method]
    for cfg in configs:
        check(cfg)
        if (cfg.lang, cfg.features, cfg.data) != (configs[0].lang, configs[0].features, configs[0].data):
            raise UserError(f"{cfg.method} and {configs[0].method} differ in lang, features or data: run them apart")
    for name in exit or []:
        if not any(name in cfg.model.exits for cfg in configs):
            raise UserError(f"none of these methods has an exit '{name}'")
    print(configs[0].lang.name)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def once(
    context: typer.Context,
    marker: Path = typer.Argument(..., help="Done-marker to read and to write."),
    depends: Optional[List[Path]] = typer.Option(None, help="File or folder whose content the output depends on."),
    output: Optional[List[Path]] = typer.Option(None, help="What the command makes: where it is gone, it is made."),
    jobs: int = JOBS,
) -> None:
    """Run SCRIPT ARGUMENTS... --jobs N (a Python script, after --) unless the marker holds the same words, inputs."""
    from ctcsd.stamp import run_once

    neutral = ["--jobs", str(jobs)]
    raise typer.Exit(run_once(marker, list(depends or []), list(output or []), context.args, neutral))


def _config(files: Optional[List[Path]], overrides: Optional[List[str]]) -> Config:
    from ctcsd.config import load_config

    return load_config(files or [], overrides or [])


def _method_config(method: str, files: Optional[List[Path]], overrides: Optional[List[str]]) -> Config:
    from ctcsd.config import load_config, method_file

    path = method_file(method)
    return load_config([*(files or []), path], [f"method={path.stem}", *(overrides or [])])


def _run_config(run: Path, files: Optional[List[Path]], overrides: Optional[List[str]]) -> Config:
    """The configuration that a run was trained with; only its decode section follows the files given now."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"no run at {run} (config.yaml is missing): run stage 3")
    cfg = _config([run / "config.yaml"], overrides)
    if files:
        cfg.decode = _config(files, overrides).decode
    return cfg


def _exits(cfg: Config, wanted: Optional[List[str]]) -> List[str]:
    """The wanted exits that a run has; where it has none of them, the command has nothing to do and ends well."""
    known = list(cfg.model.exits)
    chosen = [name for name in known if not wanted or name in wanted]
    if not chosen:
        print(f"{cfg.method} has no exit {' or '.join(wanted or [])}, only {', '.join(known)}: skipped")
        raise typer.Exit(0)
    return chosen


def main() -> None:
    """Entry of the console script: exit code 1 with one line for what the user can mend."""
    with one_line_errors():
        app(prog_name="ctcsd")


if __name__ == "__main__":
    main()
