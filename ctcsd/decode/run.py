"""Stage 4b for a whole run: every archive, every method, each in an interpreter that can do it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctcsd.decode.hypothesis import write_hypotheses
from ctcsd.decode.search import METHODS, search
from ctcsd.errors import UserError
from ctcsd.k2_env import find_k2_python
from ctcsd.posteriors import PosteriorReader
from ctcsd.run_dir import RunDir
from ctcsd.stamp import depends, mark, up_to_date

if TYPE_CHECKING:
    from ctcsd.config import Config, DecodeConfig


def search_options(method: str, cfg: DecodeConfig) -> dict[str, Any]:
    """The options of a method, out of the configuration's decode section."""
    return {name: getattr(cfg, name) for name in METHODS[method] if hasattr(cfg, name)}


def search_run(
    run: Path,
    lang_dir: Path,
    cfg: Config,
    exits: Sequence[str],
    methods: Sequence[str],
    k2_python: Path | None = None,
    here: bool = False,
) -> None:
    """Decode dev and test at the given exits with the given methods.

    Args:
        k2_python: the interpreter for k2's methods; found when None.
        here: never hand over to another interpreter.

    Raises:
        UserError: an unknown method, or no interpreter with a working k2 for a method that needs it.
    """
    for method in methods:
        if method not in METHODS:
            raise UserError(f"no search method '{method}'; known: {', '.join(METHODS)}")
    elsewhere = [] if here else [method for method in methods if method.startswith("k2-")]
    if elsewhere:
        k2_python = k2_python or find_k2_python()
        if k2_python is not None and k2_python.absolute() == Path(sys.executable).absolute():
            elsewhere = []
    for method in methods:
        if method not in elsewhere:
            for split in (cfg.data.dev, cfg.data.test):
                for exit in exits:
                    _search_archive(RunDir(run), lang_dir, split, exit, method, search_options(method, cfg.decode))
    if elsewhere:
        _hand_over(run, lang_dir, cfg, exits, elsewhere, k2_python)


def _search_archive(run: RunDir, lang_dir: Path, split: str, exit: str, method: str, options: dict[str, Any]) -> None:
    target = run.hypotheses(method, split, exit)
    marker = run.hypotheses_marker(method, split, exit)
    needs = depends(options, [run.archive_marker(split, exit), lang_dir / "tokens.txt"])
    if up_to_date(f"{method} on {split} {exit}", marker, needs, [target]):
        return
    reader = PosteriorReader(run.archive(split, exit), lang_dir)
    start = time.monotonic()
    count = write_hypotheses(target, search(reader, lang_dir, method, **options))
    mark(marker, needs)
    print(f"{method} on {split} {exit}: {count} utterances in {time.monotonic() - start:.1f} s", flush=True)


def _hand_over(
    run: Path, lang_dir: Path, cfg: Config, exits: Sequence[str], methods: Sequence[str], python: Path | None
) -> None:
    if python is None:
        raise UserError(
            f"{', '.join(methods)}: no interpreter here has a working k2 ('ctcsd doctor' says why); "
            "tools/setup.sh makes one, or leave k2 out with decode.methods=[greedy]"
        )
    command = [str(python), "-m", "ctcsd", "search", "--run", str(run), "--lang", str(lang_dir)]
    command += ["--here", f"data.dev={cfg.data.dev}", f"data.test={cfg.data.test}"]
    command += [part for exit in exits for part in ("--exit", exit)]
    command += [part for method in methods for part in ("--method", method)]
    command += [f"decode.{name}={value}" for name, value in vars(cfg.decode).items() if name != "methods"]
    if subprocess.run(command, check=False).returncode != 0:
        raise UserError(f"the search under {python} failed; its message stands above")
