"""The table of verbs, and what an error looks like: one sentence and an exit code."""

from __future__ import annotations

import sys
from typing import Annotated, Final, NoReturn

import typer

from scantling.cli import options
from scantling.cli.demo import demo
from scantling.cli.doctor import doctor
from scantling.cli.evaluate import evaluate
from scantling.cli.inspect import inspect
from scantling.cli.predict import predict
from scantling.cli.report import report
from scantling.cli.resume import resume
from scantling.cli.train import train
from scantling.errors import Interrupted, ScantlingError

_SHELL_INTERRUPT: Final = 130
"""What the command-line library makes of a Ctrl-C; ours is 5."""

app = typer.Typer(
    name="scantling",
    help="From medical images and whatever labels there are to a validated segmentation model.",
    epilog="Exit codes: 0 done, 2 usage, 3 data, 4 resources, 5 interrupted (resume), 6 integrity, 70 our bug.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (demo, doctor, inspect, train, resume, predict, evaluate, report):
    app.command()(verb)


def _version(wanted: bool | None) -> None:
    if wanted:
        from scantling import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = None,
) -> None:
    pass


def _stopped() -> NoReturn:
    print("stopped", file=sys.stderr)
    sys.exit(5)


def main() -> None:
    """Run the command line; errors of the user's or the machine's making end in one sentence and their exit code."""
    try:
        app()
    except ScantlingError as error:
        if options.debug_wanted:
            raise
        print(error if isinstance(error, Interrupted) else f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _stopped()
    except SystemExit as end:
        if end.code == _SHELL_INTERRUPT:
            _stopped()
        raise
    except Exception as error:
        if options.debug_wanted:
            raise
        print(
            f"error: {type(error).__name__}: {error}. This is a bug of ours; run again with --debug and report what "
            "it prints.",
            file=sys.stderr,
        )
        sys.exit(70)
