"""Options that a command does not take: one line, and exit code 2."""

from __future__ import annotations

import subprocess
import sys

import pytest
from console import REPOSITORY, ctcsd


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--bogus"], "--bogus; see ctcsd train --help"),
        (["nosuch"], "'nosuch'; see ctcsd --help"),
        (["table"], "see ctcsd table --help"),
        (["features", "--data", "x", "--jobs", "0"], "see ctcsd features --help"),
        (["lm", "--text", "x", "--out", "y", "--prune", "a b"], "whole numbers, such as '0 0 1'; see ctcsd lm --help"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], said: str) -> None:
    done = ctcsd(*arguments)
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and line.endswith(said)


def test_a_preparation_says_wrong_use_in_one_line() -> None:
    first, *others = sorted(REPOSITORY.glob("egs/*/local/prepare.py"))
    done = subprocess.run([sys.executable, first, "--debb", "x"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "--debb" in done.stderr
    assert len(others) > 5
    for path in others:
        assert path.read_text(encoding="utf-8").endswith('if __name__ == "__main__":\n    run_script(main)\n'), path


def test_nothing_asked_for_is_the_help() -> None:
    done = ctcsd()
    assert done.returncode == 2 and done.stdout.startswith("Usage: ctcsd") and done.stderr == ""
