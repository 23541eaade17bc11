"""Packages of others, for one run of a benchmark."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def installed(*packages: str) -> Iterator[Path]:
    """A folder with the packages, without what they depend on; it is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        if packages:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder]
            subprocess.run([*install, *packages], check=True)
        yield Path(folder)
