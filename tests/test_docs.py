"""The documentation is run: Python blocks of a page one after the other, `$ scantling` lines through the command line.

Pages see a folder `my_folder` (phantom radiographs) and run in a folder of their own. Budgets are cut: `--time
20m` becomes `--steps 2`, and the demo draws a few images only, so a command is checked from its flags to its output,
not for its score.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scantling.cli.main import app
from scantling.data.catalog.phantom import write_chest_phantom
from scantling.workflows import demo as demo_workflow

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "my_folder"
    write_chest_phantom(folder, n_labelled=6, n_unlabelled=2, n_test=3, seed=1, size=64)
    return folder


def short(command: str) -> str:
    return re.sub(r"--(time|steps) \S+", "--steps 2", command)


def run_console(text: str) -> None:
    for line in text.splitlines():
        if line.startswith("$ scantling "):
            words = shlex.split(short(line.removeprefix("$ scantling ")), comments=True)
            result = CliRunner().invoke(app, words)
            assert result.exit_code == 0, f"{line}\n{result.output}\n{result.exception!r}"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if BLOCK.search(p.read_text(encoding="utf-8"))], ids=lambda p: p.stem
)
def test_every_code_block_of_the_page_runs(
    page: Path, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_workflow, "UNLABELLED", 2)
    monkeypatch.setattr(demo_workflow, "HELD_OUT", 3)
    (tmp_path / "my_folder").symlink_to(phantom, target_is_directory=True)
    names: dict[str, object] = {"__name__": "page"}
    for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            code = re.sub(r"time=(\"[^\"]*\"|\d+)", "steps=2", text)
            exec(compile(code, str(page), "exec"), names)
        else:
            run_console(text)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_every_link_to_a_file_of_ours_leads_somewhere(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    broken = [t for t in targets if not (page.parent / t).exists()]
    assert not broken, broken


def test_every_test_that_a_page_names_exists() -> None:
    named = {pair for page in PAGES for pair in TEST.findall(page.read_text(encoding="utf-8"))}
    assert len(named) > 20
    missing = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (ROOT / file).read_text("utf-8")]
    assert not missing, missing


@pytest.mark.parametrize("name", ["command_line", "configuration"])
def test_a_reference_page_is_what_the_code_says(name: str) -> None:
    golden = importlib.import_module(f"golden.{name}")
    assert golden.PAGE.read_text(encoding="utf-8") == golden.text(), f"run: python tests/golden/{name}.py"


def test_the_measured_table_of_the_readme_is_that_of_the_results() -> None:
    path = ROOT / "benchmarks" / "quality" / "main_road.py"
    spec = importlib.util.spec_from_file_location("main_road", path)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    written = readme.partition(benchmark.BEGIN)[2].partition(benchmark.END)[0].strip()
    assert written == benchmark.table().strip(), "run: python benchmarks/quality/main_road.py table"
