"""Every annotated function of the package is checked, shapes included, whenever a test calls it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

_hook = install_import_hook("scantling", "typecheck.check_types")
_hook.__enter__()

import torch  # noqa: E402

torch.set_num_threads(1)  # of small tensors; several threads wait for each other where other processes compute too


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets (`SCANTLING_DATA`); tests that need it are skipped where it is absent."""
    root = Path(os.environ.get("SCANTLING_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set SCANTLING_DATA to run this test")
    return root
