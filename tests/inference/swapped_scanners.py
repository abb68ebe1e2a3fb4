"""A small data set of two scanners, of which B is exactly 40 grey values brighter, and a source that knows it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from scantling.counterfactuals.causal_graph import CausalGraph
from scantling.counterfactuals.counterfactual import CounterfactualGenerator
from scantling.counterfactuals.fitted_graph import FittedGraph
from scantling.counterfactuals.image_plan import ChannelScaling, ImagePlan
from scantling.counterfactuals.sources import CallableSource, CounterfactualSource
from scantling.counterfactuals.table import Row, table_of
from scantling.data.layouts import open_dataset

BRIGHTER = 40
HEADER = "case,image,label,label_kind,annotated,subject,scanner,finding,split"


def write_data(folder: Path, n: int = 6, *, side: int = 16) -> Path:
    """Pictures of a bright square each, labelled; case 5 does not know its scanner."""
    rng = np.random.default_rng(3)
    (folder / "pictures").mkdir(parents=True)
    rows = [HEADER]
    for index in range(n):
        scanner = "AB"[index % 2] if index != 5 else ""
        picture = rng.integers(20, 60, (side, side)).astype(np.uint8)
        label = np.zeros((side, side), np.uint8)
        label[4 : 8 + index % 3, 4:9] = 1
        picture[label > 0] += 60
        picture += BRIGHTER * (scanner == "B")
        Image.fromarray(picture).save(folder / "pictures" / f"case{index}.png")
        Image.fromarray(label).save(folder / "pictures" / f"case{index}_label.png")
        finding = ("none", "effusion")[index // 2 % 2]
        rows.append(
            f"case{index},pictures/case{index}.png,pictures/case{index}_label.png,full,*,patient{index // 2},{scanner},"
            f"{finding},train"
        )
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.toml").write_text('name = "squares"\nmodality = "CR"\n[classes]\nsquare = 1\n')
    return folder


def fit_graph(folder: Path) -> FittedGraph:
    rows = table_of(open_dataset(folder))
    return CausalGraph.of_table(rows, ["scanner", "finding"]).fit(rows, torch.Generator().manual_seed(0))


def make_plan(graph: FittedGraph, *, side: int = 16, batch_size: int = 4) -> ImagePlan:
    return ImagePlan(
        dataset="squares", image_axes=2, axis_order=(0, 1), size=(side, side), batch_size=batch_size,
        scaling=(ChannelScaling(scheme="fixed", low=0.0, high=255.0),), attributes=graph.attributes,
    )  # fmt: skip


def swap(image: np.ndarray, before: Row, after: Row) -> np.ndarray:
    """What the other scanner would have shown; an effusion is a white corner."""
    result = image + BRIGHTER * ((after["scanner"] == "B") - (before["scanner"] == "B"))
    if after["finding"] != before["finding"]:
        result[:, :3, :3] = 255 if after["finding"] == "effusion" else 30
    return result


def make_generator(
    folder: Path, source: Callable[..., np.ndarray] | CounterfactualSource = swap, *, batch_size: int = 4, seed: int = 0
) -> CounterfactualGenerator:
    graph = fit_graph(folder)
    made = source if isinstance(source, CounterfactualSource) else CallableSource(source, name="swap")
    return CounterfactualGenerator(graph=graph, source=made, plan=make_plan(graph, batch_size=batch_size), seed=seed)
