"""Memory: what this process takes now, the most it took, and what predicting an image will take.

Counted is the resident size as the operating system gives it (`VmRSS`, `VmHWM`), which is what batch systems and
the killer of processes look at: what the process wrote itself, and of mapped files, such as libraries, the pages it
uses. Prepared cases are mapped only while a patch is cut, so they do not add up.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import sys
import threading
from pathlib import Path
from typing import Final, final

import psutil

from scantling.data.image import ImageGeometry
from scantling.data.nifti_header import parse_header
from scantling.data.plan import Plan
from scantling.data.prepare import prepared_grid
from scantling.errors import ResourceError
from scantling.inference.restoring import LEAST_ROWS
from scantling.inference.tiling import Tiling, tile

BATCH_VOXELS: Final = {"cpu": 2**18, "cuda": 2**21}
"""Voxels of a forward pass: a CPU gains nothing beyond its cache; a GPU needs work enough to be busy."""
EVALUATION_BYTES: Final = 12
"""Per voxel of a case that is scored: two label maps, and distances around one structure at a time (measured)."""
_LOOK_SECONDS: Final = 0.002


def resident_bytes() -> int:
    """What this process holds in memory now."""
    return int(psutil.Process().memory_info().rss)


def highest_resident_bytes() -> int:
    """The most this process ever held in memory."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    with contextlib.suppress(OSError, StopIteration):  # the usage below may be that of whoever started the process
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
    import resource  # not on Windows

    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(highest) if sys.platform == "darwin" else int(highest) * 1024


@final
class PeakGauge:
    """The most memory this process held within a `with` block: `bytes`, once the block is over.

    Exact where the block set a new record of the process; else looked at every 2 ms, by a thread.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._record = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> PeakGauge:
        self._record, self.bytes = highest_resident_bytes(), resident_bytes()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        highest = highest_resident_bytes()
        self.bytes = highest if highest > self._record else max(self.bytes, resident_bytes())

    def _look(self) -> None:
        process = psutil.Process()
        while not self._over.wait(_LOOK_SECONDS):
            self.bytes = max(self.bytes, int(process.memory_info().rss))


def prediction_window(geometry: ImageGeometry, plan: Plan, *, device: str) -> Tiling:
    """The sliding window with which `Predictor` goes over an image."""
    shape = prepared_grid(geometry, plan).shape
    return window_of(shape, plan, overlap=0.5, batch_size=prediction_batch(plan, device=device))


def prediction_batch(plan: Plan, *, device: str) -> int:
    """Patches in one forward pass of `Predictor`."""
    return max(1, BATCH_VOXELS.get(device, BATCH_VOXELS["cuda"]) // math.prod(plan.patch_size))


def window_of(shape: tuple[int, ...], plan: Plan, *, overlap: float, batch_size: int) -> Tiling:
    """The sliding window over a prepared image; slice by slice where the plan is 2D and the image a volume."""
    patch = (1, *plan.patch_size) if plan.dimensions < len(shape) else plan.patch_size
    return tile(shape, patch, overlap=overlap, batch_size=batch_size)


def prediction_bytes(geometry: ImageGeometry, plan: Plan, *, device: str = "cpu", n_maps: int = 0) -> int:
    """Memory of the arrays that predicting one image holds at its worst moment; the network's own come on top.

    Reading keeps the stored voxels until the label map is there; preparing adds the 16-bit prepared image, and where
    the grid changes a float32 copy for one channel; predicting adds the label map and the unfinished logits.

    Args:
        n_maps: of probabilities and uncertainty that were asked for.
    """
    grid = prepared_grid(geometry, plan)
    source, prepared = math.prod(geometry.shape), math.prod(grid.shape)
    n_channels, n_classes = len(plan.intensities), len(plan.classes.names)
    itemsize = _stored_itemsize(geometry)
    resampled = grid.shape != grid.turned_shape
    read, ready = n_channels * source * itemsize, 2 * n_channels * prepared
    clipped = itemsize * source if any(each.scheme in ("window", "percentile") for each in plan.intensities) else 0
    # the axis that shrinks most comes first, the one that grows most last: the two largest are held at once
    lengths = sorted(n / m for n, m in zip(grid.shape, grid.turned_shape, strict=True))
    stages = [source * math.prod(lengths[:k]) for k in range(len(lengths) + 1)]
    changing = 4 * max(a + b for a, b in itertools.pairwise(stages)) if resampled else 0
    unfinished = math.prod(prediction_window(geometry, plan, device=device).unfinished)
    waiting = 3 * LEAST_ROWS * max(source / max(grid.turned_shape), prepared / max(grid.shape)) if resampled else 0
    label_maps = 2 * source
    preparing = read + ready + clipped + changing
    predicting = read + ready + source + 4 * n_classes * (unfinished + waiting)
    asked = 4 * n_maps * source
    return int(max(preparing, predicting + asked, label_maps + asked))


def require_memory(
    geometry: ImageGeometry, plan: Plan, *, device: str, n_maps: int = 0, budget: int | None = None
) -> None:
    """Refuse, before it is read, an image whose prediction would take more memory than there is, or may be used.

    Raises:
        ResourceError: this process would take more than `budget` bytes, or more than is free.
    """
    needed, free = (
        prediction_bytes(geometry, plan, device=device, n_maps=n_maps),
        int(psutil.virtual_memory().available),
    )
    allowed = free if budget is None else min(free, budget - resident_bytes())
    if needed > allowed:
        size = " x ".join(map(str, geometry.shape))
        raise ResourceError(
            f"image of {size}: predicting it takes {gib(needed)} of memory and {gib(max(allowed, 0))} may be used; "
            "crop or resample it, free memory, or raise --budget-ram",
            code="E-RES-03",
        )


def gib(count: float) -> str:
    """`3.2 GiB`, or `640 MiB` below one."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def _stored_itemsize(geometry: ImageGeometry) -> int:
    """Bytes of a voxel once it is read: as stored, or float32 where the file scales its values."""
    if geometry.header is None:
        return 1 if len(geometry.shape) == 2 else 2
    header = parse_header(Path("image"), geometry.header)
    return header.dtype.itemsize if (header.slope, header.intercept) == (1.0, 0.0) else 4
