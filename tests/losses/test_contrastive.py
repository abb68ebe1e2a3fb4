"""The streaming contrast against its definition, one pair at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from scantling.losses.contrastive import info_nce
from scantling.losses.pairs import Groups, PairBlock, Pairs
from scantling.losses.tiles import Setting, Tiles

YES, NO, NEITHER = 1, 0, -1


def pairs_of(kind: Tensor, **more: Any) -> Pairs:
    """Pairs from a matrix of YES, NO, NEITHER."""

    def block(rows: slice, columns: slice) -> PairBlock:
        part = kind[rows, columns]
        return PairBlock(positive=part == YES, compared=part != NEITHER)

    return Pairs(n_anchors=kind.shape[0], n_keys=kind.shape[1], block=block, **more)


def by_loops(anchors: Tensor, keys: Tensor, kind: Tensor, pairs: Pairs, temperature: float, normalise: bool) -> Tensor:
    """The definition; `kind` has anchors in its rows."""
    n, m = kind.shape
    usable_a = torch.ones(n, dtype=torch.bool) if pairs.anchors_usable is None else pairs.anchors_usable
    usable_k = torch.ones(m, dtype=torch.bool) if pairs.keys_usable is None else pairs.keys_usable
    trust_a = torch.ones(n).double() if pairs.anchor_trust is None else pairs.anchor_trust
    trust_k = torch.ones(m).double() if pairs.key_trust is None else pairs.key_trust
    total, count = anchors.sum() * 0, 0.0
    for i in range(n):
        if not usable_a[i]:
            continue
        others = [j for j in range(m) if usable_k[j] and (pairs.own is None or j != pairs.own + i)]
        logit = {}
        for j in others:
            product = anchors[i] @ keys[j]
            if normalise:
                product = product / (anchors[i].norm() * keys[j].norm())
            logit[j] = product / temperature
        positives = [j for j in others if kind[i, j] == YES and trust_k[j] > 0]
        negatives = [j for j in others if kind[i, j] == NO]
        if not positives:
            continue
        term = anchors.sum() * 0
        for p in positives:
            compared = [j for j in others if kind[i, j] != NEITHER]
            if pairs.denominator == "per_positive":
                compared = [p, *negatives]
            weights = torch.ones(len(compared), dtype=torch.float64)
            if pairs.denominator == "balanced":
                assert pairs.key_classes is not None
                classes = [int(pairs.key_classes[j]) for j in others]
                weights = torch.tensor(
                    [1 / classes.count(int(pairs.key_classes[j])) for j in compared], dtype=torch.float64
                )
            terms = torch.stack([logit[j] for j in compared]) + weights.log()
            term = term + trust_k[p] * (terms.logsumexp(0) - logit[p])
        total = total + trust_a[i] * term / sum(trust_k[p] for p in positives)
        count += float(trust_a[i])
    return total / count if count else total


def turned(pairs: Pairs) -> Pairs:
    return replace(
        pairs, n_anchors=pairs.n_keys, n_keys=pairs.n_anchors, anchors_usable=pairs.keys_usable,
        keys_usable=pairs.anchors_usable, anchor_trust=pairs.key_trust, key_trust=pairs.anchor_trust,
        anchor_classes=pairs.key_classes, key_classes=pairs.anchor_classes,
        own=None if pairs.own is None else -pairs.own,
    )  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One random problem."""

    anchors: Tensor
    keys: Tensor | None
    kind: Tensor
    pairs: Pairs


def make_case(denominator: str, *, alone: bool, marked: bool, relation: str, seed: int = 0) -> Case:
    """`relation` "any" has no structure; the others are equality of a number, "groups first" with those that have none
    at the end."""
    generator = torch.Generator().manual_seed(seed)
    n, m, dim = (11, 11, 5) if alone else (11, 9, 5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    anchors = normal(n, dim).requires_grad_()
    keys = None if alone else normal(m, dim).requires_grad_()
    groups = torch.randint(-1, 3, (n,), generator=generator)
    key_groups = groups if alone else torch.randint(-1, 3, (m,), generator=generator)
    if relation == "groups first":
        groups[7:], key_groups[7:] = -1, -1
    more: dict[str, Any] = {"own": 0 if alone else None, "denominator": denominator}
    if relation == "any":
        kind = torch.randint(-1, 2, (n, m), generator=generator)
        kind = torch.triu(kind) + torch.triu(kind, 1).T if alone else kind
        kind[2] = NO
        kind[:, 2] = NO
    else:
        same = (groups[:, None] == key_groups) & (groups[:, None] >= 0)
        kind = same.long()
        more["groups"] = Groups(anchors=groups, keys=key_groups, n_groups=3)
        more["all_compared"] = relation != "groups"
        if relation == "groups":
            unknown = torch.rand(n, m, generator=generator) < 0.3
            kind[~same & (unknown & unknown.T if alone else unknown)] = NEITHER
    if denominator == "balanced":
        more["anchor_classes"] = groups
        more["key_classes"] = key_groups
    if marked:
        usable = torch.rand(n, generator=generator) < 0.8
        trust = torch.rand(n, generator=generator, dtype=torch.float64).round(decimals=1)
        more |= {"anchors_usable": usable, "anchor_trust": trust}
        if not alone:
            usable = torch.rand(m, generator=generator) < 0.8
            trust = torch.rand(m, generator=generator, dtype=torch.float64).round(decimals=1)
        more |= {"keys_usable": usable, "key_trust": trust}
    return Case(anchors, keys, kind, pairs_of(kind, **more))


def gradients(loss: Tensor, case: Case) -> list[Tensor]:
    inputs = [x for x in (case.anchors, case.keys) if x is not None]
    return list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("relation", ["any", "groups", "known groups", "groups first"])
@pytest.mark.parametrize("denominator", ["shared", "per_positive", "balanced"])
@pytest.mark.parametrize("marked", [False, True], ids=["plain", "empty places and trust"])
@pytest.mark.parametrize("directions", ["alone", "one", "both"])
@pytest.mark.parametrize(("normalise", "temperature"), [(True, 0.1), (True, 0.01), (False, 0.7)])
def test_the_loss_and_its_gradient_equal_the_definition(
    relation: str, denominator: str, marked: bool, directions: str, normalise: bool, temperature: float
) -> None:
    case = make_case(denominator, alone=directions == "alone", marked=marked, relation=relation)
    keys = case.anchors if case.keys is None else case.keys
    expected = by_loops(case.anchors, keys, case.kind, case.pairs, temperature, normalise)
    if directions == "both":
        back = by_loops(keys, case.anchors, case.kind.T, turned(case.pairs), temperature, normalise)
        expected = (expected + back) / 2
    wanted = gradients(expected, case)
    for tile in (None, 4):
        actual = info_nce(
            case.anchors, case.keys, case.pairs, temperature=temperature,
            directions="both" if directions == "both" else "one", normalise=normalise, tile=tile,
        )  # fmt: skip
        assert actual.item() == pytest.approx(expected.item(), rel=1e-10)
        for mine, theirs in zip(gradients(actual, case), wanted, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("directions", "made"), [("alone", 5), ("one", 6), ("both", 8)])
def test_tiles_of_pixels_that_can_have_no_positive_are_not_made(directions: str, made: int) -> None:
    case = make_case("shared", alone=directions == "alone", marked=False, relation="groups first")
    setting = Setting(pairs=case.pairs, temperature=0.1, both=directions == "both", normalise=True, tile=4)
    with torch.no_grad():
        tiles = list(Tiles(case.anchors, case.keys, setting))
    assert len(tiles) == made  # 3 x 3, or 6 on and above the diagonal: without the corner, or without the last row


@pytest.mark.parametrize("relation", ["any", "groups", "known groups"])
@pytest.mark.parametrize("denominator", ["shared", "per_positive", "balanced"])
@pytest.mark.parametrize("directions", ["one", "both"])
def test_keys_that_learn_nothing_cost_no_product(
    relation: str, denominator: str, directions: Literal["one", "both"]
) -> None:
    case = make_case(denominator, alone=False, marked=True, relation=relation)
    assert case.keys is not None

    def gradient(keys: Tensor) -> tuple[Tensor, int]:
        loss = info_nce(case.anchors, keys, case.pairs, temperature=0.1, directions=directions, tile=4)
        with profile() as profiled:
            (found,) = torch.autograd.grad(loss, case.anchors)
        return found, sum(event.name == "aten::addmm_" for event in profiled.events() or ())

    (learning, twice), (alone, once) = gradient(case.keys), gradient(case.keys.detach())
    torch.testing.assert_close(alone, learning, rtol=0, atol=0)
    assert twice == 2 * once > 0


def random_vectors(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def all_others(n: int, groups: Tensor, **more: Any) -> Pairs:
    """Anchors among themselves, same group positive, everything else negative."""
    kind = (groups[:, None] == groups).long()
    grouped = Groups(anchors=groups, keys=groups, n_groups=int(groups.max()) + 1)
    return pairs_of(kind, groups=grouped, all_compared=True, own=0, **more)


def matched(n: int, aligned: Tensor | None = None, **more: Any) -> Pairs:
    """Row i of one view and row i of the other are one place."""
    place = torch.arange(n) if aligned is None else torch.where(aligned, torch.arange(n), -1)
    kind = torch.where(place >= 0, 1, 0).diag()
    return pairs_of(kind, groups=Groups(anchors=place, keys=place, n_groups=n), all_compared=True, **more)


@pytest.mark.parametrize("relation", ["any", "groups", "known groups"])
@pytest.mark.parametrize("denominator", ["shared", "per_positive", "balanced"])
@pytest.mark.parametrize("directions", ["alone", "one", "both"])
def test_the_gradient_is_that_of_finite_differences(relation: str, denominator: str, directions: str) -> None:
    case = make_case(denominator, alone=directions == "alone", marked=True, relation=relation)

    def loss(anchors: Tensor, keys: Tensor | None = None) -> Tensor:
        return info_nce(
            anchors, keys, case.pairs, temperature=0.3, directions="both" if directions == "both" else "one", tile=5
        )

    inputs = (case.anchors,) if case.keys is None else (case.anchors, case.keys)
    assert torch.autograd.gradcheck(loss, inputs)


def test_anchors_found_among_the_gathered_keys_of_others_are_not_their_own_pairs() -> None:
    vectors, groups = random_vectors(9, 4), torch.tensor([0, 1, 0, 1, 2, 2, 0, 1, 2])
    whole = all_others(9, groups)
    kind = (groups[3:6, None] == groups).long()
    for known in (True, False):
        grouped = Groups(anchors=groups[3:6], keys=groups, n_groups=3) if known else None
        share = pairs_of(kind, groups=grouped, all_compared=known, own=3)
        anchors = vectors[3:6].clone().requires_grad_()
        actual = info_nce(anchors, vectors, share, temperature=0.2, tile=2)
        expected = by_loops(anchors, vectors, kind, share, 0.2, True)
        assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
        (mine,), (theirs,) = torch.autograd.grad(actual, anchors), torch.autograd.grad(expected, anchors)
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
    alone = info_nce(vectors, None, whole, temperature=0.2)
    parts = [
        info_nce(
            vectors[i : i + 3], vectors, pairs_of((groups[i : i + 3, None] == groups).long(), own=i), temperature=0.2
        )
        for i in (0, 3, 6)
    ]
    assert alone.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-12)


def test_one_positive_and_a_full_denominator_are_the_cross_entropy() -> None:
    first, second = random_vectors(7, 4, seed=1), random_vectors(7, 4, seed=2)
    logits = torch.nn.functional.normalize(first, dim=1) @ torch.nn.functional.normalize(second, dim=1).T / 0.1
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(7))
    actual = info_nce(first, second, matched(7), temperature=0.1)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)
    per_positive = info_nce(first, second, matched(7, denominator="per_positive"), temperature=0.1)
    assert per_positive.item() == pytest.approx(expected.item(), rel=1e-12)


def test_duplicating_all_keys_of_the_background_leaves_the_balanced_loss_of_foreground_anchors() -> None:
    anchors, keys = random_vectors(4, 5, seed=1), random_vectors(6, 5, seed=2)
    anchor_classes, key_classes = torch.tensor([1, 1, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 2])
    twice = torch.cat([keys, keys[:3]])
    twice_classes = torch.cat([key_classes, key_classes[:3]])

    def loss(vectors: Tensor, classes: Tensor, denominator: str) -> float:
        kind = (anchor_classes[:, None] == classes).long()
        pairs = pairs_of(kind, denominator=denominator, anchor_classes=anchor_classes, key_classes=classes)
        return info_nce(anchors, vectors, pairs, temperature=0.1).item()

    balanced = loss(keys, key_classes, "balanced")
    assert loss(twice, twice_classes, "balanced") == pytest.approx(balanced, rel=1e-12)
    assert loss(twice, twice_classes, "shared") > loss(keys, key_classes, "shared") + 1e-3


def test_a_constant_added_to_all_logits_changes_nothing() -> None:
    anchors, keys = random_vectors(6, 4, seed=1), random_vectors(6, 4, seed=2)
    raised = torch.cat([anchors, torch.ones(6, 1)], dim=1), torch.cat([keys, torch.full((6, 1), 3.0)], dim=1)
    for denominator in ("shared", "per_positive"):
        pairs = matched(6, denominator=denominator)
        plain = info_nce(anchors, keys, pairs, temperature=0.01, normalise=False)
        assert math.isfinite(plain.item())
        shifted = info_nce(raised[0].double(), raised[1].double(), pairs, temperature=0.01, normalise=False)
        assert shifted.item() == pytest.approx(plain.item(), rel=1e-9)


def test_the_closed_form_of_a_pair_of_views_holds() -> None:
    first, second = random_vectors(12, 6, seed=1), random_vectors(12, 6, seed=2)
    aligned = torch.arange(12) % 4 != 0
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (first, second)]
    logits = unit[0] @ unit[1].T / 0.7
    forward = (logits.logsumexp(1) - logits.diagonal())[aligned].mean()
    backward = (logits.logsumexp(0) - logits.diagonal())[aligned].mean()
    actual = info_nce(first, second, matched(12, aligned), temperature=0.7, directions="both")
    assert actual.item() == pytest.approx((forward + backward).item() / 2, rel=1e-12)


def test_the_closed_form_of_a_pair_of_views_with_labels_holds() -> None:
    first, second = random_vectors(12, 6, seed=1), random_vectors(10, 6, seed=2)
    labels, key_labels = torch.arange(12) % 3, torch.arange(10) % 3
    unit = [torch.nn.functional.normalize(x, dim=1) for x in (first, second)]
    sums = torch.stack([unit[1][key_labels == c].sum(0) for c in range(3)])
    counts = torch.bincount(key_labels).double()
    positive = (unit[0] * sums[labels]).sum(1) / (counts[labels] * 0.7)
    terms = (unit[0] @ unit[1].T / 0.7).logsumexp(1) - positive
    kind = (labels[:, None] == key_labels).long()
    for groups in (Groups(anchors=labels, keys=key_labels, n_groups=3), None):
        trust = (labels != 0).double()  # background is compared with and is no anchor
        pairs = pairs_of(kind, groups=groups, all_compared=True, anchor_trust=trust)
        actual = info_nce(first, second, pairs, temperature=0.7)
        assert actual.item() == pytest.approx(terms[labels != 0].mean().item(), rel=1e-12)


def test_the_closed_form_of_one_pool_with_labels_holds() -> None:
    vectors, labels = random_vectors(14, 6), torch.arange(14) % 3
    unit = torch.nn.functional.normalize(vectors, dim=1)
    sums = torch.stack([unit[labels == c].sum(0) for c in range(3)])
    counts = torch.bincount(labels).double()
    positive = ((unit * sums[labels]).sum(1) - 1) / ((counts[labels] - 1) * 0.7)
    logits = (unit @ unit.T / 0.7).masked_fill(torch.eye(14, dtype=torch.bool), -torch.inf)
    expected = (logits.logsumexp(1) - positive).mean()
    actual = info_nce(vectors, None, all_others(14, labels), temperature=0.7)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-12)


def test_the_closed_form_of_one_pool_with_near_places_holds() -> None:
    vectors, places = random_vectors(14, 6), random_vectors(14, 2, seed=5) * 0.2
    image = torch.arange(14) // 7
    near = (torch.cdist(places, places) < 0.2) & (image[:, None] == image)
    own = torch.eye(14, dtype=torch.bool)
    unit = torch.nn.functional.normalize(vectors, dim=1)
    logits = (unit @ unit.T / 0.7).masked_fill(own, -torch.inf)
    positive = near & ~own
    log_share = logits.logsumexp(1, keepdim=True) - logits
    has = positive.any(1)
    assert 0 < int(has.sum()) < 14
    mean = torch.where(positive, log_share, 0).sum(1)[has] / positive.sum(1)[has]
    actual = info_nce(vectors, None, pairs_of(near.long(), own=0, all_compared=True), temperature=0.7, tile=4)
    assert actual.item() == pytest.approx(mean.mean().item(), rel=1e-12)


@pytest.mark.parametrize("denominator", ["shared", "per_positive", "balanced"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_logits_up_to_ten_thousand_stay_finite_in_half_precision(denominator: str, dtype: torch.dtype) -> None:
    groups = torch.arange(24) % 3
    classes = {"anchor_classes": groups, "key_classes": groups}
    for temperature, normalise, scale in ((1e-4, True, 1.0), (1.0, False, 30.0), (0.025, True, 1.0), (10.0, True, 1.0)):
        vectors = (random_vectors(24, 8) * scale).to(dtype).requires_grad_()
        pairs = all_others(24, groups, denominator=denominator, **classes)
        loss = info_nce(vectors, None, pairs, temperature=temperature, normalise=normalise, tile=7)
        (gradient,) = torch.autograd.grad(loss, vectors)
        assert loss.isfinite()
        assert loss.dtype == torch.float32
        assert gradient.isfinite().all()
        assert gradient.dtype == dtype


def test_under_autocast_sums_are_in_float32() -> None:
    vectors, pairs = random_vectors(40, 8, dtype=torch.float32), all_others(40, torch.arange(40) % 3)
    plain = info_nce(vectors, None, pairs, temperature=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(vectors, None, pairs, temperature=0.1), plain)


def nothing_positive(n: int) -> Pairs:
    return pairs_of(torch.zeros(n, n, dtype=torch.long), own=0)


@pytest.mark.parametrize("denominator", ["shared", "per_positive", "balanced"])
@pytest.mark.parametrize(
    ("n", "make"),
    [
        (5, lambda **k: replace(nothing_positive(5), **k)),
        (1, lambda **k: replace(nothing_positive(1), **k)),
        (1, lambda **k: all_others(1, torch.zeros(1, dtype=torch.long), **k)),
        (5, lambda **k: pairs_of(torch.full((5, 5), NEITHER), own=0, **k)),
        (5, lambda **k: all_others(5, torch.zeros(5).long(), anchors_usable=torch.zeros(5).bool(),
                                   keys_usable=torch.zeros(5).bool(), **k)),
        (5, lambda **k: all_others(5, torch.zeros(5).long(), anchor_trust=torch.zeros(5),
                                   key_trust=torch.zeros(5), **k)),
        (0, lambda **k: pairs_of(torch.zeros(0, 0).long(), own=0, **k)),
    ],
    ids=["no positive", "one pixel", "one pixel, grouped", "nothing compared", "all empty", "no trust", "no pixel"],
)  # fmt: skip
def test_without_a_positive_the_loss_is_a_zero_that_backward_accepts(
    denominator: str, n: int, make: Callable[..., Pairs]
) -> None:
    classes = torch.zeros(n, dtype=torch.long)
    pairs = make(denominator=denominator, anchor_classes=classes, key_classes=classes)
    for temperature in (0.1, 0.001):
        vectors = random_vectors(n, 4).requires_grad_()
        loss = info_nce(vectors, None, pairs, temperature=temperature)
        (gradient,) = torch.autograd.grad(loss, vectors)
        assert loss.item() == 0
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_an_anchor_that_is_compared_with_its_positive_alone_costs_nothing() -> None:
    for denominator in ("shared", "per_positive"):
        pairs = replace(matched(1), denominator=denominator)
        first, second = random_vectors(1, 4, seed=1).requires_grad_(), random_vectors(1, 4, seed=2)
        loss = info_nce(first, second, pairs, temperature=0.1)
        (gradient,) = torch.autograd.grad(loss, first)
        assert loss.item() == pytest.approx(0, abs=1e-12)
        assert gradient.abs().max() < 1e-12


@pytest.mark.parametrize("denominator", ["shared", "per_positive", "balanced"])
def test_order_and_length_of_the_vectors_do_not_matter(denominator: str) -> None:
    case = make_case(denominator, alone=True, marked=True, relation="any", seed=3)
    plain = info_nce(case.anchors, None, case.pairs, temperature=0.2, tile=3)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    kind = case.kind[order][:, order]
    moved = {
        name: None if value is None else value[order]
        for name in ("anchors_usable", "keys_usable", "anchor_trust", "key_trust", "anchor_classes", "key_classes")
        for value in (getattr(case.pairs, name),)
    }
    pairs = pairs_of(kind, own=0, denominator=denominator, **moved)
    shuffled = info_nce(case.anchors[order], None, pairs, temperature=0.2, tile=5)
    assert shuffled.item() == pytest.approx(plain.item(), rel=1e-12)
    lengths = random_vectors(11, 1, seed=9).exp()
    assert info_nce(case.anchors * lengths, None, case.pairs, temperature=0.2).item() == pytest.approx(
        plain.item(), rel=1e-12
    )


def test_pictures_and_volumes_give_pixels_alike() -> None:
    """The loss sees pixels; that a map was 2D or 3D is forgotten before."""
    for spatial in ((4, 6), (2, 3, 4)):
        maps = random_vectors(2, 5, *spatial)
        vectors = maps.flatten(2).transpose(1, 2).reshape(-1, 5)
        labels = torch.arange(len(vectors)) % 3
        pairs = all_others(len(vectors), labels)
        expected = by_loops(vectors, vectors, (labels[:, None] == labels).long(), pairs, 0.1, True)
        assert info_nce(vectors, None, pairs, temperature=0.1, tile=10).item() == pytest.approx(
            expected.item(), rel=1e-12
        )


def test_values_at_empty_places_are_never_read() -> None:
    vectors, usable = random_vectors(8, 4), torch.arange(8) < 6
    groups = torch.arange(8) % 2
    for value in (0.0, 1e30, math.nan):
        spoilt = vectors.clone()
        spoilt[6:] = value
        pairs = all_others(8, groups, anchors_usable=usable, keys_usable=usable)
        spoilt.requires_grad_()
        loss = info_nce(spoilt, None, pairs, temperature=0.1)
        (gradient,) = torch.autograd.grad(loss, spoilt)
        expected = info_nce(vectors[:6], None, all_others(6, groups[:6]), temperature=0.1)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
        assert torch.equal(gradient[6:], torch.zeros(2, 4, dtype=torch.float64))
        assert gradient.isfinite().all()


def test_sums_over_processes_enter_above_and_below() -> None:
    first, second = random_vectors(6, 4, seed=1), random_vectors(6, 4, seed=2)
    alone = info_nce(first, second, matched(6), temperature=0.1)
    seen = []

    def doubled(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return 2 * x

    assert info_nce(first, second, matched(6), temperature=0.1, sum_over_processes=doubled).item() == pytest.approx(
        alone.item(), rel=1e-12
    )
    assert seen == [torch.Size([2])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature must be > 0"),
        ({"tile": 0}, "tile must be >= 1"),
        ({"pairs": matched(5)}, "bind the rule to the tags of these pixels"),
        ({"keys": None}, "pairs.own must be 0"),
        ({"pairs": replace(matched(6), denominator="balanced")}, "needs the classes of anchors and keys"),
    ],
)
def test_what_does_not_fit_is_refused(arguments: dict[str, Any], message: str) -> None:
    given = {"anchors": random_vectors(6, 4), "keys": random_vectors(6, 4), "pairs": matched(6), "temperature": 0.1}
    with pytest.raises(ValueError, match=message):
        info_nce(**(given | arguments))
