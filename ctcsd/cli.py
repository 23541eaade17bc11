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

TEACHER = "ctc_teacher"  # the separate teacher that the students of a folder of runs are compared with
METHOD = "A method of ctcsd/conf/methods, or a YAML file; NAME+KEY=VALUE is a variant with a folder of its own"
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
    """Stage 2: units (characters or sentencepiece BPE), words, lexicon and n-gram model of the training text."""
    from ctcsd.data.features import lang_of_corpus

    lang_of_corpus(data, out, _config(config, overrides).lang)


@app.command()
def lm(
    text: List[Path] = typer.Option(..., "--text", help="Sentences, one per line, plain or .gz; may be repeated."),
    out: Path = typer.Option(..., "--out", help="ARPA file to write."),
    order: int = typer.Option(3, help="1 to 5."),
    prune: str = typer.Option("", help='Leave out n-grams that occur as often or less; per order, such as "0 0 1".'),
    vocab: Optional[Path] = typer.Option(
        None, help="Know these words only (the first of each line, so a lexicon.txt will do); others are <unk>."
    ),
    dev: Optional[List[Path]] = typer.Option(None, "--dev", help="Text whose perplexity to print; may be repeated."),
) -> None:
    """Estimate an n-gram model of words (interpolated modified Kneser-Ney) from text files."""
    from ctcsd.text.arpa import perplexity, read_arpa, write_arpa
    from ctcsd.text.files import lines_of
    from ctcsd.text.ngram import estimate

    if not all(threshold.isdecimal() for threshold in prune.split()):
        raise typer.BadParameter(f"'{prune}' should be whole numbers, such as '0 0 1'", param_hint="--prune")
    vocabulary = [line.split()[0] for line in lines_of(vocab) if line.strip()] if vocab else None
    sentences = (line for path in text for line in lines_of(path))
    model = estimate(sentences, order, [int(threshold) for threshold in prune.split()], vocabulary)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_arpa(model, out)
    print(f"{out}: {model.describe()}", flush=True)
    del model
    if dev:
        arpa = read_arpa(out)
        for path in dev:
            print(f"{path}: {perplexity(arpa, lines_of(path))}")


@app.command()
def train(
    method: str = typer.Option(..., "--method", "-m", help=f"{METHOD}."),
    data: Path = DATA,
    lang: Path = LANG,
    run: Path = RUN,
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 3: train a method; a run that was interrupted goes on from its last epoch."""
    from ctcsd.config import method_config

    cfg = method_config(method, config or [], overrides or [])
    from ctcsd.train.fit import fit_run

    fit_run(cfg, data, lang, run)


@app.command()
def posteriors(
    run: Path = RUN,
    data: Path = DATA,
    lang: Path = LANG,
    exit: Optional[List[str]] = EXIT,
    split: Optional[List[str]] = typer.Option(None, "--split", help="Split; may be repeated. Default: dev and test."),
    top_k: int = typer.Option(0, min=0, help="Keep only the k most probable tokens of a frame; 0 keeps all."),
    config: Optional[List[Path]] = DECODE_CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 4a: the log-posteriors of every exit on dev and test (on train: the archive of a stored teacher)."""
    from ctcsd.train.infer import posteriors_run, prior_run

    cfg = _run_config(run, config, overrides)
    posteriors_run(run, data, lang, cfg, _exits(cfg, exit), split or [cfg.data.dev, cfg.data.test], top_k)
    if cfg.decode.prior_scale and cfg.decode.prior is None:
        prior_run(run, data, lang, cfg, _exits(cfg, exit))


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
    beside = Path(cfg.distill.checkpoint or run.parent.parent / TEACHER / run.name)
    reference = RunDir(beside) if (beside / "train.json").is_file() and cfg.method != TEACHER else None
    rows = score_run(RunDir(run), references, list(method or cfg.decode.methods), _exits(cfg, exit), reference)
    for row in rows:
        print(f"{row['split']} {row['exit']} {row['decoder']}: WER {row['wer']:.2f}  CER {row['cer']:.2f}")


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
) -> None:
    """When each word was said: forced alignment of transcripts, or of hypotheses, with word confidences, as CTM."""
    from ctcsd.data.batches import transcript
    from ctcsd.data.features import cuts_file, load_cuts
    from ctcsd.decode.hypothesis import read_hypotheses
    from ctcsd.decode.times import write_times
    from ctcsd.posteriors import PosteriorReader
    from ctcsd.run_dir import RunDir
    from ctcsd.text.tokenizer import Tokenizer
    from ctcsd.train.infer import posteriors_run

    cfg = _run_config(run, None, None)
    posteriors_run(run, data, lang, cfg, _exits(cfg, [exit]), [split])
    files = RunDir(run)
    if hypotheses:
        tokens = {h.cut_id: h.tokens for h in read_hypotheses(files.hypotheses(hypotheses, split, exit))}
    else:
        encode = Tokenizer(lang).encode
        tokens = {cut.id: encode(transcript(cut)) for cut in load_cuts(cuts_file(data, cfg, split), stage=1)}
    target = out or run / "times" / f"{split}-{exit}{f'-{hypotheses}' if hypotheses else ''}.ctm"
    failed = write_times(PosteriorReader(files.archive(split, exit), lang), tokens, target, textgrids)
    print(f"{target}: {len(tokens) - len(failed)} cuts aligned")
    for cut_id, reason in failed.items():
        print(f"not aligned: {cut_id}: {reason}")
    if failed:
        raise UserError(f"{len(failed)} of {len(tokens)} cuts could not be aligned (listed above)")


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

    Writes every setting's WER, CER and real-time factor as sweep-EXIT.csv, and a picture as sweep-EXIT.png, into
    RUN/decode/METHOD. Example: --method beam --grid lm_scale=0.3,0.5,0.8 --grid word_score=-1,0,1 decode.lexicon=true
    """
    from ctcsd.data.batches import transcript
    from ctcsd.data.features import cuts_file, load_cuts
    from ctcsd.decode.run import search_options, with_prior
    from ctcsd.run_dir import RunDir
    from ctcsd.score.plot import plot_sweep
    from ctcsd.score.sweep import best_of, evaluate, grid_of, write_csv
    from ctcsd.score.sweep import sweep as search_grid

    settings = []
    for setting in grid_of(grid):
        wished = [f"decode.{name}={value}" for name, value in setting.items()]
        options = search_options(method, _run_config(run, config, [*(overrides or []), *wished]).decode)
        settings.append((setting, with_prior(options, RunDir(run), exit)))
    cfg = _run_config(run, config, overrides)
    _exits(cfg, [exit])
    texts = {
        split: {cut.id: transcript(cut) for cut in load_cuts(cuts_file(data, cfg, split), stage=1)}
        for split in (cfg.data.dev, cfg.data.test)
    }
    files = RunDir(run)
    points = search_grid(files.archive(cfg.data.dev, exit), lang, method, settings, texts[cfg.data.dev], jobs)
    best = best_of(points)
    folder = files.decoded(method)
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / f"sweep-{exit}.csv", points)
    plot_sweep(folder / f"sweep-{exit}.png", points, f"{method} on {cfg.data.dev} {exit}")
    options = next(options for setting, options in settings if setting == best.setting)
    test = evaluate(files.archive(cfg.data.test, exit), lang, method, best.setting, options, texts[cfg.data.test])
    print(f"best of {len(points)} on {cfg.data.dev}: {' '.join(f'decode.{k}={v}' for k, v in best.setting.items())}")
    print(f"{cfg.data.dev}: WER {best.wer:.2f}  CER {best.cer:.2f}")
    print(f"{cfg.data.test}: WER {test.wer:.2f}  CER {test.cer:.2f}  real-time factor {test.rtf:.5f}")


@app.command()
def compare(
    teacher: Path = typer.Argument(..., metavar="TEACHER_ARCHIVE", help="Archive that counts as the reference."),
    student: Path = typer.Argument(..., metavar="STUDENT_ARCHIVE", help="Archive of the same cuts, from another exit."),
    out: Optional[Path] = typer.Option(None, help="Folder for NAME.json (counts, histogram) and NAME.png (a picture)."),
    name: Optional[str] = typer.Option(None, help="Default: <student's folder>-vs-<teacher's folder>."),
) -> None:
    """Compare two exits, or two models, frame by frame: do they say the same, and at the same time?

    An archive is a folder that `ctcsd posteriors` wrote, such as exp/quick/skd/seed1/posteriors/dev-teacher.
    Agreement is the share of frames with the same most probable token. A spike is a token that greedy search emits;
    spikes are matched by the edit distance of the two token sequences, and a positive offset means a later student.
    """
    from ctcsd.posteriors import PosteriorReader
    from ctcsd.score.agreement import write_alignment
    from ctcsd.score.alignment import compare_archives
    from ctcsd.score.plot import plot_alignment

    found = compare_archives(PosteriorReader(teacher), PosteriorReader(student))
    print(found.describe())
    if out:
        stem = name or f"{student.name}-vs-{teacher.name}"
        write_alignment(out, stem, found)
        plot_alignment(out / f"{stem}.png", found, stem)


@app.command()
def table(
    exp: Path = typer.Argument(..., help="Folder below which the runs lie."),
    out: Optional[Path] = typer.Option(None, help="Write the tables into this Markdown file too."),
    command: str = typer.Option("", help="The command that made the runs, noted in the file."),
    method: Optional[List[str]] = typer.Option(None, "--method", "-m", help="Methods that stand first, in this order."),
    decoder: Optional[str] = typer.Option(None, help="List this search method only; default: all."),
    baseline: Optional[str] = typer.Option(
        None, help="Compare the others with this method; default: ctc, where it is among others."
    ),
) -> None:
    """Stage 5: the tables over every run below a folder, on the screen and in RESULTS.md."""
    from ctcsd.score.report import results_report

    text, markdown = results_report(exp, command, method or [], decoder, baseline)
    print(text)
    if out:
        out.write_text(markdown, encoding="utf-8")


@app.command()
def plan(
    method: List[str] = typer.Option(..., "--method", "-m", help=f"{METHOD}; may be repeated."),
    exit: Optional[List[str]] = EXIT,
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Check every method and those that they depend on.

    Prints the name of the lang dir that they share, then a line `NAME METHOD` for each, in the order of training.
    """
    from ctcsd.config import method_config
    from ctcsd.train.method import check, with_dependencies

    ordered = with_dependencies(method, lambda name: method_config(name, config or [], overrides or []))
    configs = list(ordered.values())
    for cfg in configs:
        check(cfg)
        if (cfg.lang, cfg.features, cfg.data) != (configs[0].lang, configs[0].features, configs[0].data):
            raise UserError(f"{cfg.method} and {configs[0].method} differ in lang, features or data: run them apart")
    for name in exit or []:
        if not any(name in cfg.model.exits for cfg in configs):
            raise UserError(f"none of these methods has an exit '{name}'")
    print(configs[0].lang.name)
    for spec, cfg in ordered.items():
        print(cfg.method, spec)


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
