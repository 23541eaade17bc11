"""The configuration as YAML files and overrides make it: defaults, then the corpus, the preset, the method, the user's.

YAML keys may be written with dots (`model.exits: {...}`); an unknown key is an error that names the nearest one.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ctcsd.config.schema import Config, DecodeConfig
from ctcsd.errors import UserError, first_line
from ctcsd.files import lines_of, write_text


def load_config(files: Iterable[Path] = (), overrides: Iterable[str] = ()) -> Config:
    """Merge YAML files, later ones winning, then `key=value` overrides: YAML too, but text for keys that hold text.

    Raises:
        UserError: a missing or broken file, an unknown key (the nearest known one is named), a value of a wrong type.
    """
    cfg = OmegaConf.structured(Config)
    files = list(files)
    for path in files:
        _merge(cfg, _read(Path(path)), str(path))
    for item in overrides:
        key, sep, text = item.partition("=")
        if not sep or not key:
            raise UserError(f"'{item}' is not an override: write key=value, for instance train.lr=0.001")
        key = key.strip()
        _set(cfg, key, _given(key, text, f"'{item}'"), "the command line")
    try:
        return OmegaConf.to_object(cfg)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise UserError(f"{', '.join(map(str, files)) or 'the command line'}: {first_line(error)}") from None


def save_config(cfg: Config, path: Path) -> None:
    """Write the resolved configuration as YAML."""
    write_text(path, OmegaConf.to_yaml(OmegaConf.create(_literal(dataclasses.asdict(cfg)))))


def search_config(cfg: DecodeConfig, method: str) -> DecodeConfig:
    """The options as an entry of `methods` sees them: with those that `per_method` has for it, and its changes.

    Raises:
        UserError: one of them names no option, or gives one a value of a wrong type.
    """
    name, *changes = method.split("+")
    parts = [change.partition("=") for change in changes]
    wished = {key: _given(f"decode.{key}", text, method) if sep else None for key, sep, text in parts}
    try:
        own = _literal(dataclasses.asdict(cfg))
        merged = OmegaConf.merge(OmegaConf.structured(DecodeConfig), own, own["per_method"].get(name) or {}, wished)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        where = method if changes else f"decode.per_method.{name}"
        raise UserError(f"{where}: {first_line(error)}") from None


def _read(path: Path) -> dict[str, Any]:
    return {str(key): value for key, value in _parse("\n".join(lines_of(path)), str(path)).items()}


def _parse(text: str, where: str) -> dict[Any, Any]:
    try:
        aliases = any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text))
        content = None if aliases else OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except Exception as error:  # every YAML and interpolation error class
        raise UserError(f"{where}: {first_line(error)}") from None
    if aliases:
        raise UserError(f"{where}: YAML aliases (*name) are not taken: a few of them can stand for gigabytes")
    if not isinstance(content, dict):
        raise UserError(f"{where}: a configuration is a mapping of keys to values")
    return content


def _given(key: str, text: str, where: str) -> Any:
    """What an override says: the text as it stands (but `null`) where the key holds text, such as a path; else YAML."""
    declared = _known_keys(Config).get(re.sub(r"^decode\.per_method\.[^.]+\.", "decode.", key))
    if declared in ("str", "Optional[str]"):
        return None if text in ("", "null") else _literal(text)
    return _parse(f"value: {text}", where)["value"]


def _literal(value: Any) -> Any:
    """A value in whose texts `${` begins no interpolation."""
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _merge(cfg: DictConfig, content: dict[str, Any], where: str, prefix: str = "") -> None:
    for key, value in content.items():
        full = f"{prefix}{key}"
        if full in SECTIONS and isinstance(value, dict):
            _merge(cfg, value, where, f"{full}.")
        else:
            _set(cfg, full, value, where)


def _set(cfg: DictConfig, key: str, value: Any, where: str) -> None:
    known = _known_keys(Config)
    free = any(key.startswith(f"{name}.") for name in ("weights", "model.exits", "decode.per_method"))
    if key not in known and not free:
        raise UserError(f"{where}: unknown key '{key}'{nearest(key, known)}")
    try:
        OmegaConf.update(cfg, key, value, merge=False, force_add=free)
    except (OmegaConfBaseException, ValueError) as error:
        raise UserError(f"{where}: {key}: {first_line(error)}") from None


def _is_section(item: Any) -> bool:
    return item.default_factory is not dataclasses.MISSING and dataclasses.is_dataclass(item.default_factory)


def _known_keys(section: Any, prefix: str = "") -> dict[str, str]:
    """Key -> its type as declared."""
    keys: dict[str, str] = {}
    for item in dataclasses.fields(section):
        keys[prefix + item.name] = str(item.type)
        if _is_section(item):
            keys.update(_known_keys(item.default_factory, f"{prefix}{item.name}."))
    return keys


SECTIONS = {item.name for item in dataclasses.fields(Config) if _is_section(item)}


def nearest(name: str, known: Iterable[str]) -> str:
    """A question after the known name that is most like one that is not known; empty where none is."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    if not close:  # the right leaf under the wrong section
        close = [key for key in known if key.rpartition(".")[2] == name.rpartition(".")[2]][:1]
    return f"; did you mean '{close[0]}'?" if close else ""
