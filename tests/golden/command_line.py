"""Writes docs/reference/command-line.md from the command line itself: python tests/golden/command_line.py"""

from __future__ import annotations

from pathlib import Path

import typer

from scantling.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "command-line.md"
HEAD = """# Command line

Written from the command line itself. `scantling VERB --help` says the same.

Results go to stdout, everything else to stderr. `python -m scantling` is the same program.
"""


def text() -> str:
    """The page."""
    group = typer.main.get_command(app)
    parts = [HEAD]
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        usage = " ".join(["scantling", name, *(a.name.upper() for a in arguments), "[OPTIONS]"])
        rows = [f"| `{a.name.upper()}` | {a.help} |" for a in arguments]
        rows += [f"| `{', '.join([*o.opts, *o.secondary_opts])}` | {_cell(o)} |" for o in options]
        parts.append(f"## {name}\n\n{command.help}\n\n    {usage}\n\n| | |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _cell(option: object) -> str:
    default = getattr(option, "default", None)
    hidden = default is None or default is False or default == () or callable(default)
    shown = "" if hidden else f" Default: `{default}`."
    return f"{option.help}{shown}".replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
