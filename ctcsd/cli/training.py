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
    preflight: Optional[bool] = typer.Option(
        None, "--preflight/--no-preflight", help="First try the heaviest batches; default: train.preflight."
    ),
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """Stage 3: train a method; a run that was interrupted goes on from its last checkpoint."""
    from ctcsd.config import method_config

    cfg = method_config(method, config or [], overrides or [])
    if preflight is not None:
        cfg.train.preflight = preflight
    from ctcsd.train.fit import fit_run

    fit_run(cfg, data, lang, run)


@app.command()
def export(
    run: Path = RUN,
    exit: str = typer.Option(..., "--exit", help="The exit at which the model ends."),
    out: Path = typer.Option(..., "--out", help="A new folder for model.safetensors, config.yaml and tokens.txt."),
) -> None:
    """Write one exit of a trained model, without the layers above it, to hand on."""
    from ctcsd.train.export import export_run

    parameters = export_run(run, exit, out)
    print(f"{out}: {run} up to its exit '{exit}', {parameters / 1e6:.2f} M parameters")


@app.command()
def plan(
    method: List[str] = typer.Option(..., "--method", "-m", help=f"{METHOD}; may be repeated."),
    exit: Optional[List[str]] = EXIT,
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
    decodes: bool = typer.Option(False, "--decodes", help="They will be decoded too: k2 must work where it is wanted."),
) -> None:
    """Check every method and those that they depend on.

    Prints the name of the lang dir that they share, then a line `NAME METHOD` for each, in the order of training.
    """
    from ctcsd.config import method_config
    from ctcsd.decode.run import need_k2
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
    with_k2 = [name for name in configs[0].decode.methods if name.startswith("k2-")]
    if decodes and with_k2:
        need_k2(with_k2)
    print(configs[0].lang.name)
    for spec, cfg in ordered.items():
        print(cfg.method, spec)


@app.command("estimate")
def estimate_costs(
    method: List[str] = typer.Option(..., "--method", "-m", help=f"{METHOD}; may be repeated."),
    hours: float = typer.Option(960.0, min=0.0, help="Hours of training audio."),
    tflops: float = typer.Option(312.0, min=0.001, help="What the GPU does at best, 10^12/s: 312 is an A100's bf16."),
    mfu: float = typer.Option(0.3, min=0.001, max=1.0, help="The share of it that the training reaches."),
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """What methods will cost, from the sizes of their models: nothing is trained, no weights are loaded."""
    from ctcsd.config import Config, method_config
    from ctcsd.train.estimate import estimate
    from ctcsd.train.method import check, with_dependencies

    def configuration(name: str) -> Config:
        return method_config(name, config or [], overrides or [])

    print("| method | parameters (M) | GFLOP per audio-hour | GPU hours | memory (GiB) |\n|---|---|---|---|---|")
    for cfg in with_dependencies(method, configuration).values():
        check(cfg)
        cost = estimate(cfg, configuration, hours, tflops, mfu)
        exits = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in cost.parameters.items())
        print(f"| {cfg.method} | {exits} | {cost.gflop_per_hour:,.0f} | {cost.gpu_hours:.1f} | {cost.memory_gib:.1f} |")
    print(f"\n{hours:g} h of audio, train.epochs={cfg.train.epochs}, a GPU of {tflops:g} TFLOP/s at {100 * mfu:g} %")
