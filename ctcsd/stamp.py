"""Done-markers: a finished output remembers what it depended on, so that a change makes it anew and sameness skips.

A marker is a JSON file beside its output, written last. It holds every option and the SHA-256 of every input file,
so that the reason for a second run can be named.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctcsd.errors import UserError
from ctcsd.text.files import read_json, replacing


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
    flat.update({f"file {path}": file_hash(Path(path)) for path in files})
    return json.loads(json.dumps(flat, default=str))


def changed(marker: Path, dependencies: Mapping[str, Any]) -> str | None:
    """None where the marker holds the same dependencies, else the reason why the output is made (again)."""
    if not marker.is_file():
        return "not there yet"
    try:
        before = read_json(marker)
    except UserError as error:
        return f"its marker is damaged ({error})"
    if before == dependencies:
        return None
    keys = [k for k in {**before, **dependencies} if before.get(k) != dependencies.get(k)]
    shown = ", ".join(
        f"{k} changed" if k.startswith("file ") else f"{k} was {before.get(k)}, is {dependencies.get(k)}"
        for k in keys[:3]
    )
    return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def mark(marker: Path, dependencies: Mapping[str, Any]) -> None:
    """Write the marker."""
    marker.parent.mkdir(parents=True, exist_ok=True)
    with replacing(marker) as partial:
        partial.write_text(json.dumps(dependencies, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def up_to_date(what: str, marker: Path, dependencies: Mapping[str, Any], outputs: Iterable[Path] = ()) -> bool:
    """Whether the outputs need not be made; says on the screen what is skipped, or why it is made again."""
    reason = changed(marker, dependencies)
    if reason is None:
        reason = next((f"{path} is gone" for path in outputs if not path.exists()), None)
    if reason is None:
        print(f"{what}: up to date", flush=True)
        return True
    if marker.exists():
        marker.unlink(missing_ok=True)  # from here on the output is not whole
        print(f"{what}: made again, because {reason}", flush=True)
    return False


def run_once(
    marker: Path, paths: Sequence[Path], outputs: Sequence[Path], command: Sequence[str], neutral: Sequence[str] = ()
) -> int:
    """Run a Python script unless its marker holds the same words and inputs; returns its exit code.

    `neutral` words are added without counting: how many jobs, for instance.

    A file among `paths` counts by its content; of a folder, scripts count by content, and all else (audio, as a rule)
    by name, size and time.
    """
    inside = [f for path in paths if path.is_dir() for f in sorted(path.rglob("*")) if f.is_file()]
    inside = [f for f in inside if "__pycache__" not in f.parts]
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


def _flatten(options: Mapping[str, Any], prefix: str, into: dict[str, Any]) -> None:
    for key, value in options.items():
        if isinstance(value, Mapping) and value:
            _flatten(value, f"{prefix}{key}.", into)
        else:
            into[f"{prefix}{key}"] = value
