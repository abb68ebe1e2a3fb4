from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from scantling.shapes import IGNORE
from scantling.targets.trust import (
    Origin,
    agreement_trust,
    border_distance_mm,
    border_trust,
    case_trust,
    combined_trust,
    corrected_labels,
    uncertainty_trust,
)


def distance_by_loops(labels: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    places = list(itertools.product(*map(range, labels.shape)))
    result = np.full(labels.shape, np.inf)
    for here in places:
        if labels[here] == IGNORE:
            result[here] = 0
            continue
        for there in places:
            if labels[there] not in (labels[here], IGNORE):
                offset = [(a - b) * mm for a, b, mm in zip(here, there, spacing_mm, strict=True)]
                result[here] = min(result[here], math.hypot(*offset))
    return result


@pytest.mark.parametrize(("shape", "spacing"), [((9, 11), (0.7, 1.3)), ((4, 6, 5), (3.0, 0.8, 1.1))])
@pytest.mark.parametrize("unknown", [False, True])
def test_the_border_distance_equals_a_search_over_all_pixels(
    shape: tuple[int, ...], spacing: tuple[float, ...], unknown: bool
) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros(shape, np.int64)
    labels[tuple(slice(1, n - 1) for n in shape)] = 1
    labels[tuple(slice(2, n // 2 + 1) for n in shape)] = 2
    labels[tuple(slice(n - 1, n) for n in shape)] = 3
    if unknown:
        labels[rng.random(shape) < 0.2] = IGNORE
    found = border_distance_mm(torch.from_numpy(labels), spacing)
    np.testing.assert_allclose(found, distance_by_loops(labels, spacing), rtol=1e-6)


def test_the_end_of_the_image_is_no_border_and_a_map_without_labels_has_no_distance() -> None:
    assert (border_distance_mm(torch.ones(3, 4, dtype=torch.long), (1, 1)) == math.inf).all()
    assert (border_distance_mm(torch.full((3, 4), IGNORE), (1, 1)) == 0).all()


def test_trust_rises_from_the_border_and_saturates() -> None:
    trust = border_trust(torch.tensor([0.0, 2.0, 4.0, math.inf]), scale_mm=2.0, lowest=0.2)
    expected = [0.2, 1 - 0.8 / math.e, 1 - 0.8 / math.e**2, 1.0]
    torch.testing.assert_close(trust, torch.tensor(expected))
    for wrong in ({"scale_mm": 0.0}, {"scale_mm": 1.0, "lowest": 1.5}):
        with pytest.raises(ValueError, match="wanted scale_mm > 0"):
            border_trust(torch.zeros(2), **wrong)


def test_the_trust_in_a_case_is_a_straight_line_between_its_ends() -> None:
    found = [case_trust(q, worst=0.6, best=0.8) for q in (0.1, 0.6, 0.65, 0.7, 0.8, 1.0)]
    assert found == pytest.approx([0, 0, 0.25, 0.5, 1, 1])
    assert case_trust(math.nan) == 0
    with pytest.raises(ValueError, match="wanted worst < best"):
        case_trust(0.5, worst=0.9, best=0.9)


PROBS = torch.tensor([[[0.7, 0.1, 0.2, 0.4], [0.2, 0.8, 0.5, 0.3], [0.1, 0.1, 0.3, 0.3]]])
"""One image, three classes, four pixels."""


def test_agreement_is_the_labels_share_of_the_highest_probability() -> None:
    labels = torch.tensor([[0, 0, 2, IGNORE]])
    torch.testing.assert_close(agreement_trust(labels, PROBS), torch.tensor([[1.0, 0.1 / 0.8, 0.3 / 0.5, 0.0]]))
    assert not agreement_trust(labels, PROBS.clone().requires_grad_()).requires_grad


def test_a_background_label_agrees_with_classes_nobody_looked_for() -> None:
    labels = torch.tensor([[0, 0, 2, 0]])
    annotated = torch.tensor([[True, False, True]])
    found = agreement_trust(labels, PROBS, annotated=annotated)
    torch.testing.assert_close(found, torch.tensor([[1.0, 1.0, 0.3 / 0.5, 1.0]]))
    nothing_more = agreement_trust(labels, PROBS, annotated=torch.ones(1, 3, dtype=torch.bool))
    torch.testing.assert_close(nothing_more, agreement_trust(labels, PROBS))


def test_uncertainty_lowers_trust_exponentially() -> None:
    found = uncertainty_trust(torch.tensor([[0.0, 1.0, 2.0]], requires_grad=True), scale=2.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, math.exp(-0.5), math.exp(-1)]]))
    assert not found.requires_grad
    with pytest.raises(ValueError, match="wanted scale > 0"):
        uncertainty_trust(torch.zeros(1, 2), scale=0)


def test_parts_are_joined_clipped_and_0_where_nothing_is_known() -> None:
    one = torch.tensor([[0.5, 2.0, -1.0, 0.8, math.nan]])
    other = torch.tensor([[0.4, 0.5, 0.5, 1.0, 1.0]])
    labels = torch.tensor([[1, 0, 1, IGNORE, 1]])
    torch.testing.assert_close(combined_trust(one, other, label_maps=labels), torch.tensor([[0.2, 0.5, 0, 0, 0]]))
    torch.testing.assert_close(combined_trust(one, other, how="least"), torch.tensor([[0.4, 0.5, 0, 0.8, 0]]))
    with pytest.raises(ValueError, match="got no weights"):
        combined_trust(label_maps=labels)


def correction_by_loops(labels: Tensor, probs: Tensor, limits: list[float], doubt: str, fill: bool, trusted: Tensor):
    changed, origins = labels.clone(), torch.zeros_like(labels, dtype=torch.int8)
    for place in itertools.product(*map(range, labels.shape)):
        p = probs[(place[0], slice(None), *place[1:])]
        k, given = int(p.argmax()), int(labels[place])
        sure = float(p[k]) >= limits[k]
        origin = Origin.UNKNOWN if given == IGNORE else Origin.GIVEN
        if not trusted[place]:
            if given == IGNORE and fill and sure:
                origin, given = Origin.FILLED, k
            elif given not in (IGNORE, k) and sure:
                origin, given = Origin.CORRECTED, k
            elif given not in (IGNORE, k) and doubt == "ignore":
                origin, given = Origin.DOUBTED, IGNORE
        changed[place], origins[place] = given, origin
    return changed, origins


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 3, 4, 5)])
@pytest.mark.parametrize("doubt", ["keep", "ignore"])
@pytest.mark.parametrize("fill", [False, True])
def test_correction_equals_its_rules_pixel_by_pixel_and_says_where_each_label_is_from(
    shape: tuple[int, ...], doubt: str, fill: bool
) -> None:
    draw = torch.Generator().manual_seed(0)
    probs = (2 * torch.randn(shape[0], 3, *shape[1:], generator=draw)).softmax(dim=1)
    labels = torch.randint(-1, 3, shape, generator=draw)
    trusted = torch.rand(shape, generator=draw) < 0.2
    limits = [0.6, 0.7, 0.8]
    found = corrected_labels(labels, probs, threshold=torch.tensor(limits), trusted=trusted, in_doubt=doubt, fill=fill)
    changed, origins = correction_by_loops(labels, probs, limits, doubt, fill, trusted)
    assert torch.equal(found.label_maps, changed)
    assert torch.equal(found.origins, origins)
    kinds = {Origin.UNKNOWN, Origin.GIVEN, Origin.CORRECTED}
    kinds |= {Origin.FILLED} if fill else set()
    kinds |= {Origin.DOUBTED} if doubt == "ignore" else set()
    assert set(found.origins.unique().tolist()) == kinds
    plain = corrected_labels(labels, probs, threshold=0.7)
    assert torch.equal(
        plain.label_maps, correction_by_loops(labels, probs, [0.7] * 3, "keep", False, trusted & False)[0]
    )


def test_a_background_pixel_is_not_corrected_to_a_class_nobody_looked_for() -> None:
    labels = torch.tensor([[0, 0, 2, 0]])
    annotated = torch.tensor([[True, False, True]])
    found = corrected_labels(labels, PROBS, threshold=0.4, annotated=annotated, in_doubt="ignore")
    assert found.label_maps.tolist() == [[0, 0, 1, 0]]
    everything = corrected_labels(labels, PROBS, threshold=0.4, in_doubt="ignore")
    assert everything.label_maps.tolist() == [[0, 1, 1, 0]]
