"""Methods by name: their files, their variants, and the configuration that each makes of a corpus's."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ctcsd.config.load import load_config, nearest
from ctcsd.config.schema import Config, ModelConfig
from ctcsd.errors import UserError

METHODS_DIR = Path(__file__).parents[1] / "conf" / "methods"


def method_name(method: str) -> str:
    """What a method and the folder of its runs are called: the file's stem, then its changes."""
    file, plus, changes = method.partition("+")
    return Path(file).stem + plus + changes


def method_config(method: str, files: Iterable[Path] = (), overrides: Iterable[str] = ()) -> Config:
    """The configuration of a method on top of the corpus's files; the overrides come last.

    Args:
        method: a name from conf/methods, or a path to one's own YAML file; then, for a variant of it with a name and
            a folder of its own, changes: `kd_symmetric+distill.frames=symmetric:4`.

    Raises:
        UserError: as `load_config`, or there is no such method; the nearest name is given.
    """
    file, *changes = method.split("+")
    for change in changes:
        if change.split("=")[0] == "seed" or change.startswith(("decode.", "score.")):
            raise UserError(f"'{change}' makes no other method: give seeds as --seeds, searches as decode.methods")
    cfg = load_config([*files, method_file(file)], [*changes, *overrides])
    if cfg.model.vocab_size or cfg.model.num_mel_bins != ModelConfig.num_mel_bins:
        raise UserError("model.vocab_size and model.num_mel_bins follow lang.vocab_size and features.num_mel_bins")
    cfg.method = method_name(method)
    return cfg


def method_file(name: str) -> Path:
    """The YAML of a method: a name from conf/methods, or a path to one's own file.

    Raises:
        UserError: there is no such method; the nearest name is given.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"no such method file: {name}")
        return path
    path = METHODS_DIR / f"{name}.yaml"
    if not path.is_file():
        known = sorted(p.stem for p in METHODS_DIR.glob("*.yaml"))
        raise UserError(f"no method '{name}'{nearest(name, known)}; known: {', '.join(known)}")
    return path
