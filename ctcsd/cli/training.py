"""Commands of training: a method, and the plan of several."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional

import typer

from ctcsd.cli.app import CONFIG, DATA, EXIT, LANG, METHOD, OVERRIDES, RUN, app
from ctcsd.errors import UserError


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
