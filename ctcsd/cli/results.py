"""Commands on results: scores, comparisons of archives, tables."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer

from ctcsd.cli.app import DATA, DECODE_CONFIG, EXIT, OVERRIDES, RUN, SEARCH_METHOD, app, chosen_exits, run_config
from ctcsd.config import Config
from ctcsd.run_dir import RunDir

TEACHER = "ctc_teacher"  # the separate teacher that the students of a folder of runs are compared with


@app.command()
def score(
    run: Path = RUN,
    data: Path = DATA,
    exit: Optional[List[str]] = EXIT,
    method: Optional[List[str]] = SEARCH_METHOD,
    lang: Optional[Path] = typer.Option(None, "--lang", help="Lang dir; needed where its tokens are phones."),
    config: Optional[List[Path]] = DECODE_CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 5: WER, CER and SER, intervals, error files, breakdown by speaker and length, frame agreement."""
    from ctcsd.data.batches import references
    from ctcsd.data.features import cuts_file
    from ctcsd.files import writing
    from ctcsd.score.run import describe, score_run

    cfg = run_config(run, config, overrides)
    spoken = {split: references(cuts_file(data, cfg, split)) for split in cfg.data.decoded}
    reference = _teacher_of(cfg, run)
    methods, exits = list(method or cfg.decode.methods), chosen_exits(cfg, exit)
    with writing(run):
        rows = score_run(RunDir(run), spoken, methods, exits, reference, cfg.score.normalize, lang)
    for row in rows:
        print(describe(row))


def _teacher_of(cfg: Config, run: Path) -> RunDir | None:
    """The run of the separate teacher: the one that it learnt from, else the one beside it."""
    beside = run.parent.parent / TEACHER / run.name
    named = Path(cfg.distill.checkpoint) if cfg.distill.checkpoint else beside
    if cfg.method == TEACHER:
        return None
    if not (named / "train.json").is_file() and named.parts[-2:] == beside.parts[-2:]:
        named = beside  # the folder of all the runs was moved, or is another one from here
    if (named / "train.json").is_file():
        return RunDir(named)
    if cfg.distill.checkpoint:
        print(f"the teacher's run is not at {named} any more: not compared with it", flush=True)
    return None


@app.command()
def compare(
    teacher: Path = typer.Argument(..., metavar="TEACHER_ARCHIVE", help="Archive that counts as the reference."),
    student: Path = typer.Argument(..., metavar="STUDENT_ARCHIVE", help="Archive of the same cuts, from another exit."),
    out: Optional[Path] = typer.Option(None, help="Folder for NAME.json (counts, histogram) and NAME.png (a picture)."),
    name: Optional[str] = typer.Option(None, help="Default: <student's folder>-vs-<teacher's folder>."),
) -> None:
    """Compare two exits, or two models, frame by frame: do they say the same, and at the same time?

    An archive is a folder that `ctcsd posteriors` wrote, such as exp/default/skd/seed1/posteriors/dev-teacher.
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
    seed: Optional[List[int]] = typer.Option(None, help="List this seed only; may be given several times."),
) -> None:
    """Stage 5: the tables over every run below a folder, on the screen and in RESULTS.md."""
    from ctcsd.files import write_text
    from ctcsd.score.report import results_report

    text, markdown = results_report(exp, command, method or [], decoder, baseline, seed or [])
    print(text)
    if out:
        write_text(out, markdown)


@app.command()
def relate(
    exp: Path = typer.Argument(..., help="Folder below which the runs lie."),
    x: str = typer.Option("ref_agreement", help="The column of results.jsonl on the x axis."),
    y: List[str] = typer.Option(["cer"], help="The column on the y axis; may be given several times."),
    over: Optional[str] = typer.Option(
        None, metavar="NAME", help="In place of --x: a setting of the methods, whose values --at gives."
    ),
    at: Optional[List[str]] = typer.Option(
        None,
        metavar="VALUE:METHOD",
        help="A method and its place on the x axis, as 0.5:kd_full+distill.frames=partial:0.5.",
    ),
    split: str = typer.Option("dev", help="Split."),
    decoder: str = typer.Option("greedy", help="Search method."),
    out: Path = typer.Option(Path("relation.png"), help="The picture; its numbers go into a .json beside it."),
) -> None:
    """How the students' errors go with their agreement with a teacher, or with a setting of the method.

    One point per method and seed, and the correlation over the methods' means. With --over and --at a curve, such as
    errors and agreement against the share of blank frames that are masked.
    """
    import json

    from ctcsd.errors import UserError
    from ctcsd.files import write_text
    from ctcsd.score.plot import plot_relations
    from ctcsd.score.relation import places_of, relation
    from ctcsd.score.run import read_rows

    if at and not over:
        raise UserError("--at wants --over: the name of what its values are, such as 'masking ratio'")
    places = places_of(at or []) if over else None
    rows = [row for row in read_rows(exp) if row["split"] == split and row["decoder"] == decoder]
    found = [relation(rows, over or x, column, places) for column in y]
    print("\n".join(each.describe() for each in found))
    write_text(out.with_suffix(".json"), json.dumps([each.figures() for each in found], indent=1) + "\n")
    plot_relations(out, found, curve=places is not None)
