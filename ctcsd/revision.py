"""Which code made a result."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ctcsd import __version__


def revision() -> str:
    """The git revision of the checkout that runs, with `-dirty` where it was changed; else the package's version."""
    root = Path(__file__).resolve().parent.parent
    try:
        found = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return f"v{__version__}"
