"""The console script `ctcsd`; every command imports what it needs only when it runs."""

from __future__ import annotations

# Importing them registers their commands.
from ctcsd.cli import corpus, decoding, results, training  # noqa: F401
from ctcsd.cli.app import app
from ctcsd.console import run_app


def main() -> None:
    """Entry of the console script: one line and an exit code for what the user can mend."""
    run_app(app, "ctcsd")
