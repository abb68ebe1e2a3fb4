"""The kernels for CUDA give what the tiles give, and are not trusted before they have shown it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import scantling
from scantling.losses import fused

CPU = torch.device("cpu")
TOLERATED = {"float32": 1e-5, "float16": 1e-2}  # products of half-precision vectors are made in that precision


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton, which torch for CUDA brings")
def test_the_interpreted_kernels_give_the_loss_and_gradients_of_the_tiles() -> None:
    script, source = Path(__file__).with_name("fused_process.py"), Path(scantling.__file__).parents[1]
    answer = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True, text=True, check=False, timeout=300, env=os.environ | {"PYTHONPATH": str(source)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    lines = [line.split() for line in answer.stdout.splitlines()]
    assert len(lines) == 16
    for dtype, *rest in lines:
        assert float(rest[-1]) < TOLERATED[dtype], (dtype, rest)


def right_denominators(rows: Tensor, columns: Tensor, weights: Tensor, *, temperature: float, own: int) -> Tensor:
    tile = (rows @ columns.T / temperature).exp()
    tile.diagonal(own).zero_()
    return tile @ weights


def right_gradients(
    rows: Tensor, columns: Tensor, row_weights: Tensor, column_weights: Tensor, *, temperature: float, own: int
) -> Tensor:
    tile = (rows @ columns.T / temperature).exp()
    tile.diagonal(own).zero_()
    return (tile * (row_weights.T @ column_weights)) @ columns / temperature


def failing(*arguments: object, **named: object) -> Tensor:
    raise RuntimeError("no such instruction")


def proven(monkeypatch: pytest.MonkeyPatch, **kernels: object) -> object:
    module = SimpleNamespace(
        **({"denominators": right_denominators, "gradients": right_gradients, "LARGEST_DIM": 64} | kernels)
    )
    monkeypatch.setattr(fused.importlib, "import_module", lambda name: module)
    return fused._proven.__wrapped__(CPU, torch.float32)


def test_kernels_that_give_the_right_sums_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proven(monkeypatch) is not None


@pytest.mark.parametrize(
    ("kernels", "reason"),
    [
        ({"denominators": failing}, "no such instruction"),
        ({"denominators": lambda *a, **k: right_denominators(*a, **k) * 1.01}, "off by"),
        ({"gradients": lambda *a, **k: right_gradients(*a, **k) * 0.99}, "off by"),
        ({"gradients": lambda *a, **k: right_gradients(*a, **k) * torch.nan}, "off by"),
    ],
)
def test_kernels_that_fail_or_give_other_sums_are_left_alone_and_said(
    monkeypatch: pytest.MonkeyPatch, kernels: dict[str, object], reason: str
) -> None:
    with pytest.warns(UserWarning, match=f"not used on cpu.*{reason}.*tiles give the same loss"):
        assert proven(monkeypatch, **kernels) is None


def test_without_triton_or_without_cuda_the_tiles_are_taken_silently(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise ImportError(name)

    monkeypatch.setattr(fused.importlib, "import_module", missing)
    assert fused._proven.__wrapped__(CPU, torch.float32) is None
    assert fused.kernels_for(torch.zeros(3, 4)) is None
