"""The health of features: what is drawn, what is measured, what a run logs of it, and when a collapse is said."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data.prepared_cases import picture_plan_of, picture_set, plan_of, volume_set
from recipes.contract import build, loop_for
from scantling.data.plan import NetworkPlan, Plan
from scantling.data.store import PreparedCase, Store
from scantling.errors import DataError, IntegrityError
from scantling.evaluation.embedding import balanced_pixels, effective_rank, purity, unit_vectors
from scantling.evaluation.kmeans import kmeans
from scantling.evaluation.linear_probe import fit_linear_probe
from scantling.networks.build import build_network
from scantling.networks.unet import UNet
from scantling.seeding import numpy_generator, torch_generator
from scantling.shapes import IGNORE
from scantling.training import feature_pixels
from scantling.training import feature_validation as examination
from scantling.training.feature_pixels import draw_pixels
from scantling.training.feature_validation import MEASURES, Health, feature_validation
from scantling.training.loop import Loop
from scantling.training.loop_state import Validation
from scantling.training.observations import active_warnings
from scantling.training.optimisation import OptimisationConfig
from scantling.training.run_folder import RunFolder
from scantling.training.tensorboard import TensorBoard
from scantling.views.intensity import IntensityConfig
from scantling.views.maker import ViewConfig
from training.feature_process import SMALL
from two_processes import run_two

CPU = torch.device("cpu")
SAME_VIEWS = ViewConfig(
    rotation_probability=0, rotation_3d_probability=0, scale_probability=0, translate_probability=0,
    intensity=IntensityConfig(**{name: 0.0 for name in IntensityConfig.model_fields if name.endswith("probability")}),
)  # fmt: skip
CASES = 6


@pytest.fixture(autouse=True)
def _few_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for pictures of three regions."""
    for name, count in (("REFERENCE_PIXELS", 1800), ("CLUSTERED_PIXELS", 900), ("PAIRED_PIXELS", 300)):
        monkeypatch.setattr(examination, name, count)


@dataclass(frozen=True)
class Pictures:
    """Six pictures of 40 x 48 with a core in a shell, and their plan."""

    cases: tuple[PreparedCase, ...]
    plan: Plan

    def health(self, network: UNet, *, fitted: int = 3, **options: Any) -> Health:
        """The first cases are the reference."""
        cases = self.cases
        return feature_validation(cases[:fitted], cases[fitted:], self.plan, device=CPU, **options)(network)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    folder = tmp_path_factory.mktemp("pictures")
    manifest = picture_set(folder / "set", CASES)
    plan = picture_plan_of(manifest, network=SMALL)
    return Pictures(Store(folder / "cache").prepare(manifest.cases, manifest, plan).cases, plan)


def network_of(plan: Plan, seed: int = 0) -> UNet:
    generator = torch_generator(seed, "weights")
    return build_network(
        plan.network, dimensions=plan.dimensions, in_channels=1, out_channels=len(plan.classes.names),
        generator=generator,
    ).eval()  # fmt: skip


def feature_map(network: UNet, case: PreparedCase, tap: str) -> Tensor:
    """At the size of the image padded by hand to 40 x 48, which the strides divide."""
    with torch.inference_mode():
        found = network.features(torch.from_numpy(case.normalised())[None])[tap]
    return F.interpolate(found, case.grid.shape, mode="bilinear") if found.shape[2:] != case.grid.shape else found


# What is measured.


@pytest.mark.parametrize("tap", ["decoder.0", "encoder.1"])
def test_the_probes_dice_is_that_of_a_classifier_fitted_on_some_cases_and_scored_on_others(
    pictures: Pictures, tap: str
) -> None:
    network = network_of(pictures.plan)
    rows, labels, weights = [], [], []
    for case in pictures.cases[:3]:
        looked = draw_pixels(case, pictures.plan, per_class=200, seed=0)
        image = feature_map(network, case, tap)[0]
        for y, x in looked.pieces[0].indices:
            rows.append(image[:, y, x].numpy())
            labels.append(int(np.asarray(case.labels)[y, x]))
        weights.append(looked.weights)
    shares = np.bincount(labels, weights=np.concatenate(weights))
    weight = np.sqrt(shares)[labels] / np.bincount(labels)[labels]
    probe = fit_linear_probe(np.array(rows), np.array(labels), weights=weight)
    both, sizes = np.zeros(3), np.zeros(3)
    for case in pictures.cases[3:]:
        flat = feature_map(network, case, tap)[0].flatten(1).T.numpy()
        predicted, true = probe.predict(flat), np.asarray(case.labels).ravel()
        for k in range(3):
            both[k] += ((predicted == k) & (true == k)).sum()
            sizes[k] += (predicted == k).sum() + (true == k).sum()
    found = pictures.health(network, tap=tap)
    assert found.per_class == pytest.approx({"core": 2 * both[1] / sizes[1], "shell": 2 * both[2] / sizes[2]}, abs=2e-3)
    assert found.figures["probe_dice"] == pytest.approx(np.mean(list(found.per_class.values())))


def test_clusters_are_of_as_many_pixels_of_each_class_of_the_cases_that_are_scored(pictures: Pictures) -> None:
    network = network_of(pictures.plan)
    rows, labels = [], []
    for case in pictures.cases[3:]:
        looked = draw_pixels(case, pictures.plan, per_class=100, seed=0)
        y, x = looked.pieces[0].indices.T
        rows.append(feature_map(network, case, "decoder.0")[0][:, y, x].T.numpy())
        labels.append(looked.labels)
    features, known = unit_vectors(np.concatenate(rows)), np.concatenate(labels)
    rng = numpy_generator(0, "clusters")
    even = balanced_pixels(known, int(np.bincount(known).min()), rng)
    assert len(set(np.bincount(known[even]).tolist())) == 1
    expected = purity(kmeans(features[even], 3, rng).assignment, known[even])
    assert pictures.health(network).figures["kmeans_purity"] == pytest.approx(expected, abs=1e-3)


def test_two_equal_views_are_aligned_and_others_are_not(pictures: Pictures) -> None:
    network = network_of(pictures.plan)
    assert pictures.health(network, views=SAME_VIEWS).figures["alignment"] == pytest.approx(0, abs=1e-9)
    assert pictures.health(network).figures["alignment"] > 0.05


def test_features_that_are_all_multiples_of_one_have_rank_one_and_no_dimension_is_missed(pictures: Pictures) -> None:
    network = network_of(pictures.plan)
    plain = pictures.health(network).figures
    assert (plain["dimensions"], plain["classes"]) == (8, 3)
    assert (plain["cases_fitted"], plain["cases_scored"]) == (3, 3)
    assert 3 < plain["effective_rank"] <= 8
    assert -4 < plain["uniformity"] < 0
    make_one_direction(network)
    flat = pictures.health(network).figures
    assert flat["effective_rank"] == pytest.approx(1, abs=1e-3)
    make_one_point(network)
    point = pictures.health(network).figures
    assert point["feature_spread"] == pytest.approx(0, abs=1e-4)
    assert point["uniformity"] == pytest.approx(0, abs=1e-4)
    assert point["probe_dice"] == 0


def test_the_same_is_measured_of_random_weights_once_and_never_changes(pictures: Pictures) -> None:
    examine = feature_validation(pictures.cases[:3], pictures.cases[3:], pictures.plan, device=CPU, seed=5)
    first, second = (examine(network_of(pictures.plan, seed)).figures for seed in (1, 2))
    assert all(first[f"untrained_{name}"] == second[f"untrained_{name}"] for name in MEASURES)
    assert first["effective_rank"] != second["effective_rank"]
    fresh = build_network(
        SMALL, dimensions=2, in_channels=1, out_channels=3, generator=torch_generator(5, "untrained network")
    )
    itself = examine(fresh.eval()).figures
    assert all(itself[name] == itself[f"untrained_{name}"] for name in MEASURES)


def test_the_same_seed_gives_the_same_figures_and_the_time_is_said(pictures: Pictures) -> None:
    network = network_of(pictures.plan)
    first, again, other = (pictures.health(network, seed=seed) for seed in (0, 0, 1))
    assert first.figures == again.figures
    assert first.figures != other.figures
    assert 0 < first.seconds < 60


# What cannot be said.


def unlabelled(case: PreparedCase) -> PreparedCase:
    return replace(case, label_kind=None, annotated=np.zeros(3, dtype=bool), point_counts=(), known_slices=())


def test_without_labels_only_what_needs_none_is_measured(pictures: Pictures) -> None:
    cases = [unlabelled(case) for case in pictures.cases]
    for reference, probe in ((cases, []), ([], cases), (cases[:2], cases[2:])):
        found = feature_validation(reference, probe, pictures.plan, device=CPU)(network_of(pictures.plan))
        named = {name for name in MEASURES if math.isnan(found.figures[name])}
        assert named == {"probe_dice", "kmeans_purity", "centre_distance_over_spread"}
        assert found.per_class == {}
        assert found.figures["classes"] == 0
        assert found.as_validation(chooses=True).score is None


def test_labels_on_one_side_alone_give_clusters_and_no_probe(pictures: Pictures) -> None:
    network, cases = network_of(pictures.plan), pictures.cases
    for reference, probe in ((cases, ()), ((), cases), (cases, [unlabelled(c) for c in cases[:2]])):
        found = feature_validation(reference, probe, pictures.plan, device=CPU)(network).figures
        assert math.isnan(found["probe_dice"])
        assert 1 / 3 < found["kmeans_purity"] <= 1
        assert found["centre_distance_over_spread"] > 0


def test_a_class_that_the_few_labelled_cases_do_not_have_is_left_out_of_the_mean(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = PreparedCase.labels.fget  # type: ignore[attr-defined]

    def without_shell(case: PreparedCase) -> np.ndarray:
        labels = np.array(stored(case))
        if case.case_id in ("p0", "p1", "p2"):
            labels[labels == 2] = IGNORE
        return labels

    monkeypatch.setattr(PreparedCase, "labels", property(without_shell))
    found = pictures.health(network_of(pictures.plan))
    assert set(found.per_class) == {"core"}
    assert found.figures["probe_dice"] == found.per_class["core"]


def test_no_case_at_all_is_refused(pictures: Pictures) -> None:
    with pytest.raises(DataError, match=r"no case to look at.*E-EVL-20"):
        feature_validation([], [], pictures.plan, device=CPU)


def test_features_that_are_not_finite_end_the_run_with_a_reason(pictures: Pictures) -> None:
    network = network_of(pictures.plan)
    with torch.no_grad():
        network.decoder[-1].convs[-1].norm.weight.fill_(math.nan)
    with pytest.raises(IntegrityError, match=r"features at decoder.0 are not finite.*E-EVL-21"):
        pictures.health(network)


# What is drawn.


def test_pixels_are_drawn_evenly_by_class_and_stand_for_all_of_theirs(pictures: Pictures) -> None:
    case = pictures.cases[0]
    looked = draw_pixels(case, pictures.plan, per_class=30, seed=0)
    (piece,) = looked.pieces
    labels = np.asarray(case.labels)
    assert np.bincount(piece.labels).tolist() == [30, 30, 30]
    assert labels[tuple(piece.indices.T)].tolist() == piece.labels.tolist()
    assert np.bincount(piece.labels, weights=piece.weights) == pytest.approx(np.bincount(labels.ravel()))
    again = draw_pixels(case, pictures.plan, per_class=30, seed=0)
    assert again.pieces[0].indices.tolist() == piece.indices.tolist()
    assert draw_pixels(case, pictures.plan, per_class=30, seed=1).pieces[0].indices.tolist() != piece.indices.tolist()


def test_background_that_may_be_anything_is_not_drawn(pictures: Pictures) -> None:
    partly = replace(pictures.cases[0], annotated=np.array([True, True, False]))
    assert set(draw_pixels(partly, pictures.plan, per_class=30, seed=0).labels.tolist()) == {1, 2}


def test_pixels_nobody_looked_at_are_not_drawn(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.array(pictures.cases[0].labels)
    labels[:, :30] = IGNORE
    monkeypatch.setattr(PreparedCase, "labels", property(lambda _: labels))
    looked = draw_pixels(pictures.cases[0], pictures.plan, per_class=10_000, seed=0)
    assert len(looked.labels) == (labels >= 0).sum()
    assert (looked.pieces[0].indices[:, 1] >= 30).all()


def test_a_large_picture_is_looked_at_in_patches_with_foreground_and_without(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, plan = pictures.cases[0], pictures.plan.model_copy(update={"patch_size": (16, 16)})
    labels = np.asarray(case.labels)
    monkeypatch.setattr(feature_pixels, "WHOLE_VOXELS", 1000)
    monkeypatch.setattr(feature_pixels, "CASE_VOXELS", 4 * 256)
    places = [piece.place for piece in draw_pixels(case, plan, per_class=50, seed=0).pieces]
    assert [labels[place].shape for place in places] == [(16, 16)] * 4
    assert [bool((labels[place] > 0).any()) for place in places[:2]] == [True, False]
    monkeypatch.setattr(feature_pixels, "CASE_VOXELS", 10**6)
    seen = np.zeros(labels.shape, dtype=int)
    for piece in draw_pixels(case, plan, per_class=50, seed=0).pieces:
        seen[piece.place] += 1
    assert seen.min() == 1


def test_a_probe_works_on_patches_and_on_sizes_that_the_strides_do_not_divide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = picture_set(tmp_path / "set", 4, shape=(37, 45))
    plan = picture_plan_of(manifest, network=SMALL)
    cases = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan).cases
    examine = feature_validation(cases[:2], cases[2:], plan, device=CPU)
    whole = examine(network_of(plan)).figures["probe_dice"]
    monkeypatch.setattr(feature_pixels, "WHOLE_VOXELS", 1000)
    examine = feature_validation(cases[:2], cases[2:], plan, device=CPU)
    assert examine(network_of(plan)).figures["probe_dice"] == pytest.approx(whole, abs=0.15)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_volumes_are_looked_at_whole_or_slice_by_slice(
    dimensions: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = volume_set(tmp_path / "set", 3)
    changes: dict[str, Any] = {}
    if dimensions == 2:
        changes = {"dimensions": 2, "patch_size": (16, 16), "network": SMALL, "spacing_mm": (None, 1.0, 1.0)}
    plan = plan_of(manifest, **changes)
    cases = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan).cases
    pieces = draw_pixels(cases[0], plan, per_class=20, seed=0).pieces
    assert len(pieces) == (1 if dimensions == 3 else cases[0].grid.shape[0])
    monkeypatch.setattr(feature_pixels, "CASE_VOXELS", 2 * 24 * 28)
    if dimensions == 2:
        assert len(draw_pixels(cases[0], plan, per_class=20, seed=0).pieces) == 2
    found = feature_validation(cases[:1], cases[1:], plan, device=CPU)(network_of(plan))
    assert all(math.isfinite(value) for value in found.figures.values())
    assert set(found.per_class) == {"core", "shell"}


def test_two_processes_share_the_cases_and_find_what_one_finds(tmp_path: Path) -> None:
    run_two(Path(__file__).with_name("feature_process.py"), tmp_path)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first["together"] == first["alone"] == second["together"]


# What a run says of it.


def make_one_direction(network: UNet) -> None:
    """Every channel of the finest level becomes the first."""
    last = network.decoder[-1].convs[-1]
    with torch.no_grad():
        last.conv.weight.copy_(last.conv.weight[:1].expand_as(last.conv.weight))


def make_one_point(network: UNet) -> None:
    """Every channel of the finest level becomes a constant."""
    last = network.decoder[-1].convs[-1]
    with torch.no_grad():
        last.norm.weight.zero_()
        last.norm.bias.fill_(1.0)


def examined_loop(
    folder: Path, pictures: Pictures, *, steps: int = 20, chooses: bool = False
) -> tuple[Loop, list[str]]:
    plain = OptimisationConfig(learning_rate=5e-3, average_decay=0.0)  # what is examined is what was just trained
    loop = loop_for(build("supervised"), folder, steps=steps, optimisation=plain)
    examine = feature_validation(pictures.cases[:3], pictures.cases[3:], pictures.plan, device=CPU)
    loop.validate = lambda network: examine(network).as_validation(chooses=chooses)
    said: list[str] = []
    loop.display.say = said.append  # type: ignore[method-assign]
    return loop, said


def events(folder: Path, *names: str) -> list[dict[str, Any]]:
    return [event for event in RunFolder(folder).read_log() if event["event"] in names]


def test_each_validation_is_an_event_of_its_own_and_chooses_nothing_unless_told_to(
    pictures: Pictures, tmp_path: Path
) -> None:
    loop, said = examined_loop(tmp_path, pictures, steps=10)
    trained = loop.run()
    found = events(tmp_path, "health")
    assert [event["step"] for event in found] == [5, 10]
    assert set(found[0]["figures"]) >= {*MEASURES, *(f"untrained_{name}" for name in MEASURES), "dimensions"}
    assert set(found[0]["per_class"]) == {"core", "shell"}
    assert found[0]["seconds"] > 0
    assert [event["validation"] for event in events(tmp_path, "epoch")] == [None, None]
    assert (loop.state.best_score, loop.state.validations_since_best) == (None, 0)
    for name, tensor in loop.recipe.deployable().state_dict().items():
        assert torch.equal(tensor, trained.state_dict()[name])
    assert (said, events(tmp_path, "contrast_warning"), active_warnings(loop.state)) == ([], [], [])
    assert not (tmp_path / "run.json").exists()


def test_the_probes_dice_chooses_the_weights_where_it_is_to(pictures: Pictures, tmp_path: Path) -> None:
    loop, _ = examined_loop(tmp_path, pictures, steps=10, chooses=True)
    loop.run()
    dice = [event["figures"]["probe_dice"] for event in events(tmp_path, "health")]
    assert loop.state.best_score == max(dice)
    assert loop.state.measure == "probe_dice"
    assert [event["validation"]["probe_dice"] for event in events(tmp_path, "epoch")] == dice


def test_features_that_become_one_point_are_said_at_once_and_so_is_their_end(
    pictures: Pictures, tmp_path: Path
) -> None:
    loop, said = examined_loop(tmp_path, pictures, steps=20)
    after_step = loop.recipe.after_step

    def collapsing() -> None:
        after_step()
        if 5 <= loop.state.step < 15:
            make_one_point(loop.recipe.deployable())
        elif loop.state.step == 15:
            torch.nn.init.ones_(loop.recipe.deployable().decoder[-1].convs[-1].norm.weight)

    loop.recipe.after_step = collapsing  # type: ignore[method-assign]
    loop.stop = lambda: bool(loop.state.step == 12 and seen.extend(RunFolder(tmp_path).status()["contrast_warnings"]))
    seen: list[str] = []
    loop.run()
    sentence = (
        "since step 10 the network's features of all pixels have been nearly one point: they have collapsed, and say "
        "nothing of the image"
    )
    (begun,) = [event for event in events(tmp_path, "contrast_warning") if event["kind"] == "one_point"]
    assert (begun["step"], begun["term"], begun["sentence"]) == (10, "features", sentence)
    assert said.count(f"Warning at step 10: {sentence}.") == 1
    assert sentence in seen
    assert "Recovered at step 20: the network's features are spread out again." in said
    assert active_warnings(loop.state) == RunFolder(tmp_path).status()["contrast_warnings"] == []


def test_features_of_one_direction_are_said_and_the_warning_holds_to_the_end(
    pictures: Pictures, tmp_path: Path
) -> None:
    loop, said = examined_loop(tmp_path, pictures, steps=10)
    after_step = loop.recipe.after_step

    def collapsing() -> None:
        after_step()
        make_one_direction(loop.recipe.deployable())

    loop.recipe.after_step = collapsing  # type: ignore[method-assign]
    loop.run()
    (sentence,) = active_warnings(loop.state)
    assert sentence.startswith(
        "since step 5 the network's features have filled no more than 2 of 8 dimensions, and their"
    )
    assert RunFolder(tmp_path).status()["contrast_warnings"] == [sentence]
    assert [line for line in said if "Warning" in line] == [f"Warning at step 5: {sentence}."]


def test_a_validation_that_is_done_again_after_a_kill_is_in_the_log_once(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    warning = {"kind": "one_point", "term": "features", "class": None, "sentence": "since step 10"}
    of_contrast = {**warning, "term": "pixel_contrast"}
    for dice in (0.1, 0.2):
        run.append_log("health", step=5, figures={"probe_dice": 0.0}, per_class={}, seconds=1.0)
        run.append_log("epoch", step=5)
        run.append_log("contrast_warning", step=10, **of_contrast)
        run.append_log("health", step=10, figures={"probe_dice": dice}, per_class={}, seconds=1.0)
        run.append_log("contrast_warning", step=10, **warning)
        if dice == 0.1:  # killed between the validation and the epoch's line
            run.append_log("resumed", step=4)
    run.append_log("resumed", step=10)
    run.append_log("health", step=10, figures={"probe_dice": 0.3}, per_class={}, seconds=1.0)
    run.append_log("contrast_warning", step=10, **warning)
    run.append_log("epoch", step=10)
    found = [(e["event"], e["step"], e.get("term"), e.get("figures", {}).get("probe_dice")) for e in run.read_log()]
    assert [event for event in found if event[0] != "resumed"] == [
        ("health", 5, None, 0.0), ("epoch", 5, None, None), ("contrast_warning", 10, "pixel_contrast", None),
        ("health", 10, None, 0.3), ("contrast_warning", 10, "features", None), ("epoch", 10, None, None),
    ]  # fmt: skip


def test_what_is_not_known_is_logged_as_null(tmp_path: Path) -> None:
    loop = loop_for(build("supervised"), tmp_path, steps=5)
    figures = {"probe_dice": math.nan, "effective_rank": 6.0, "dimensions": 8.0, "feature_spread": 0.7}
    figures["centre_distance_over_spread"] = math.inf
    loop.validate = lambda _: Validation(score=None, per_class={"core": math.nan}, figures=figures)
    loop.run()
    (event,) = events(tmp_path, "health")
    assert event["figures"]["probe_dice"] is event["figures"]["centre_distance_over_spread"] is None
    assert event["figures"]["effective_rank"] == 6.0
    assert event["per_class"] == {"core": None}


def test_a_tap_of_many_channels_can_be_examined(tmp_path: Path) -> None:
    manifest = picture_set(tmp_path / "set", 3)
    wide = NetworkPlan(features=(4, 64), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)))
    plan = picture_plan_of(manifest, network=wide)
    cases = Store(tmp_path / "cache").prepare(manifest.cases, manifest, plan).cases
    network = network_of(plan)
    found = feature_validation(cases[:1], cases[1:], plan, tap="encoder.1", device=CPU)(network).figures
    assert found["dimensions"] == 64
    with torch.inference_mode():
        rows = network.features(torch.from_numpy(cases[1].normalised())[None])["encoder.1"][0].flatten(1).T.numpy()
    assert found["effective_rank"] == pytest.approx(effective_rank(unit_vectors(rows)), rel=0.3)


def test_tensorboard_gets_the_figures_that_are_known() -> None:
    written: dict[str, tuple[float, int]] = {}

    class Writer:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            written[name] = (value, step)

        def flush(self) -> None: ...

    board = TensorBoard.__new__(TensorBoard)
    board._writer = Writer()
    facts = {"step": 5, "losses": {}, "learning_rate": None, "samples_per_second": None, "validation": None}
    board.epoch({**facts, "health": {"effective_rank": 6.0, "probe_dice": math.nan}})
    assert written == {"health/effective_rank": (6.0, 5)}
