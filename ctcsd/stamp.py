"""Done-markers: a finished output remembers what it depended on, so that a change makes it anew and sameness skips.

A marker is a JSON file beside its output, written last. It holds every option and the SHA-256 of every input file,
so that the reason for a second run can be named.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctcsd.errors import UserError
from ctcsd.files import read_json, write_text

FILE = "file "  # what the key of a file begins with; its path follows


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content; `missing` where there is none."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    except OSError:
        return "missing"
    return digest.hexdigest()


def depends(options: Mapping[str, Any], files: Iterable[Path] = ()) -> dict[str, Any]:
    """What an output depends on: options (flattened, JSON values) and the content of files."""
    flat: dict[str, Any] = {}
    _flatten(options, "", flat)
    flat.update({f"{FILE}{path}": file_hash(Path(path)) for path in files})
    return json.loads(json.dumps(flat, default=str))


def changed(marker: Path, dependencies: Mapping[str, Any]) -> str | None:
    """None where the marker holds the same dependencies, else the reason why the output is made (again).

    A file is known by its name and content, however the path to it is written.
    """
    if not marker.is_file():
        return "not there yet"
    try:
        before = read_json(marker)
    except UserError as error:
        return f"its marker is damaged ({error})"
    both = {**before, **dependencies}
    options = [key for key in both if not key.startswith(FILE) and before.get(key) != dependencies.get(key)]
    reasons = [f"{key} was {before.get(key)}, is {dependencies.get(key)}" for key in options]
    old, new = _contents(before), _contents(dependencies)
    differing = {name for name, _ in (old - new) + (new - old)}
    reasons += [f"{key} changed" for key in both if key.startswith(FILE) and _name(key) in differing]
    if not reasons:
        return None
    return ", ".join(reasons[:3]) + (f" and {len(reasons) - 3} more" if len(reasons) > 3 else "")


def mark(marker: Path, dependencies: Mapping[str, Any]) -> None:
    """Write the marker."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    write_text(marker, json.dumps(dependencies, indent=1, sort_keys=True) + "\n")


def up_to_date(
    what: str, marker: Path, dependencies: Mapping[str, Any], outputs: Iterable[Path] = (), keep: bool = False
) -> bool:
    """Whether the outputs need not be made; says on the screen what is skipped, or why it is made again.

    The marker of what is made again goes; with `keep` it stays for the caller to remove, who may yet refuse the work.
    """
    reason = changed(marker, dependencies)
    if reason is None:
        reason = next((f"{path} is gone" for path in outputs if not path.exists()), None)
    if reason is None:
        print(f"{what}: up to date", flush=True)
        return True
    if marker.exists():
        if not keep:
            marker.unlink(missing_ok=True)  # from here on the output is not whole
        print(f"{what}: made again, because {reason}", flush=True)
    return False


def run_once(
    marker: Path, paths: Sequence[Path], outputs: Sequence[Path], command: Sequence[str], neutral: Sequence[str] = ()
) -> int:
    """Run a Python script unless its marker holds the same words and inputs; returns its exit code.

    `neutral` words are added without counting: how many jobs, for instance.

    A file among `paths` counts by its content; of a folder, scripts count by content, and all else (audio, as a rule)
    by name, size and time. What the script writes beside the marker does not count in a folder above that.
    """
    inside = [
        f
        for path in paths
        if path.is_dir()
        for f in sorted(path.rglob("*"))
        if f.is_file()
        and "__pycache__" not in f.parts
        and not (_below(marker.parent, path) and _below(f, marker.parent))
    ]
    scripts = [f for f in inside if f.suffix in (".py", ".sh")]
    others = [(f, f.stat()) for f in inside if f.suffix not in (".py", ".sh")]
    listing = "".join(f"{f} {stat.st_size} {stat.st_mtime_ns}\n" for f, stat in others)
    digest = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
    needs = depends({"command": list(command), "folders": digest}, [p for p in paths if not p.is_dir()] + scripts)
    if up_to_date(marker.name.lstrip("."), marker, needs, outputs):
        return 0
    status = subprocess.run([sys.executable, *command, *neutral], check=False).returncode
    if status == 0:
        mark(marker, needs)
    return status


def _below(path: Path, folder: Path) -> bool:
    """Whether a path lies in a folder, at any depth."""
    return folder.resolve() in path.resolve().parents


def _contents(dependencies: Mapping[str, Any]) -> Counter[tuple[str, str]]:
    """(Name, hash) of each file."""
    return Counter((_name(key), str(value)) for key, value in dependencies.items() if key.startswith(FILE))


def _name(key: str) -> str:
    return Path(key[len(FILE) :]).name


def _flatten(options: Mapping[str, Any], prefix: str, into: dict[str, Any]) -> None:
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            _flatten(value, f"{prefix}{key}.", into)
        else:
            into[f"{prefix}{key}"] = value
