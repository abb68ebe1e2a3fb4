"""Flags of the verbs that begin a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

from typer import Argument, Option

DATA: Final = "Which images, which labels"
METHOD: Final = "Method and plan"
MACHINE: Final = "Length and machine"

Data = Annotated[Path, Argument(help="Folder of images and labels, in any accepted layout.")]
Out = Annotated[Path | None, Option("--out", "-o", help="New run folder; default: runs/NAME-N.")]
Time = Annotated[
    str | None, Option("--time", help="Budget of the whole run: 90s, 20m, 1h30m.", rich_help_panel=MACHINE)
]
Steps = Annotated[
    int | None,
    Option("--steps", min=1, help="Exact length in steps: repeatable to the bit.", rich_help_panel=MACHINE),
]
RunSeed = Annotated[
    int | None,
    Option("--seed", min=0, help="One number fixes every random draw; default 0.", rich_help_panel=MACHINE),
]
Labels = Annotated[
    int | None, Option("--labels", min=1, help="Use only this many labelled training cases.", rich_help_panel=DATA)
]
Fold = Annotated[
    str | None,
    Option(
        "--fold",
        help="Held-out fold (default 0), or 'none' to train on every labelled case.",
        rich_help_panel=DATA,
    ),
]
Classes = Annotated[str | None, Option("--classes", help="Only these classes, as a,b,c.", rich_help_panel=DATA)]
LabelKinds = Annotated[
    str | None,
    Option("--label-kinds", help="Annotations to learn from, best first: full,slices,silver.", rich_help_panel=DATA),
]
TrainOn = Annotated[
    list[str] | None,
    Option("--train-on", help="column=value of the training cases (repeatable).", rich_help_panel=DATA),
]
TestOn = Annotated[
    list[str] | None,
    Option("--test-on", help="column=value of the held-out cases (repeatable).", rich_help_panel=DATA),
]
Dimensions = Annotated[
    int | None, Option("--dimensions", min=2, max=3, help="Force a 2D or 3D network.", rich_help_panel=METHOD)
]
ConfigFile = Annotated[
    Path | None, Option("--config", help="TOML file, such as the config.toml of a run.", rich_help_panel=METHOD)
]
PlanFile = Annotated[
    Path | None,
    Option("--plan", help="plan.json to obey, such as an edited one of a run.", rich_help_panel=METHOD),
]
Init = Annotated[
    Path | None,
    Option(
        "--init",
        help="Run or model folder to start from, whose plan is obeyed too, or weights alone: .safetensors or .pth.",
        rich_help_panel=METHOD,
    ),
]
Settings = Annotated[
    list[str] | None,
    Option("--set", help="Any setting, as plan.batch_size=4 (repeatable).", rich_help_panel=METHOD),
]
RunDevice = Annotated[
    str | None, Option("--device", help="auto (default), cpu, cuda, cuda:N or mps.", rich_help_panel=MACHINE)
]
Workers = Annotated[
    int | None,
    Option(
        "--workers",
        min=0,
        help="Processes that read ahead; 0 (default) reads in this one.",
        rich_help_panel=MACHINE,
    ),
]
BudgetRam = Annotated[
    str | None, Option("--budget-ram", help="Keep to this much memory, or refuse: 8G.", rich_help_panel=MACHINE)
]
BudgetDisk = Annotated[
    str | None, Option("--budget-disk", help="Refuse a run that needs more disk: 20G.", rich_help_panel=MACHINE)
]
DryRun = Annotated[bool, Option("--dry-run", help="Plan and forecast, then stop.", rich_help_panel=MACHINE)]
