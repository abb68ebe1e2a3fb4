"""Flags that mean the same for every verb."""

from __future__ import annotations

from typing import Annotated

from typer import Option

debug_wanted = False


def _remember_debug(value: bool | None) -> bool:
    global debug_wanted
    debug_wanted = debug_wanted or bool(value)
    return bool(value)


Debug = Annotated[bool, Option("--debug", help="Show the trace of an error.", callback=_remember_debug)]
Json = Annotated[bool, Option("--json", help="Print the result as JSON on stdout.")]
Quiet = Annotated[bool, Option("--quiet", "-q", help="No progress on stderr.")]
Verbose = Annotated[bool, Option("--verbose", "-v", help="More on stderr: the reason of each decision.")]
Overwrite = Annotated[bool, Option("--overwrite", help="Move an existing output aside instead of refusing.")]
Device = Annotated[str, Option("--device", help="auto, cpu, cuda, cuda:N or mps.")]
Seed = Annotated[int, Option("--seed", min=0, help="One number fixes every random draw.")]
Layout = Annotated[
    str | None, Option("--layout", help="cases_csv, nnunet, msd, pairs or suffix, where recognition errs.")
]
