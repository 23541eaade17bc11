"""The package as it is installed: every room is in it, and the lower rooms stand without the upper ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setuptools import find_packages

REPOSITORY = Path(__file__).resolve().parents[1]


def test_every_folder_with_code_is_a_package() -> None:
    folders = {p.parent.relative_to(REPOSITORY) for p in (REPOSITORY / "ctcsd").rglob("*.py")}
    assert {".".join(folder.parts) for folder in folders} == set(
        find_packages(str(REPOSITORY), include=["ctcsd", "ctcsd.*"])
    )


def test_the_lower_rooms_need_no_lightning() -> None:
    code = (
        "import sys\n"
        "import ctcsd.cli, ctcsd.decode.run, ctcsd.score.run, ctcsd.text.lang, ctcsd.posteriors, ctcsd.distill\n"
        "import ctcsd.data.batches, ctcsd.data.features\n"
        "print([name for name in ('lightning', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, ctcsd.cli; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
