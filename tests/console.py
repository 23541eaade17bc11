"""The console script, as a user runs it but in this process, whose imports have been paid for."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from ctcsd.cli import main

REPOSITORY = Path(__file__).resolve().parents[1]


def ctcsd(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `ctcsd ARGUMENTS...`; what it writes and its exit code."""
    command = ["ctcsd", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "argv", command):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def script(*command: object) -> str:
    """What a script of the repository prints, run in a process of its own; it must succeed."""
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, cwd=REPOSITORY, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
