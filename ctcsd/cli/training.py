"""Commands of training: a method, and the plan of several."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, List, Optional

import typer

from ctcsd.cli.app import CONFIG, DATA, EXIT, LANG, METHOD, OVERRIDES, RUN, app
from ctcsd.errors import UserError

if TYPE_CHECKING:
    from ctcsd.config import Config


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
    from ctcsd.train.run import fit_run

    fit_run(cfg, data, lang, run)


@app.command()
def export(
    run: Path = RUN,
    exit: str = typer.Option(..., "--exit", help="The exit at which the model ends."),
    out: Path = typer.Option(..., "--out", help="A new folder for model.safetensors, config.yaml and tokens.txt."),
    onnx: bool = typer.Option(False, "--onnx", help="And for model.onnx, which sherpa-onnx runs."),
    int8: bool = typer.Option(False, "--int8", help="And for model.int8.onnx, with 8-bit weights."),
) -> None:
    """Write one exit of a trained model, without the layers above it, to hand on.

    The run's prior of that exit goes with it. With --onnx also as sherpa-onnx reads it: it is run once and compared;
    docs/export.md tells how to use it.
    """
    from ctcsd.export.exit_alone import export_run

    parameters = export_run(run, exit, out, onnx, int8)
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
    Where k2 works nowhere, the recipe's k2 searches are left out: behind the lang dir stands the override that does it.
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
    if decodes:
        _check_language_model(configs[0])
    print(configs[0].lang.name, *(_without_k2(configs[0], overrides or []) if decodes else []))
    for spec, cfg in ordered.items():
        print(cfg.method, spec)


def _check_language_model(cfg: Config) -> None:
    from ctcsd.decode.graphs import LM
    from ctcsd.decode.run import search_options
    from ctcsd.decode.search import lang_files, search_name

    for name in cfg.decode.methods:
        files = lang_files(search_name(name), search_options(name, cfg.decode))
        if LM in files and not cfg.lang.lm_order and not cfg.lang.lm_arpa:
            raise UserError(f"{name} wants a language model, and lang.lm_order=0 makes none: set decode.methods too")


def _without_k2(cfg: Config, overrides: List[str]) -> List[str]:
    """The override that leaves the recipe's k2 searches out, where k2 works nowhere and nobody asked for them."""
    from ctcsd.decode.run import need_k2
    from ctcsd.decode.search import k2_methods

    with_k2 = k2_methods(cfg.decode.methods)
    if not with_k2:
        return []
    try:
        need_k2(with_k2)
    except UserError as error:
        others = [name for name in cfg.decode.methods if name not in with_k2]
        if not others or any(given.startswith("decode.methods=") for given in overrides):
            raise
        print(f"note: left out: {error}", file=sys.stderr, flush=True)
        return [f"decode.methods=[{','.join(others)}]"]
    return []


@app.command("estimate")
def estimate_costs(
    method: List[str] = typer.Option(..., "--method", "-m", help=f"{METHOD}; may be repeated."),
    hours: float = typer.Option(960.0, min=0.0, help="Hours of training audio, without copies at features.speeds."),
    lang: Optional[Path] = typer.Option(
        None, "--lang", help="Lang dir, whose tokens are counted; without one: 32 characters, 80 phones."
    ),
    tflops: float = typer.Option(312.0, min=0.001, help="What the GPU does at best, 10^12/s: 312 is an A100's bf16."),
    mfu: float = typer.Option(0.3, min=0.001, max=1.0, help="The share of it that the training reaches."),
    config: Optional[List[Path]] = CONFIG,
    overrides: Optional[List[str]] = OVERRIDES,
) -> None:
    """What methods will cost, from the sizes of their models: nothing is trained, no weights are loaded."""
    from ctcsd.config import method_config
    from ctcsd.text.tokenizer import TokenTable
    from ctcsd.train.estimate import epoch_hours, estimate
    from ctcsd.train.method import check, with_dependencies

    tokens = len(TokenTable.load(lang)) if lang else 0

    def configuration(name: str) -> Config:
        cfg = method_config(name, config or [], overrides or [])
        cfg.model.vocab_size = tokens
        return cfg

    print("| method | parameters (M) | GFLOP per audio-hour | GPU hours | a pass forward | memory (GiB) |")
    print("|---|---|---|---|---|---|")
    for cfg in with_dependencies(method, configuration).values():
        check(cfg)
        cost = estimate(cfg, configuration, hours, tflops, mfu)
        exits = ", ".join(f"{name} {count / 1e6:.1f}" for name, count in cost.parameters.items())
        gpu_hours = " | ".join(map(_two_digits, (cost.gpu_hours, cost.forward_hours)))
        print(f"| {cfg.method} | {exits} | {cost.gflop_per_hour:,.0f} | {gpu_hours} | {cost.memory_gib:.1f} |")
    audio = f"{hours:g} h of audio, {epoch_hours(cfg, hours):.4g} h in an epoch, train.epochs={cfg.train.epochs}"
    print(f"\n{audio}, a GPU of {tflops:g} TFLOP/s at {100 * mfu:g} %")


def _two_digits(value: float) -> str:
    """Two significant digits, and all of those before the point."""
    return f"{value:,.0f}" if value >= 9.95 else f"{value:#.2g}"
