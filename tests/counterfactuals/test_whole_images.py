from __future__ import annotations

import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import scantling.counterfactuals.whole_images as module
from counterfactuals.toy_image_model import graph, greys, plan, write_pictures
from scantling.counterfactuals.image_plan import ChannelScaling
from scantling.counterfactuals.table import row_of
from scantling.counterfactuals.whole_images import WholeImages, read_source, to_model
from scantling.data.case import Case
from scantling.errors import DataError, PlanMismatch
from scantling.shapes import IGNORE
from scantling.training.batches import NamedSource


def pictures(folder: Path, n: int = 7) -> tuple[Case, ...]:
    return write_pictures(folder, [greys((10 + i, 12), i) for i in range(n)])


def whole(cases: Sequence[Case], cache: Path, wanted: Any = None, **settings: Any) -> WholeImages:
    contexts = graph().encode([row_of(case) for case in cases])
    return WholeImages(cases, wanted or plan(), contexts, **{"seed": 3, "cache": cache, **settings})


def files(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


def test_samples_are_the_images_of_the_model_to_half_a_step(tmp_path: Path) -> None:
    cases = pictures(tmp_path / "data")
    images = whole(cases, tmp_path / "cache")
    for index, case in enumerate(cases):
        expected = to_model(read_source(case, 1), plan()).values
        assert np.abs(images.values([index])[0].numpy() - expected).max() <= 0.5 / 127.5 + 1e-6
    assert images.images.dtype == np.uint8
    assert images.images.shape == (7, 1, 8, 8)


def test_bytes_of_the_models_size_come_through_exactly(tmp_path: Path) -> None:
    array = np.arange(256, dtype=np.uint8).reshape(16, 16)
    images = whole(write_pictures(tmp_path / "data", [array]), tmp_path / "cache", plan((16, 16)))
    assert np.array_equal(images.images[0, 0], array)
    values = images.values(np.array([0]))
    assert values.dtype == torch.float32
    assert torch.equal(values[0, 0], torch.from_numpy(array) / 127.5 - 1)


def test_a_sample_says_what_training_needs(tmp_path: Path) -> None:
    cases = pictures(tmp_path / "data")
    images = whole(cases, tmp_path / "cache")
    assert isinstance(images, NamedSource)
    assert len(images) == 7
    sample = images.sample(2, 5)
    case = cases[sample.case_index]
    assert images.case_name(2, 5) == case.case_id
    assert sample.key == (2, 5)
    assert sample.patient_index == sample.case_index // 2  # two cases a patient
    assert torch.equal(sample.image, images.values([sample.case_index])[0])
    assert sample.context is not None
    assert torch.equal(sample.context, graph().encode([row_of(case)])[0])
    assert (sample.label_map == IGNORE).all()
    assert (sample.weight == 1).all()
    assert not sample.annotated.any()
    assert sample.spacing_mm == (1.0, 1.0)
    assert torch.equal(sample.source_from_sample, torch.eye(3))


def test_every_epoch_is_a_permutation_of_its_own_and_a_long_one_goes_round_again(tmp_path: Path) -> None:
    images = whole(pictures(tmp_path / "data"), tmp_path / "cache")
    orders = [[images.case_at(epoch, position) for position in range(14)] for epoch in range(3)]
    assert all(sorted(order[:7]) == sorted(order[7:]) == list(range(7)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert orders[0][:7] != orders[0][7:]
    again = whole(images.cases, tmp_path / "cache")
    assert [again.case_at(1, position) for position in range(14)] == orders[1]
    other = whole(images.cases, tmp_path / "cache", seed=4)
    assert [other.case_at(1, position) for position in range(14)] != orders[1]


def test_images_are_stretched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = pictures(tmp_path / "data")
    first = whole(cases, tmp_path / "cache")
    before = files(tmp_path / "cache")
    monkeypatch.setattr(module, "to_model", lambda *_: pytest.fail("stretched again"))
    second = whole(cases, tmp_path / "cache")
    assert files(tmp_path / "cache") == before
    assert len(before) == 2
    assert np.array_equal(first.images, second.images)


@pytest.mark.parametrize("change", ["content", "size", "scaling", "order"])
def test_whatever_changes_the_bytes_changes_the_key(tmp_path: Path, change: str) -> None:
    cases, wanted = pictures(tmp_path / "data"), plan()
    old = whole(cases, tmp_path / "cache").images.copy()
    if change == "content":
        write_pictures(tmp_path / "data", [greys((12, 12), 99)])
    elif change == "size":
        wanted = plan((8, 12))
    elif change == "scaling":
        wanted = plan(scaling=(ChannelScaling(scheme="own"),))
    else:
        cases = cases[::-1]
    new = whole(cases, tmp_path / "cache", wanted)
    assert new.images.shape != old.shape or not np.array_equal(new.images, old)
    assert len(files(tmp_path / "cache")) == 4


def test_a_damaged_cache_is_made_again(tmp_path: Path) -> None:
    cases = pictures(tmp_path / "data")
    good = whole(cases, tmp_path / "cache").images.copy()
    path = next((tmp_path / "cache").rglob("*.npy"))
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert np.array_equal(whole(cases, tmp_path / "cache").images, good)
    path.with_suffix(".json").write_text("{}")
    assert np.array_equal(whole(cases, tmp_path / "cache").images, good)


def test_a_build_that_was_killed_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD", 2)
    cases = pictures(tmp_path / "data")
    expected = whole(cases, tmp_path / "undisturbed").images.copy()
    real, stretched = to_model, []

    def until_the_fifth(source: Any, wanted: Any) -> Any:
        stretched.append(source.case_id)
        if len(stretched) == 5:
            raise KeyboardInterrupt
        return real(source, wanted)

    monkeypatch.setattr(module, "_THREADS", 1)
    monkeypatch.setattr(module, "to_model", until_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        whole(cases, tmp_path / "cache")
    seen: list[tuple[int, int]] = []
    images = whole(cases, tmp_path / "cache", progress=lambda done, total: seen.append((done, total)))
    assert "case_0" not in stretched[5:]
    assert "case_3" not in stretched[5:]
    assert np.array_equal(images.images, expected)
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
    assert len(files(tmp_path / "cache")) == 2  # the parts are gone


def test_several_at_once_build_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SHARD", 1)
    cases = pictures(tmp_path / "data")
    built: list[WholeImages] = []
    threads = [threading.Thread(target=lambda: built.append(whole(cases, tmp_path / "cache"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 3
    assert all(np.array_equal(images.images, built[0].images) for images in built)


def test_it_goes_to_a_worker_without_its_images(tmp_path: Path) -> None:
    cases = write_pictures(tmp_path / "data", [greys((16, 16), i) for i in range(8)])
    images = whole(cases, tmp_path / "cache", plan((64, 64)))
    sent = pickle.dumps(images)
    assert len(sent) < images.images.nbytes / 2
    there = pickle.loads(sent)
    assert torch.equal(there.sample(1, 3).image, images.sample(1, 3).image)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    cases = pictures(tmp_path / "data", 2)
    with pytest.raises(DataError, match="no case"):
        whole((), tmp_path / "cache")
    with pytest.raises(PlanMismatch, match="contexts"):
        WholeImages(cases, plan(), torch.zeros(2, 3), seed=0, cache=tmp_path / "cache")
    cases[1].images[0].unlink()
    with pytest.raises(DataError, match=r"case case_1: .*case_1\.png"):
        whole(cases, tmp_path / "cache")
