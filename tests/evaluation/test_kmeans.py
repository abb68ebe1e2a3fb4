"""K-means; the oracles are Lloyd's rounds in loops, all partitions of a few points, and scikit-learn."""

from __future__ import annotations

import importlib
import itertools
import math
import types
import warnings

import numpy as np
import pytest

from scantling.evaluation.kmeans import kmeans, lloyd


def peer(name: str) -> types.ModuleType:
    """A peer's module; its own warnings are not ours to answer for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip(name.partition(".")[0], exc_type=ImportError)
        return importlib.import_module(name)


def blobs(n: int = 60, *, apart: float = 3.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(size=(n // 3, 2)) + centre for centre in ((0, 0), (apart, 0), (0, apart))])


def lloyd_by_loops(features: np.ndarray, centres: np.ndarray) -> list[int]:
    means, before = [list(map(float, c)) for c in centres], None
    while True:
        nearest = [min(range(len(means)), key=lambda k: math.dist(x, means[k])) for x in features]
        if nearest == before:
            return nearest
        before = nearest
        for k in range(len(means)):
            own = [x for x, j in zip(features, nearest, strict=True) if j == k]
            means[k] = [sum(column) / len(own) for column in zip(*own, strict=True)]


def inertia_of(features: np.ndarray, assignment: list[int]) -> float:
    total = 0.0
    for k in set(assignment):
        own = features[[j == k for j in assignment]]
        total += sum(math.dist(x, own.mean(axis=0)) ** 2 for x in own)
    return total


def test_lloyds_rounds_end_where_a_loop_over_pixels_and_clusters_ends() -> None:
    features = blobs(apart=1.5)
    found = lloyd(features, features[:3])
    assert found.assignment.tolist() == lloyd_by_loops(features, features[:3])
    assert found.inertia == pytest.approx(inertia_of(features, found.assignment.tolist()))
    for k in range(3):
        assert found.centres[k] == pytest.approx(features[found.assignment == k].mean(axis=0))


def test_a_few_points_get_the_best_of_all_partitions() -> None:
    features = np.random.default_rng(2).normal(size=(7, 2))
    best = min(inertia_of(features, list(a)) for a in itertools.product(range(3), repeat=7) if len(set(a)) == 3)
    assert kmeans(features, 3, np.random.default_rng(0), restarts=20).inertia == pytest.approx(best)


def test_the_same_generator_gives_the_same_clusters_and_restarts_never_make_them_worse() -> None:
    features = np.random.default_rng(5).normal(size=(300, 6))
    first, again = (kmeans(features, 7, np.random.default_rng(1)) for _ in range(2))
    assert first.assignment.tolist() == again.assignment.tolist()
    once = kmeans(features, 7, np.random.default_rng(1), restarts=1)
    assert first.inertia <= once.inertia


def test_a_cluster_that_loses_its_pixels_starts_again_at_the_furthest_one() -> None:
    features = np.array([[0.0], [0.1], [10.0], [10.1], [30.0]])
    found = lloyd(features, np.array([[0.0], [10.0], [1000.0]]))
    assert len(set(found.assignment.tolist())) == 3
    assert found.inertia == pytest.approx(0.01)


def test_fewer_different_points_than_clusters_still_end() -> None:
    found = kmeans(np.ones((6, 2)), 3, np.random.default_rng(0))
    assert found.inertia == 0


def test_more_clusters_than_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="3 clusters of 2 pixels"):
        kmeans(np.ones((2, 2)), 3, np.random.default_rng(0))


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_ends_at_the_same_clusters_from_the_same_centres() -> None:
    cluster = peer("sklearn.cluster")
    features = np.random.default_rng(6).normal(size=(400, 8))
    theirs = cluster.KMeans(5, init=features[:5], n_init=1, tol=0, max_iter=1000, algorithm="lloyd").fit(features)
    found = lloyd(features, features[:5])
    assert found.assignment.tolist() == theirs.labels_.tolist()
    assert found.inertia == pytest.approx(theirs.inertia_)


@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_finds_clusters_no_better() -> None:
    cluster = peer("sklearn.cluster")
    features = blobs(300, apart=4.0)
    theirs = cluster.KMeans(3, n_init=20, random_state=0, tol=0).fit(features)
    assert kmeans(features, 3, np.random.default_rng(0)).inertia == pytest.approx(theirs.inertia_, rel=1e-9)
