"""The map of appearances against one made by hand, and against true counterfactuals of the chest phantom."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from counterfactuals.toy_image_model import greys, picture
from scantling.counterfactuals.appearance import AppearanceSource
from scantling.counterfactuals.source_image import SourceImage
from scantling.data.catalog.phantom import chest_image, draw_chest_case
from scantling.errors import ConfigError, DataError


def images(values: dict[str, list[np.ndarray]]) -> list[SourceImage]:
    return [
        picture(array, {"scanner": name, "sex": "F"}, case_id=f"{name}{index}")
        for name, arrays in values.items()
        for index, array in enumerate(arrays)
    ]


def test_grey_values_move_along_the_mean_quantile_curves() -> None:
    # Floats 0..100 of scanner A, and two images of B: a line and a parabola; the mean curve of B is by hand.
    line = np.linspace(0, 100, 4001).reshape(1, -1)
    first, second = 2 * line + 10, line**2 / 100 + 50
    source = AppearanceSource.fit(images({"A": [line], "B": [first, second]}), attribute="scanner")
    asked = np.array([[0.0, 12.5, 50.0, 100.0]])
    (made,) = source([picture(asked, {"scanner": "A"})], [{"scanner": "B"}])
    by_hand = ((2 * asked + 10) + (asked**2 / 100 + 50)) / 2
    assert made.channels[0] == pytest.approx(by_hand, abs=0.01)
    assert made.row == {"scanner": "B"}


def test_one_patients_content_is_not_taken_for_the_scanners_look() -> None:
    # All images of B are 20 brighter; a patient of A who is much darker than the others stays so.
    rng = np.random.default_rng(0)
    values = {"A": [rng.uniform(50, 150, (40, 40)) for _ in range(5)]}
    values["B"] = [array + 20 for array in values["A"]]
    source = AppearanceSource.fit(images(values), attribute="scanner")
    dark = rng.uniform(50, 70, (40, 40))
    (made,) = source([picture(dark, {"scanner": "A"})], [{"scanner": "B"}])
    assert made.channels[0] == pytest.approx(dark + 20, abs=0.5)


def test_beyond_the_ends_of_the_curves_values_keep_their_distance() -> None:
    ramp = np.linspace(0, 100, 1001).reshape(1, -1)
    source = AppearanceSource.fit(images({"A": [ramp], "B": [ramp * 2 + 30]}), attribute="scanner")
    (made,) = source([picture(np.array([[-40.0, 130.0]]), {"scanner": "A"})], [{"scanner": "B"}])
    assert made.channels[0] == pytest.approx(np.array([[-40.0 + 30, 130 + 130.0]]), abs=1e-6)


def test_a_flat_background_becomes_the_mean_of_what_it_was_there() -> None:
    # Half of A is exactly 0; in B that half is spread evenly over 0..8.
    flat = np.concatenate([np.zeros(1000), np.linspace(50, 100, 1000)]).reshape(1, -1)
    spread = np.concatenate([np.linspace(0, 8, 1000), np.linspace(50, 100, 1000)]).reshape(1, -1)
    source = AppearanceSource.fit(images({"A": [flat], "B": [spread]}), attribute="scanner")
    (made,) = source([picture(np.zeros((2, 2)), {"scanner": "A"})], [{"scanner": "B"}])
    assert made.channels[0] == pytest.approx(np.full((2, 2), 4.0), abs=0.1)


def test_a_scanner_swap_of_the_chest_phantom_comes_close_to_the_true_counterfactual() -> None:
    seed, size = 5, 64
    cases = [draw_chest_case(seed, index, "labelled") for index in range(150)]
    real = [
        picture(chest_image(seed, case, size=size), {"scanner": case.scanner}, case_id=case.case_id) for case in cases
    ]
    source = AppearanceSource.fit(real[:120], attribute="scanner")
    errors, unchanged = [], []
    for case, image in zip(cases[120:], real[120:], strict=True):
        other = "B" if case.scanner == "A" else "A"
        truth = chest_image(seed, replace(case, scanner=other), size=size).astype(float)
        (made,) = source([image], [{"scanner": other}])
        errors.append(np.abs(made.channels[0] - truth).mean())
        unchanged.append(np.abs(image.channels[0] - truth).mean())
    assert np.mean(errors) < 0.4 * np.mean(unchanged)


def test_nothing_asked_for_leaves_every_bit() -> None:
    source = AppearanceSource.fit(images({"A": [greys((8, 8), 0)], "B": [greys((8, 8), 1)]}), attribute="scanner")
    image = picture(greys((8, 8), 2), {"scanner": "A", "sex": ""})
    (made,) = source([image], [{"scanner": "A"}])
    assert made.channels[0].tobytes() == image.channels[0].tobytes()


def test_images_without_a_value_do_not_count() -> None:
    sides = {"A": [greys((8, 8), 0)], "B": [greys((8, 8), 1)]}
    alone = AppearanceSource.fit(images(sides), attribute="scanner")
    more = AppearanceSource.fit([*images(sides), picture(greys((8, 8), 9), {"sex": "M"})], attribute="scanner")
    assert alone.curves.keys() == more.curves.keys() == {"A", "B"}
    assert all(np.array_equal(alone.curves[name], more.curves[name]) for name in "AB")


def test_what_it_does_not_know_is_refused_in_one_sentence() -> None:
    known = images({"A": [greys((8, 8), 0)], "B": [greys((8, 8), 1)]})
    source = AppearanceSource.fit(known, attribute="scanner")
    image = known[0]
    with pytest.raises(ConfigError, match=r"'sex' changes from 'F' to 'M', but the appearance map knows 'scanner'"):
        source([image], [{"scanner": "B", "sex": "M"}])
    with pytest.raises(ConfigError, match="no image it learnt from has scanner = 'C'"):
        source([image], [{"scanner": "C", "sex": "F"}])
    with pytest.raises(DataError, match="scanner = 'C'; wanted 1 and one of A, B"):
        source([replace(image, row={"scanner": "C"})], [{"scanner": "A"}])
    with pytest.raises(DataError, match="has 2 channels"):
        source([replace(image, channels=image.channels * 2)], [{"scanner": "B", "sex": "F"}])
    with pytest.raises(ConfigError, match="only 'A'"):
        AppearanceSource.fit(known[:1], attribute="scanner")
    with pytest.raises(ConfigError, match="no value"):
        AppearanceSource.fit(known, attribute="vendor")
    with pytest.raises(DataError, match="2 channels and others have 1"):
        AppearanceSource.fit([known[0], replace(known[1], channels=known[1].channels * 2)], attribute="scanner")
