"""Whether predicted probabilities come true, summed over the held-out cases for which they were kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scantling.data.case import Annotation, ClassTable
from scantling.data.image_io import read_image, read_label, read_scalar_map, scalar_file_name
from scantling.data.manifest import Manifest
from scantling.data.plan import Plan
from scantling.evaluation.calibration import N_BINS, top_label_reliability
from scantling.evaluation.evaluate import PROBABILITIES


def measured_reliability(
    run: Path, manifest: Manifest, plan: Plan, classes: ClassTable, case_ids: Sequence[str]
) -> dict[str, list[float]]:
    """Confidence, observed frequency and pixel count of the winning class in each filled bin.

    Empty if no case has probabilities. Cases in which only some classes were looked for take no part.
    """
    sums = np.zeros((3, N_BINS))
    folder = run / "predictions" / PROBABILITIES
    for case_id in case_ids if folder.is_dir() else ():
        case = manifest.case(case_id)
        annotation = case.annotation(plan.label_kinds)
        image = read_image(case.images[0])
        path = folder / scalar_file_name(case_id, image.geometry)
        if annotation is None or not path.is_file() or not _all_looked_for(annotation, classes):
            continue
        reference = classes.to_index(read_label(annotation.path)[0], ignore=annotation.ignore)
        probs = read_scalar_map(path, dimensions=reference.ndim)
        if probs.shape == (len(classes.names), *reference.shape):
            found = top_label_reliability(probs.astype(np.float32), reference)
            means = np.stack([found.confidence, found.frequency, np.ones(N_BINS)])
            sums += np.nan_to_num(means) * found.count  # an empty bin has no mean
    filled = sums[2] > 0
    if not filled.any():
        return {}
    confidence, frequency, count = sums[:, filled]
    return {
        "confidence": [float(v) for v in confidence / count],
        "frequency": [float(v) for v in frequency / count],
        "count": [float(v) for v in count],
    }


def _all_looked_for(annotation: Annotation, classes: ClassTable) -> bool:
    return annotation.annotated is None or set(annotation.annotated) >= set(classes.foreground)
