"""Which case a verb has come to: one changing line on a terminal, elsewhere a line a minute; always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


@contextmanager
def case_progress(quiet: bool, *, seconds_between_lines: float = 60.0) -> Iterator[Callable[[str], None] | None]:
    """Within the block, what to call with a sentence before each case; None if nothing is to be said."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        yield None
    elif console.is_terminal:
        with console.status("") as status:
            yield lambda sentence: status.update(escape(sentence))
    else:
        last = time.monotonic()

        def tell(sentence: str) -> None:
            nonlocal last
            if time.monotonic() - last >= seconds_between_lines:
                last = time.monotonic()
                print(sentence, file=sys.stderr, flush=True)  # noqa: T201

        yield tell
