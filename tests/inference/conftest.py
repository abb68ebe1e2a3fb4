"""A model whose answer is known: class 1 where every channel lies above its own mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scantling.data.plan import ClassPlan, IntensityPlan, NetworkPlan, Plan
from scantling.inference.model_folder import LoadedModel
from scantling.inference.predictor import Predictor


class AboveMean(nn.Module):
    """Logits 0 and the smallest channel: of one z-scored channel, the value itself is the logit."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        score = x.amin(dim=1, keepdim=True) * self.one
        return torch.cat([torch.zeros_like(score), score], dim=1)


@pytest.fixture
def make_plan() -> Callable[..., Plan]:
    def make(image_axes: int, dimensions: int, **changes: object) -> Plan:
        channels = changes.get("channels", ("image",))
        assert isinstance(channels, tuple)
        values: dict[str, object] = {
            "dataset": "phantom", "image_axes": image_axes, "dimensions": dimensions,
            "classes": ClassPlan(names=("background", "bright"), stored=((0,), (7, 9))),
            "axis_order": (2, 0, 1) if image_axes == 3 else (0, 1), "spacing_mm": (None,) * image_axes,
            "patch_size": (8,) * dimensions, "batch_size": 2, "mirror_axes": tuple(range(dimensions)),
            "intensities": (IntensityPlan(scheme="zscore"),) * len(channels),
            "network": NetworkPlan(
                features=(4, 8),
                strides=((1,) * dimensions, (2,) * dimensions),
                kernels=((3,) * dimensions,) * 2,
            ),
        }  # fmt: skip
        return Plan.model_validate({**values, **changes})

    return make


@pytest.fixture
def above_mean() -> Callable[[Plan], Predictor]:
    return lambda plan: Predictor(LoadedModel(network=AboveMean(), plan=plan, meta={}), torch.device("cpu"))


@pytest.fixture
def write_nifti() -> Callable[..., Path]:
    """Write voxels `[x, y, z]` whose axes run in the given directions, an oblique affine included."""

    def write(
        path: Path, voxels: np.ndarray, *, axes: str = "RAS", spacing: tuple[float, ...] = (1.0, 1.5, 2.0)
    ) -> Path:
        codes = nibabel.orientations.axcodes2ornt(axes)
        directions = np.zeros((3, 3))
        for column, (world, sign) in enumerate(codes):
            directions[int(world), column] = sign
        angle = np.deg2rad(8)
        tilt = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
        affine = np.eye(4)
        affine[:3, :3] = tilt @ directions @ np.diag(spacing)
        affine[:3, 3] = (-31.5, 12.25, 40.0)
        image = nibabel.Nifti1Image(voxels, affine)
        image.set_qform(affine, code=1)
        image.set_sform(affine, code=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(image, path)
        return path

    return write
