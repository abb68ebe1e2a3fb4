"""A small image model with its graph and plan, and images to put into it; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image

from scantling.counterfactuals.attributes import DeclaredAttribute
from scantling.counterfactuals.causal_graph import CausalGraph, FittedGraph
from scantling.counterfactuals.hvae import HVAE
from scantling.counterfactuals.hvae_layout import HVAEConfig
from scantling.counterfactuals.image_plan import ChannelScaling, ImagePlan
from scantling.counterfactuals.source_image import SourceImage
from scantling.data.case import Case, ClassTable
from scantling.data.image import ImageGeometry, picture_geometry
from scantling.data.manifest import Manifest

MICRO: dict[str, Any] = {
    "preset": "custom",
    "encoder": "8b1d2,4b1d4,1b1",
    "decoder": "1b1,4b2,8b1",
    "widths": (8, 8, 16),
    "latent_channels": (4, 2),
    "stochastic_up_to": 4,
    "bottleneck": 2,
    "cdf": "exact",
}
# The scanner follows the site in all but one of ten cases.
ROWS = [
    {"site": "ns"[i % 2], "scanner": "AB"[(i % 2) ^ (i % 20 in (4, 15))], "age": f"{30 + (i * 7) % 41}"}
    for i in range(80)
]
BYTES = ChannelScaling(scheme="fixed", low=0, high=255)


@cache
def graph() -> FittedGraph:
    declared = {
        "site": DeclaredAttribute(mechanism="logistic"),
        "scanner": DeclaredAttribute(parents=("site",), mechanism="logistic"),
        "age": DeclaredAttribute(kind="continuous", mechanism="gaussian"),
    }
    return CausalGraph(attributes=declared).fit(ROWS, torch.Generator().manual_seed(0))


def plan(size: tuple[int, ...] = (8, 8), *, scaling: Sequence[ChannelScaling] = (BYTES,), **changes: Any) -> ImagePlan:
    values: dict[str, Any] = {
        "dataset": "toy",
        "image_axes": len(size),
        "channels": tuple(f"c{index}" for index in range(len(scaling))),
        "axis_order": tuple(range(len(size))),
        "size": size,
        "batch_size": 4,
        "scaling": tuple(scaling),
        "attributes": graph().attributes,
    }
    return ImagePlan.model_validate({**values, **changes})


def network(wanted: ImagePlan, **changes: Any) -> HVAE:
    """Away from its start, where blocks pass their input on and contexts change nothing."""
    config = HVAEConfig.parse({**MICRO, **changes}, where="test")
    made = HVAE(
        config,
        size=wanted.size,
        in_channels=len(wanted.channels),
        context_dim=len(wanted.context),
        generator=torch.Generator().manual_seed(0),
    )
    with torch.no_grad():
        for parameter in filter(lambda p: p.requires_grad, made.parameters()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return made.eval()


def greys(shape: tuple[int, ...], seed: int, dtype: Any = np.uint8) -> np.ndarray:
    """Smooth and within the middle of the range, so that changes are not clipped."""
    axes = np.meshgrid(*(np.linspace(0, 3, n) for n in shape), indexing="ij")
    waves = sum(np.sin(axis * (1 + 0.3 * k) + seed) for k, axis in enumerate(axes))
    noise = np.random.default_rng(seed).uniform(-10, 10, shape)
    return np.asarray(np.rint(128 + 60 * waves / len(shape) + noise), dtype=dtype)


def picture(array: np.ndarray, row: Mapping[str, str] | None = None, case_id: str = "case") -> SourceImage:
    return SourceImage(
        case_id=case_id,
        channels=(array,),
        geometry=picture_geometry(array.shape, "png"),
        row=dict(ROWS[0] if row is None else row),
    )


def volume(
    array: np.ndarray, orientation: str = "RAS", row: Mapping[str, str] | None = None, case_id: str = "case"
) -> SourceImage:
    """A volume whose NIfTI axes run as named; the array's axes are theirs reversed."""
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(orientation))
        ),
        array.shape[::-1],
    )
    order = [2, 1, 0, 3]
    geometry = ImageGeometry(
        shape=array.shape,
        spacing_mm=(1.0, 1.0, 1.0),
        spacing_known=True,
        world_from_index=np.ascontiguousarray(affine[:, order], dtype=np.float64),
        file_type="nifti",
    )
    return SourceImage(case_id=case_id, channels=(array,), geometry=geometry, row=dict(ROWS[0] if row is None else row))


def write_pictures(folder: Path, arrays: Sequence[np.ndarray]) -> tuple[Case, ...]:
    """PNG files and their cases, with the attributes of `ROWS`."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for index, array in enumerate(arrays):
        path = folder / f"case_{index}.png"
        Image.fromarray(array).save(path)
        row = ROWS[index]
        cases.append(
            Case(
                case_id=f"case_{index}",
                images=(path,),
                patient_id=f"patient_{index // 2}",
                site=row["site"],
                scanner=row["scanner"],
                attributes={"age": row["age"]},
            )
        )
    return tuple(cases)


def manifest(folder: Path, cases: Sequence[Case], **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "root": folder,
        "name": "toy",
        "layout": "cases_csv",
        "classes": ClassTable.of({"thing": 1}),
        "cases": tuple(cases),
        **changes,
    }
    return Manifest(**values)
