"""The table of verbs, and what an error looks like: one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Final, NoReturn

import typer

from scantling.cli import options
from scantling.cli.demo import demo
from scantling.cli.doctor import doctor
from scantling.cli.evaluate import evaluate
from scantling.cli.figure import figure
from scantling.cli.generate import generate
from scantling.cli.inspect import inspect
from scantling.cli.predict import predict
from scantling.cli.pretrain import pretrain
from scantling.cli.protocol import protocol
from scantling.cli.report import report
from scantling.cli.resume import resume
from scantling.cli.streams import prepare_streams
from scantling.cli.train import train
from scantling.errors import ConfigError, DataError, Interrupted, ResourceError, ScantlingError

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
for verb in (demo, doctor, inspect, train, pretrain, resume, predict, evaluate, protocol, generate, figure, report):
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
    try:
        os.getcwd()
    except OSError:
        raise ConfigError("the folder you are in was deleted; go to another one with cd", code="E-CFG-23") from None


def _refuse_names(words: Sequence[str]) -> None:
    """Refuse names that no message, table or file of ours could hold, and paths that lead round in circles.

    Raises:
        ConfigError: a line break or another control character, bytes that are no text in this locale, a link to
            itself.
    """
    for before, word in zip(("", *words), words, strict=False):
        if before == "--set":
            continue  # TOML may run over several lines
        kinds = {unicodedata.category(letter) for letter in word}
        if "Cs" in kinds:
            raise ConfigError(
                f"{word!r}: no text in this locale's {sys.getfilesystemencoding()}; set PYTHONUTF8=1, or rename it",
                code="E-CFG-22",
            )
        if "Cc" in kinds:
            raise ConfigError(f"{word!r}: holds a line break or another control character; rename it", code="E-CFG-22")
        try:
            os.stat(word.partition("=")[2] if word.startswith("--") else word)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ConfigError(f"{word}: a link in this path leads to itself; mend it", code="E-CFG-24") from None


def _end(error: ScantlingError) -> NoReturn:
    """Say an error in one line, and end with its exit code."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(error))
    print(shown if isinstance(error, Interrupted) else f"error: {shown}", file=sys.stderr)
    sys.exit(error.exit_code)


def _refused(error: OSError) -> ResourceError:
    """What the system would not do, as one sentence."""
    name = error.filename2 or error.filename
    what = "the system refused a request" if name is None else f"{os.fsdecode(name)}: cannot be used"
    return ResourceError(
        f"{what} ({error.strerror or error}); check the path, your rights there and the disk ('scantling doctor')",
        code="E-RES-05",
    )


def _no_text(error: UnicodeEncodeError) -> DataError:
    """A name that was read from disk, and that no file of ours can hold."""
    around = error.object[max(error.start - 20, 0) : error.end + 20]
    return DataError(
        f"a name holds bytes that are no text, in {around!r}; rename it, or set PYTHONUTF8=1 where the locale is "
        "another one than the files'",
        code="E-DAT-03",
    )


def _stopped() -> NoReturn:
    print("stopped", file=sys.stderr)
    sys.exit(5)


def main() -> None:
    """Run the command line; errors of the user's or the machine's making end in one sentence and their exit code."""
    prepare_streams()
    try:
        _refuse_names(sys.argv[1:])
        try:
            app()
        finally:
            sys.stdout.flush()  # a full disk under the results is noticed here, where it can be said
    except KeyboardInterrupt:
        _stopped()
    except SystemExit as end:
        if end.code == _SHELL_INTERRUPT:
            _stopped()
        raise
    except Exception as error:
        if options.debug_wanted:
            raise
        if isinstance(error, ScantlingError):
            _end(error)
        if isinstance(error, OSError):
            _end(_refused(error))
        if isinstance(error, MemoryError):
            _end(ResourceError("memory does not suffice; close other programs, or see --budget-ram", code="E-RES-02"))
        if isinstance(error, UnicodeEncodeError):
            _end(_no_text(error))
        print(
            f"error: {type(error).__name__}: {error}. This is a bug of ours; run again with --debug and report what "
            "it prints.",
            file=sys.stderr,
        )
        sys.exit(70)
