"""Commands whose errors are one line."""

from __future__ import annotations

from collections.abc import Callable

import typer

from ctcsd.errors import WrongUse, one_line_errors

UsageError = typer.BadParameter.__base__  # click's, or that of the copy of click inside typer


def run_app(app: typer.Typer, name: str | None = None) -> None:
    """Run an application and exit: what the user can mend is one line on stderr, with code 2 for wrong options."""
    with one_line_errors():
        try:
            code = app(prog_name=name, standalone_mode=False)
        except UsageError as error:  # type: ignore[misc]
            raise _explained(error) from None
    raise SystemExit(code or 0)


def run_script(main: Callable[..., None]) -> None:
    """`typer.run`, with errors as of `run_app`."""
    script = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    script.command()(main)
    run_app(script)


def _explained(error: Exception) -> WrongUse:
    message = error.format_message()  # type: ignore[attr-defined]
    if message.startswith("Usage:"):  # nothing was asked for: the help
        print(message)
        return WrongUse("")
    context = getattr(error, "ctx", None)
    return WrongUse(message.rstrip(".") + (f"; see {context.command_path} --help" if context else ""))
