"""What is kept of a step whose loss or gradient was not finite: enough to compute it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from safetensors.torch import save
from torch import Tensor

from scantling.data.sample import Sample
from scantling.files import write_atomic
from scantling.training.run_folder import RunFolder
from scantling.training.step import Outcome, Stepper
from scantling.views.maker import make_views

FOLDER: Final = "skipped"


def dump_skipped(
    run: RunFolder,
    stepper: Stepper,
    samples: Sequence[Sample],
    step: int,
    patch_size: tuple[int, ...],
    outcome: Outcome,
) -> None:
    """Write `RUN/skipped/step-N.safetensors`: the views the step saw, and the weights before it.

    The header's `scantling` entry is JSON: the step, the terms, the gradient norm, and of each sample its
    epoch and position and the number of its case.
    """
    if not run.writable:
        return
    batch = make_views(samples, stepper.recipe.views(), patch_size, seed=stepper.seed, device=stepper.device)
    tensors: dict[str, Tensor] = {
        "images": batch.images,
        "label_maps": batch.label_maps,
        "weights": batch.weights,
        "source_from_view": batch.source_from_view,
        **{f"recipe/{name}": tensor for name, tensor in stepper.recipe.state_dict().items()},
    }
    header = {
        "step": step,
        "terms": {name: str(value) for name, value in outcome.terms.items()},
        "gradient_norm": str(outcome.gradient_norm),
        "samples": [{"epoch": s.key[0], "position": s.key[1], "case_index": s.case_index} for s in samples],
        "sample_ranges": [[str(float(s.image.min())), str(float(s.image.max()))] for s in samples],
    }
    content = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, {"scantling": json.dumps(header)})
    write_atomic(run.path / FOLDER / f"step-{step:08d}.safetensors", content)
