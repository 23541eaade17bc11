"""Two processes over one folder: the second is refused, or waits and finds the work done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from console import REPOSITORY

from ctcsd.errors import UserError
from ctcsd.lock import in_turn, locked


def test_a_held_lock_refuses_and_a_dead_holder_does_not(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", f"""
import pathlib
from ctcsd.lock import locked
with locked(pathlib.Path({str(tmp_path / "run.lock")!r}), "held"):
    print("held", flush=True)
    input()
"""], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout and holder.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="someone else"), locked(tmp_path / "run.lock", "someone else"):
        pass
    holder.kill()
    holder.wait()
    with locked(tmp_path / "run.lock", "someone else"):
        pass


def test_two_preparations_take_turns(tmp_path: Path) -> None:
    """Both want the same output; it is made once, and the second says that it is up to date."""
    script = tmp_path / "prepare.py"
    script.write_text(
        "import pathlib, sys, time\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "assert not out.exists(), 'made twice'\n"
        "time.sleep(1)\n"
        "out.write_text('whole')\n"
    )
    data = tmp_path / "data"
    command = [sys.executable, "-m", "ctcsd", "once", str(data / ".prepared"), "--output", str(data / "made"), "--"]
    command += [str(script), str(data / "made")]
    both = [subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = "".join(process.communicate()[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert said.count("up to date") == 1 and "waiting for it" in said
    assert (data / "made").read_text() == "whole"
    with in_turn(data):
        pass
