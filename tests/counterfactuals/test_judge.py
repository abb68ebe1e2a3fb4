"""A judge learns what it is shown, from few images or many, in two dimensions and three, the same every time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from scantling.counterfactuals.attribute_predictor import PredictorConfig, agreement, attribute_losses
from scantling.counterfactuals.attributes import Attribute, DeclaredAttribute, encoded, found
from scantling.counterfactuals.judge import JudgeConfig, train_judge
from scantling.counterfactuals.judging import held_out_scores, read_attributes
from scantling.errors import DataError

SMALL = JudgeConfig(network=PredictorConfig(widths=(16, 24, 32)), steps=80, batch_size=16)
SITE, GRADE, AGE = "site", "grade", "age"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Images of some 16 pixels are not worth the threads' waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(
    n: int, size: tuple[int, ...], *, seed: int = 0, site_b: float = 0.5, unknown: float = 0.0
) -> tuple[np.ndarray, torch.Tensor, tuple[Attribute, ...]]:
    """Images in which site B is striped, the grade is a ball's brightness, and age is the ground's brightness."""
    rng = np.random.default_rng(seed)
    texts: dict[str, list[str]] = {SITE: [], GRADE: [], AGE: []}
    images = np.empty((n, 1, *size), dtype=np.uint8)
    grid = np.indices(size)
    for index in range(n):
        site, grade, age = rng.random() < site_b, int(rng.integers(3)), float(rng.uniform(30, 80))
        ball = sum((axis - length / 2 - rng.uniform(-2, 2)) ** 2 for axis, length in zip(grid, size, strict=True)) < 36
        values = 20 + age + 60.0 * grade * ball + 50.0 * site * (grid[-1] % 4 < 2) + rng.normal(0, 6, size)
        images[index, 0] = values.round().clip(0, 255)
        for name, text in ((SITE, "AB"[site]), (GRADE, str(grade)), (AGE, str(age))):
            texts[name].append("" if rng.random() < unknown else text)
    kinds = {SITE: "binary", GRADE: "categorical", AGE: "continuous"}
    attributes = tuple(
        found(name, DeclaredAttribute.parse({"kind": kinds[name]}, where="test"), texts[name]) for name in texts
    )
    contexts = torch.cat([encoded(a, a.read(texts[a.name])) for a in attributes], dim=1).float()
    return images, contexts, attributes


def patients(n: int) -> list[str]:
    return [f"patient {index // 2}" for index in range(n)]


@pytest.mark.parametrize("size", [(20, 16), (9, 12, 14)])
def test_it_reads_every_kind_of_attribute_of_patients_it_never_saw(size: tuple[int, ...]) -> None:
    images, contexts, attributes = blobs(160, size, unknown=0.1)
    config = SMALL.model_copy(update={"steps": 200})
    judge, scores = train_judge(images, contexts, attributes, patients(160), generator=generator(), config=config)
    assert scores[SITE] > 0.9
    assert scores[GRADE] > 0.8
    assert scores[AGE] > 0.5
    assert not judge.training
    fresh, wanted, _ = blobs(60, size, seed=1)
    unseen = held_out_scores(read_attributes(judge, fresh).outputs, wanted, attributes)
    assert unseen[SITE] > 0.9
    assert unseen[GRADE] > 0.8


def test_tens_of_images_suffice_for_what_is_plain_to_see() -> None:
    images, contexts, attributes = blobs(24, (16, 16))
    config = SMALL.model_copy(update={"steps": 100})
    judge, _ = train_judge(images, contexts, attributes, patients(24), generator=generator(), config=config)
    fresh, wanted, _ = blobs(60, (16, 16), seed=1)
    assert held_out_scores(read_attributes(judge, fresh).outputs, wanted, attributes)[SITE] > 0.85


def test_the_same_generator_gives_the_same_bits_and_leaves_torchs_own_alone() -> None:
    images, contexts, attributes = blobs(20, (16, 16))
    before = torch.random.get_rng_state()
    config = SMALL.model_copy(update={"steps": 5})
    (first, scores), (again, same), (other, _) = (
        train_judge(images, contexts, attributes, patients(20), generator=generator(seed), config=config)
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert repr(scores) == repr(same)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_floats_in_minus_1_to_1_are_learnt_from_as_their_grey_values_are() -> None:
    images, contexts, attributes = blobs(12, (16, 16))
    config = SMALL.model_copy(update={"steps": 3})
    floats = (images.astype(np.float32) / np.float32(127.5)) - np.float32(1)
    trained = [
        train_judge(stored, contexts, attributes, patients(12), generator=generator(), config=config)[0]
        for stored in (images, floats)
    ]
    torch.testing.assert_close(trained[0].state_dict(), trained[1].state_dict(), rtol=1e-4, atol=1e-5)


def test_images_of_held_out_patients_do_not_teach() -> None:
    """Changed pixels of the two patients held out leave the convolutions as they were; those of the others do not."""
    images, contexts, attributes = blobs(12, (16, 16))
    config = SMALL.model_copy(update={"steps": 3, "held_out": 0.34})

    def weights(changed: int | None) -> torch.Tensor:
        stored = images.copy()
        if changed is not None:
            stored[2 * changed : 2 * changed + 2] = 255 - stored[2 * changed : 2 * changed + 2]
        judge, _ = train_judge(stored, contexts, attributes, patients(12), generator=generator(), config=config)
        return torch.cat([parameter.detach().flatten() for parameter in judge.stages.parameters()])

    plain = weights(None)
    taught = [not torch.equal(weights(patient), plain) for patient in range(6)]
    assert taught.count(False) == 2


def test_balanced_a_rare_value_is_as_probable_where_nothing_can_be_seen() -> None:
    """Images that say nothing: the answer is the share of the value, or, balanced, one half."""
    _, contexts, attributes = blobs(200, (4, 4), site_b=0.15)
    images = np.zeros((200, 1, 8, 8), dtype=np.uint8)
    share = float(contexts[:, 0].mean())
    wanted = {False: share, True: 0.5}
    for balance, probability in wanted.items():
        config = SMALL.model_copy(update={"balance": balance, "held_out": 0.0, "steps": 100, "batch_size": 50})
        judge, scores = train_judge(images, contexts, attributes, patients(200), generator=generator(), config=config)
        stated_b = contexts[contexts[:, 0] == 1][:1]
        agreed = agreement(read_attributes(judge, images[:1]).outputs, stated_b, attributes)[0, 0]
        assert float(agreed) == pytest.approx(probability, abs=0.04)
        assert all(math.isnan(score) for score in scores.values())


def test_a_judge_of_what_cannot_be_seen_is_not_sure_of_it() -> None:
    """Attributes that have nothing to do with the images, learnt by heart from a few."""
    images, contexts, attributes = blobs(80, (12, 12))
    shuffled = contexts[torch.randperm(80, generator=generator(3))]
    fresh, _, _ = blobs(100, (12, 12), seed=1)
    any_values = contexts[torch.randint(0, 80, (100,), generator=generator(4))]
    losses = {}
    for held_out in (0.3, 0.0):
        config = SMALL.model_copy(update={"held_out": held_out, "steps": 120, "shift": 0.0, "noise": 0.0})
        judge, _ = train_judge(images, shuffled, attributes, patients(80), generator=generator(), config=config)
        outputs = read_attributes(judge, fresh).outputs
        losses[held_out] = attribute_losses(outputs, any_values, attributes).mean(dim=0)
    chance = torch.tensor([math.log(2), math.log(3), 0.5 * math.log(2 * math.pi) + 0.5])
    assert (losses[0.3] < chance + torch.tensor([0.05, 0.05, 0.8])).all()  # a number's mean is still learnt by heart
    assert (losses[0.0] > losses[0.3]).all()
    assert losses[0.0][2] > losses[0.3][2] + 2


def test_one_patient_alone_can_be_learnt_from_but_not_measured_on() -> None:
    images, contexts, attributes = blobs(6, (16, 16))
    config = SMALL.model_copy(update={"steps": 2})
    _, scores = train_judge(images, contexts, attributes, ["one"] * 6, generator=generator(), config=config)
    assert all(math.isnan(score) for score in scores.values())


def test_images_without_patients_are_refused() -> None:
    images, contexts, attributes = blobs(6, (16, 16))
    with pytest.raises(DataError, match="6 images, 6 contexts and 5 patients; wanted at least one image"):
        train_judge(images, contexts, attributes, ["one"] * 5, generator=generator())
    with pytest.raises(DataError, match="0 images"):
        train_judge(images[:0], contexts[:0], attributes, [], generator=generator())
