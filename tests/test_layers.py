"""A package imports only from what stands above it: the order is one tuple, the imports are read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import scantling

ORDER = (
    "errors", "shapes", "files", "sealed_folder", "markdown", "config", "seeding", "processes",
    "data", "evaluation", "views", "networks", "losses", "contrast", "targets", "counterfactuals",
    "recipes", "inference", "training", "figures", "reports", "federated", "workflows", "cli",
)  # fmt: skip
NEVER = {
    "torchvision",
    "lightning",
    "pytorch_lightning",
    "torchmetrics",
    "timm",
    "pandas",
    "matplotlib",
    "cv2",
}
WITHOUT_TORCH = ("data", "evaluation", "figures", "reports", "files", "config", "errors", "seeding")
TORCH_ON_PURPOSE = {"data/dataset.py", "data/sample.py"}
ROOT = Path(scantling.__file__).parent


def modules() -> Iterator[Path]:
    return (path for path in sorted(ROOT.rglob("*.py")) if path.parent != ROOT or not path.stem.startswith("__"))


def imports(path: Path, *, nested: bool = True) -> Iterator[tuple[str, int]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if nested else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            assert node.module is not None
            yield node.module, node.lineno


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_room_of_the_package_has_a_place_in_the_order() -> None:
    rooms = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in modules()}
    assert rooms <= set(ORDER), rooms - set(ORDER)


def test_a_module_imports_only_from_its_own_room_or_from_above() -> None:
    wrong = []
    for path in modules():
        own = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for module, line in imports(path):
            if module.startswith("scantling.") and ORDER.index(room(module)) > ORDER.index(own):
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module} from below")
    assert not wrong, "\n".join(wrong)


def test_losses_import_nothing_of_ours_but_shapes_and_errors() -> None:
    allowed = {"shapes", "errors", "losses"}
    wrong = [
        f"{path.name}:{line} {module}"
        for path in (ROOT / "losses").glob("*.py")
        for module, line in imports(path)
        if module.startswith("scantling.") and room(module) not in allowed
    ]
    assert not wrong, wrong


def test_nothing_imports_the_packages_that_break_beside_a_cpu_torch() -> None:
    wrong = [
        f"{path.name}:{line}" for path in modules() for module, line in imports(path) if module.split(".")[0] in NEVER
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_rooms_that_read_and_measure_files_do_not_import_torch(name: str) -> None:
    paths = [ROOT / f"{name}.py"] if (ROOT / f"{name}.py").exists() else list((ROOT / name).rglob("*.py"))
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        if path.relative_to(ROOT).as_posix() not in TORCH_ON_PURPOSE
        for module, line in imports(path, nested=False)
        if module.split(".")[0] == "torch" or module == "scantling.shapes"
    ]
    assert not wrong, wrong
