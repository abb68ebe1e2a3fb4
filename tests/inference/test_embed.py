"""Dense features: the network's own, on the prepared image's grid, and taken back to the image's axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from scantling.data.image import picture_geometry
from scantling.data.image_io import MedicalImage, read_image
from scantling.data.plan import IntensityPlan, Plan
from scantling.data.prepare import intensity_maps, prepare_image
from scantling.errors import ConfigError, ResourceError
from scantling.inference.embed import Embedder, Embedding
from scantling.inference.model_folder import FEATURES, LoadedModel, save_model
from scantling.networks import build_network
from scantling.networks.unet import UNet
from scantling.seeding import torch_generator

Make = Callable[..., Plan]
Write = Callable[..., Path]


def network_of(plan: Plan) -> UNet:
    return build_network(
        plan.network, dimensions=plan.dimensions, in_channels=1, out_channels=2, generator=torch_generator(0, "test")
    ).eval()


def embedder_of(plan: Plan, tap: str = "", **meta: object) -> Embedder:
    return Embedder(LoadedModel(network=network_of(plan), plan=plan, meta=meta), torch.device("cpu"), tap=tap)


def picture(shape: tuple[int, int], seed: int = 0) -> MedicalImage:
    array = np.random.default_rng(seed).integers(0, 200, (1, *shape)).astype(np.uint8)
    return MedicalImage(array=array, geometry=picture_geometry(shape, "png"))


def z_scored(values: np.ndarray) -> np.ndarray:
    return np.asarray((values - values.mean()) / values.std())


@pytest.mark.parametrize("tap", ["decoder.0", "encoder.1", "encoder.0"])
def test_an_image_of_one_patch_has_the_features_of_one_pass(make_plan: Make, tap: str) -> None:
    plan = make_plan(2, 2, patch_size=(16, 24))
    embedder, image = embedder_of(plan, tap), picture((16, 24))
    found = embedder.embed([image])
    prepared = torch.from_numpy(prepare_image([image], plan).values())
    with torch.no_grad():
        wanted = embedder.network.features(prepared[None])[tap][0]
    torch.testing.assert_close(torch.from_numpy(found.features), wanted, atol=1e-5, rtol=1e-5)
    assert found.stride == (embedder.network.taps[tap].stride)


def test_a_smaller_image_is_padded_and_an_odd_length_covered_by_a_coarse_map(make_plan: Make) -> None:
    plan = make_plan(2, 2, patch_size=(16, 16))
    image = picture((13, 10))
    fine, coarse = embedder_of(plan).embed([image]), embedder_of(plan, "encoder.1").embed([image])
    assert fine.features.shape == (4, 13, 10)
    assert coarse.features.shape == (8, 7, 5)
    prepared = prepare_image([image], plan).values()
    canvas = np.zeros((1, 16, 16), np.float32)
    canvas[:, 1:14, 3:13] = prepared
    with torch.no_grad():
        wanted = network_of(plan).features(torch.from_numpy(canvas)[None])["decoder.0"][0]
    np.testing.assert_allclose(fine.features, wanted[:, 1:14, 3:13], atol=1e-5)
    assert coarse.in_image_axes(coarse.features).shape == (8, 13, 10)


@pytest.mark.parametrize(("tap", "step"), [("decoder.0", 1), ("encoder.1", 2)])
def test_a_larger_image_is_the_weighted_mean_of_its_tiles(make_plan: Make, tap: str, step: int) -> None:
    plan = make_plan(2, 2, patch_size=(32, 32))
    embedder, image = embedder_of(plan, tap), picture((48, 80))
    prepared = torch.from_numpy(prepare_image([image], plan).values())
    side = 32 // step
    bell = np.exp(-0.5 * ((np.arange(side) - (side - 1) / 2) / (side / 8)) ** 2)  # half a tile overlaps the next one
    total = np.zeros((embedder.n_features, 48 // step, 80 // step))
    weights = np.zeros((48 // step, 80 // step))
    for top in range(0, 48 - 16, 16):
        for left in range(0, 80 - 16, 16):
            with torch.no_grad():
                tile = embedder.network.features(prepared[None, :, top : top + 32, left : left + 32])[tap][0].numpy()
            own = np.s_[top // step : top // step + side, left // step : left // step + side]
            total[:, *own] += tile * np.outer(bell, bell)
            weights[own] += np.outer(bell, bell)
    np.testing.assert_allclose(embedder.embed([image]).features, total / weights, atol=1e-4)


def test_a_network_of_slices_gives_each_slice_of_a_volume_its_own_features(
    make_plan: Make, write_nifti: Write, tmp_path: Path
) -> None:
    voxels = np.random.default_rng(1).integers(0, 200, (8, 8, 8)).astype(np.int16)
    image = read_image(write_nifti(tmp_path / "v.nii.gz", voxels))
    plan = make_plan(3, 2, patch_size=(8, 8))
    embedder = embedder_of(plan, "encoder.1")
    found = embedder.embed([image])
    assert found.stride == (1, 2, 2)
    prepared = torch.from_numpy(prepare_image([image], plan).values())
    assert found.features.shape == (8, 8, 4, 4)
    with torch.no_grad():
        wanted = torch.stack([embedder.network.features(prepared[:, k][None])["encoder.1"][0] for k in range(8)], dim=1)
    np.testing.assert_allclose(found.features, wanted, atol=1e-4)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "ASL"])
def test_maps_come_back_in_the_axes_of_the_image(
    make_plan: Make, write_nifti: Write, tmp_path: Path, axes: str
) -> None:
    voxels = np.random.default_rng(1).integers(0, 200, (8, 12, 6)).astype(np.int16)
    image = read_image(write_nifti(tmp_path / "v.nii.gz", voxels, axes=axes))
    plan = make_plan(3, 3, patch_size=(8, 8, 8))
    found = embedder_of(plan).embed([image])
    prepared = prepare_image([image], plan).values()
    np.testing.assert_allclose(found.in_image_axes(prepared)[0], z_scored(image.array[0]), atol=1e-3)
    assert found.in_image_axes(found.features).shape == (4, *image.geometry.shape)


def test_a_coarse_map_is_read_at_the_centres_of_finer_pixels(make_plan: Make) -> None:
    found = embedder_of(make_plan(2, 2, patch_size=(16, 16)), "encoder.1").embed([picture((16, 16))])
    ramp = np.broadcast_to((np.arange(8, dtype=np.float32) + 0.5) / 8, (1, 8, 8))
    inner = found.in_image_axes(ramp)[0, :, 1:-1]
    np.testing.assert_allclose(inner, np.broadcast_to((np.arange(1, 15) + 0.5) / 16, (16, 14)), atol=1e-6)
    blocks = found.in_image_axes(ramp, nearest=True)[0]
    np.testing.assert_array_equal(blocks, np.repeat(np.repeat(ramp[0], 2, axis=0), 2, axis=1))


def test_a_pretrained_folder_is_read_and_its_own_level_is_the_default(make_plan: Make, tmp_path: Path) -> None:
    plan = make_plan(2, 2, patch_size=(16, 16))
    save_model(tmp_path / "run" / "model", network_of(plan), plan, {"tap": "encoder.1"}, kind=FEATURES)
    embedder = Embedder.load(tmp_path / "run", device="cpu")
    assert (embedder.tap, embedder.n_features) == ("encoder.1", 8)
    assert Embedder.load(tmp_path / "run", device="cpu", tap="encoder.0").tap == "encoder.0"
    assert embedder_of(plan).tap == "decoder.0"
    with pytest.raises(ConfigError, match=r"--tap decoder\.9: no level of this network.*decoder\.0.*E-FIG-04"):
        embedder_of(plan, "decoder.9")


def test_an_image_whose_features_do_not_fit_is_refused_before_it_is_looked_at(
    make_plan: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = embedder_of(make_plan(2, 2, patch_size=(16, 16)))
    monkeypatch.setattr(embedder, "_features", lambda *_: pytest.fail("was looked at"))
    memory = type("Memory", (), {"available": 1000})()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(ResourceError, match=r"32 x 32: its features at decoder\.0 take .* --tap .*E-FIG-05"):
        embedder.embed([picture((32, 32))])


def test_intensities_of_another_image_can_be_used(make_plan: Make) -> None:
    plan = make_plan(2, 2, patch_size=(16, 16), intensities=(IntensityPlan(scheme="zscore"),))
    embedder, real = embedder_of(plan), picture((16, 16))
    brighter = MedicalImage(array=(real.array + 50).astype(np.uint8), geometry=real.geometry)
    own: Embedding = embedder.embed([brighter])
    np.testing.assert_allclose(own.features, embedder.embed([real]).features, atol=1e-3)  # a shift is normalised away
    shared = embedder.embed([brighter], maps=intensity_maps([real], plan))
    assert np.abs(shared.features - own.features).max() > 0.01
