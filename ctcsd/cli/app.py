"""The application, the options that several commands share, and how they become a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

import typer

from ctcsd.errors import UserError

if TYPE_CHECKING:
    from ctcsd.config import Config

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # which would take what stands in brackets
    help="Train, distill, decode and ship CTC speech recognisers. `./run.sh` calls these commands stage by stage.",
)

METHOD = "A method of ctcsd/conf/methods, or a YAML file; NAME+KEY=VALUE is a variant with a folder of its own"
CONFIG = typer.Option(
    None,
    "--config",
    "-c",
    help="YAML file; may be given several times: later ones win, and the method's own above all.",
)
DECODE_CONFIG = typer.Option(
    None, "--config", "-c", help="YAML file whose decode and score sections and test sets count."
)
OVERRIDES = typer.Argument(None, metavar="[KEY=VALUE]...", help="Overrides, such as train.lr=0.0005.")
DATA = typer.Option(..., "--data", help="Data folder of the corpus (manifests/, fbank80/).")
LANG = typer.Option(..., "--lang", help="Lang dir (tokens.txt).")
RUN = typer.Option(..., "--run", help="Folder of the run: exp/<preset>/<method>/seed<n>.")
EXIT = typer.Option(None, "--exit", help="Only this exit; may be given several times. Default: all.")
SEARCH_METHOD = typer.Option(None, "--method", help="Search method; default: decode.methods.")
JOBS = typer.Option(2, "--jobs", "-j", min=1, help="Processes.")


def plain_config(files: Optional[List[Path]], overrides: Optional[List[str]]) -> Config:
    from ctcsd.config import load_config

    return load_config(files or [], overrides or [])


def run_config(run: Path, files: Optional[List[Path]], overrides: Optional[List[str]]) -> Config:
    """The configuration that a run was trained with; decode and score sections and test sets are those of the files."""
    if not (run / "config.yaml").is_file():
        raise UserError(f"no run at {run} (config.yaml is missing): run stage 3")
    cfg = plain_config([run / "config.yaml"], overrides)
    if files:
        given = plain_config(files, overrides)
        cfg.decode, cfg.score = given.decode, given.score
        cfg.data.test, cfg.data.more_tests = given.data.test, given.data.more_tests
    return cfg


def chosen_exits(cfg: Config, wanted: Optional[List[str]]) -> List[str]:
    """The wanted exits that a run has; where it has none of them, the command has nothing to do and ends well."""
    known = list(cfg.model.exits)
    chosen = [name for name in known if not wanted or name in wanted]
    if not chosen:
        print(f"{cfg.method} has no exit {' or '.join(wanted or [])}, only {', '.join(known)}: skipped")
        raise typer.Exit(0)
    return chosen
