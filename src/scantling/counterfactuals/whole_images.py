"""Whole images as samples: each stretched to the plan's size once, kept as bytes on disk, with its attributes."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, final

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from scantling.counterfactuals.image_plan import ImagePlan
from scantling.counterfactuals.source_image import (
    ModelImage,
    SourceImage,
    onto_source,
    read_source,
    to_model,
)
from scantling.data.case import Case
from scantling.data.sample import Sample
from scantling.errors import DataError, IntegrityError, PlanMismatch
from scantling.files import (
    one_at_a_time,
    read_json,
    require_sha256,
    sha256_bytes,
    sha256_file,
    write_atomic,
    write_json,
)
from scantling.seeding import numpy_generator
from scantling.shapes import IGNORE, Images

__all__ = ["ModelImage", "SourceImage", "WholeImages", "onto_source", "read_source", "to_model"]

_VERSION: Final = 1
"""Raised whenever the same file would become other bytes; part of every key of the cache."""
_SHARD: Final = 512
"""Images that are stretched between two files; a run that is killed loses at most these."""
_THREADS: Final = 4
_ATTEMPTS: Final = 4
"""Builds of one file before the disk is blamed; another process may have removed its parts meanwhile."""


@final
class WholeImages:
    """Images of cases in [-1, 1], in steps of 1 / 127.5, and their attributes as numbers.

    They lie in one file under a key made from the images' content and the plan's fields that matter, so that it is
    made once, and never again for the same content. Every epoch goes through them in an order of its own.

    Args:
        contexts: as `FittedGraph.encode` gives them, a row a case.
        seed: of the orders.
        cache: folder; any number of plans and data sets may share it.
        progress: called with (done, total) while images are stretched.

    Raises:
        DataError: no case, or one that is unreadable; the message names it.
        PlanMismatch: a case or the contexts do not fit the plan.
        ResourceError: the disk is full.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        plan: ImagePlan,
        contexts: Float[Tensor, "case context"],
        *,
        seed: int,
        cache: Path,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        if not cases:
            raise DataError("whole images: there is no case to learn from", code="E-DAT-21")
        if contexts.shape != (len(cases), len(plan.context)):
            raise PlanMismatch(
                f"contexts {tuple(contexts.shape)} for {len(cases)} cases and a plan of {len(plan.context)} columns; "
                "encode the cases with the causal graph that the plan was made with"
            )
        self.cases, self.plan, self.contexts, self.seed = tuple(cases), plan, contexts, seed
        patients = {patient: index for index, patient in enumerate(dict.fromkeys(c.patient_id for c in cases))}
        self._patient_index = [patients[case.patient_id] for case in cases]
        self._file = _stretched(self.cases, plan, cache / "whole_images", progress)

    def __len__(self) -> int:
        return len(self.cases)

    @property
    def images(self) -> UInt8[np.ndarray, "case channel *spatial"]:
        """All images as bytes, 0..255 for [-1, 1]; mapped anew at each access, so that no copy goes to a worker."""
        images: UInt8[np.ndarray, "case channel *spatial"] = np.load(self._file, mmap_mode="r")
        return images

    def values(self, indices: Sequence[int] | Int[np.ndarray, "image"]) -> Images:
        """Some images in [-1, 1], float32."""
        return torch.from_numpy(_values(self.images[np.asarray(indices, dtype=np.int64)]))

    def sample(self, epoch: int, position: int) -> Sample:
        """The image at a position of an epoch; nothing in it is labelled."""
        index = self.case_at(epoch, position)
        size = self.plan.size
        return Sample(
            image=torch.from_numpy(_values(self.images[index])),
            label_map=torch.full(size, IGNORE),
            weight=torch.ones(size),
            annotated=torch.zeros(1, dtype=torch.bool),
            spacing_mm=(1.0,) * len(size),
            source_from_sample=torch.eye(len(size) + 1),
            case_index=index,
            patient_index=self._patient_index[index],
            slice_position=0.5,
            key=(epoch, position),
            context=self.contexts[index],
        )

    def case_at(self, epoch: int, position: int) -> int:
        """Index of the case at a position of an epoch; an epoch longer than the cases goes through them again."""
        round_, place = divmod(position, len(self.cases))
        return int(_order(self.seed, len(self.cases), epoch, round_)[place])

    def case_name(self, epoch: int, position: int) -> str:
        """Id of the case at a position of an epoch."""
        return self.cases[self.case_at(epoch, position)].case_id


@lru_cache(maxsize=8)
def _order(seed: int, n: int, epoch: int, round_: int) -> Int[np.ndarray, "case"]:
    return numpy_generator(seed, "order of whole images", epoch, round_).permutation(n)


def _values(stored: UInt8[np.ndarray, "*image"]) -> Float[np.ndarray, "*image"]:
    return stored.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


def _stretched(
    cases: Sequence[Case], plan: ImagePlan, folder: Path, progress: Callable[[int, int], object] | None
) -> Path:
    """The file of all these images; made now unless it is there, whole and undamaged."""
    keys = [_key(case, plan) for case in cases]
    path = folder / f"{_joined(keys)}.npy"
    for _ in range(_ATTEMPTS):
        if _is_whole(path):
            return path
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        # others wait a while and find it made; one who waited too long finds its parts removed, and looks again
        with one_at_a_time(folder / "parts"), contextlib.suppress(FileNotFoundError):
            if not _is_whole(path):
                _make(path, folder / "parts", cases, keys, plan, progress)
    raise IntegrityError(
        f"{path}: what is written there does not come back unchanged; check the disk, or choose another cache folder",
        code="E-CHK-03",
    )


def _make(
    path: Path,
    parts: Path,
    cases: Sequence[Case],
    keys: Sequence[str],
    plan: ImagePlan,
    progress: Callable[[int, int], object] | None,
) -> None:
    shards = []
    for start in range(0, len(cases), _SHARD):
        part = slice(start, start + _SHARD)
        shard = parts / f"{_joined(keys[part])}.npy"
        if not _is_whole(shard):
            _write(shard, _shard(cases[part], plan))
        shards.append(shard)
        if progress is not None:
            progress(min(start + _SHARD, len(cases)), len(cases))
    _write_all(path, [np.load(shard, mmap_mode="r") for shard in shards])
    for shard in shards:
        shard.unlink(missing_ok=True)
        _record(shard).unlink(missing_ok=True)


def _key(case: Case, plan: ImagePlan) -> str:
    """SHA-256 over everything that decides the bytes of an image."""
    try:
        content = [sha256_file(path) for path in case.images]
    except OSError as error:
        raise DataError(
            f"case {case.case_id}: {error.filename}: cannot be read ({error.strerror or error})", code="E-DAT-01"
        ) from None
    fields = plan.model_dump(mode="json", include={"image_axes", "axis_order", "size", "scaling"})
    return sha256_bytes(json.dumps([_VERSION, fields, content], sort_keys=True).encode())


def _joined(keys: Sequence[str]) -> str:
    return sha256_bytes("".join(keys).encode())


def _shard(cases: Sequence[Case], plan: ImagePlan) -> UInt8[np.ndarray, "case channel *spatial"]:
    def read(case: Case) -> UInt8[np.ndarray, "channel *spatial"]:
        values = to_model(read_source(case, len(plan.channels)), plan).values
        return np.rint((values + 1.0) * 127.5).astype(np.uint8)

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        return np.stack(list(pool.map(read, cases)))


def _write(path: Path, images: UInt8[np.ndarray, "case channel *spatial"]) -> None:
    write_atomic(path, lambda stream: np.save(stream, images))
    write_json(_record(path), {"sha256": sha256_file(path)})


def _write_all(path: Path, shards: Sequence[UInt8[np.ndarray, "_ channel *spatial"]]) -> None:
    """The shards one after the other, without all of them in memory."""
    shape = (sum(map(len, shards)), *shards[0].shape[1:])

    def write_to(stream: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        stream.writelines(shard.tobytes() for shard in shards)

    write_atomic(path, write_to)
    write_json(_record(path), {"sha256": sha256_file(path)})


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_whole(path: Path) -> bool:
    """Whether a file is there and is what was written; its record comes after it."""
    try:
        require_sha256(path, read_json(_record(path))["sha256"])
    except (DataError, IntegrityError, KeyError, TypeError):
        return False
    return True
