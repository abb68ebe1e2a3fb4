"""The interactive page of a CHRO-map: it needs nothing else, stays small, and compares pixels as NumPy does."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from scantling.figures.chromap_sheet import MapPanel, SheetStyle
from scantling.figures.colour_disk import disk_colours
from scantling.figures.fitted_chromap import ChroMap
from scantling.reports.chromap_page import MOST_BYTES, PagePanel, chromap_page

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def panels(n_views: int, shape: tuple[int, int], *, smooth: float = 4, n_features: int = 8) -> list[PagePanel]:
    rng = np.random.default_rng(0)
    views = [
        np.stack([gaussian_filter(rng.normal(size=shape), smooth) for _ in range(n_features)]).astype(np.float32)
        for _ in range(n_views)
    ]
    chromap = ChroMap.fit([view.reshape(n_features, -1) for view in views])
    return [
        PagePanel(
            panel=MapPanel(
                caption=f"view {k} <&>",
                picture=rng.integers(0, 256, (*shape, 3)).astype(np.uint8),
                places=chromap.places(view),
            ),
            scores=chromap.axes.scores(view),
        )
        for k, view in enumerate(views)
    ]


def page(rows: list[list[PagePanel]], **changes: Any) -> str:
    values: dict[str, Any] = {"title": "case <1>", "about": ["about & so"], "style": SheetStyle()}
    return chromap_page(rows, **{**values, **changes})


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def picture_of(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def planes_of(data: dict[str, Any], index: int) -> np.ndarray:
    said = data["panels"][index]
    stacked = picture_of(said["codes"]).astype(int) - 128
    return stacked.reshape(data["dimensions"] + 2, said["rows"], said["columns"])


class References(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [(tag, name) for name, value in attrs if name in ("src", "href", "srcset", "data") and value]
        assert tag not in ("link", "iframe", "object", "img"), tag


def test_the_page_refers_to_nothing_outside_itself() -> None:
    html = page([panels(2, (30, 40))])
    parser = References()
    parser.feed(html)
    assert parser.found == []
    assert "http://" not in html
    assert "https://" not in html
    assert "url(" not in html
    assert "@import" not in html
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|importScripts)\b", html)
    assert "default-src &#x27;none&#x27;" in html  # and a browser would refuse it


def test_what_is_written_is_escaped_and_the_same_every_time() -> None:
    html = page([panels(2, (30, 40))])
    assert "case &lt;1&gt;" in html
    assert "about &amp; so" in html
    assert "view 0 &lt;&amp;&gt;" in html
    assert "<&>" not in html
    assert html == page([panels(2, (30, 40))])
    assert html.count("<canvas") == 1 + 2


def test_codes_give_back_cosines_and_places_as_exactly_as_their_bits_allow() -> None:
    own = panels(2, (24, 30))
    data = data_of(page([own]))
    everything, codes = [], []
    for index, one in enumerate(own):
        planes = planes_of(data, index)
        codes.append(planes[:-2].reshape(8, -1))
        everything.append(one.scores.reshape(8, -1))
        np.testing.assert_allclose(np.moveaxis(planes[-2:], 0, -1) / 127, one.panel.places, atol=0.5 / 127 + 1e-6)
    scores, coded = np.concatenate(everything, axis=1), np.concatenate(codes, axis=1).astype(float)
    chosen = np.random.default_rng(0).choice(scores.shape[1], 200)

    def cosines(vectors: np.ndarray) -> np.ndarray:
        unit = vectors / np.linalg.norm(vectors, axis=0)
        return unit[:, chosen].T @ unit

    assert np.abs(cosines(scores) - cosines(coded)).max() < 0.03
    assert np.abs(cosines(scores) - cosines(coded)).mean() < 0.006


def test_the_disk_in_the_page_names_the_colour_of_every_place() -> None:
    data = data_of(page([panels(1, (12, 12))]))
    disk = picture_of(data["disk"])
    assert disk.shape == (255, 255, 3)
    for x, y in ((0, 0), (127, 0), (0, 127), (-60, 80), (-127, 0)):
        np.testing.assert_array_equal(disk[127 - y, 127 + x], disk_colours(np.array([x / 127, y / 127])))


@pytest.mark.parametrize("smooth", [0.0, 2.0])
def test_a_case_of_four_views_of_224_pixels_stays_below_two_megabytes_even_if_it_is_noise(smooth: float) -> None:
    html = page([panels(4, (224, 224), smooth=smooth)])
    assert len(html.encode()) < 2_000_000
    data = data_of(html)
    if smooth:
        assert [(one["rows"], one["columns"]) for one in data["panels"]] == [(224, 224)] * 4
    else:
        assert len(html) > 0.7 * MOST_BYTES  # no smaller than need be
        assert min(one["rows"] for one in data["panels"]) > 150


def test_larger_views_are_made_smaller_and_keep_their_shape() -> None:
    data = data_of(page([panels(2, (600, 450), n_features=3)]))
    for one in data["panels"]:
        assert one["rows"] * one["columns"] <= 2 * 224 * 224 * 1.01
        assert one["rows"] / one["columns"] == pytest.approx(600 / 450, rel=0.01)


def test_panels_of_a_row_have_one_scale_and_an_empty_page_is_refused() -> None:
    wide, narrow = panels(2, (20, 40))[0], panels(2, (20, 20))[0]
    parts = [float(part) for part in re.findall(r"--part: ([\d.]+)", page([[wide, narrow]]))]
    assert parts[0] == pytest.approx(2 * parts[1], rel=0.01)
    assert sum(parts) <= 1
    with pytest.raises(ValueError, match="no panel"):
        page([])


def opened(path: Path, html: str, fragment: str = "") -> str:
    """What a browser makes of the page."""
    path.write_text(html, encoding="utf-8")
    return subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={path.parent / 'profile'}",
            "--virtual-time-budget=8000", "--dump-dom", path.as_uri() + fragment,
        ],
        capture_output=True, text=True, timeout=180, check=True,
    ).stdout  # fmt: skip


def cosines_with(own: list[PagePanel], panel: int, row: int, column: int) -> list[np.ndarray]:
    wanted = own[panel].scores[:, row, column]
    lengths = [np.linalg.norm(one.scores, axis=0) * np.linalg.norm(wanted) for one in own]
    return [np.einsum("c,cyx->yx", wanted, one.scores) / length for one, length in zip(own, lengths, strict=True)]


def assert_nearest(dumped: str, cosines: list[np.ndarray]) -> None:
    """The pixel that the page calls most similar in each view is, but for the bits of its codes."""
    assert 'data-ready="yes"' in dumped
    for index, of_view in enumerate(cosines):
        figure = re.search(rf'<figure data-panel="{index}"[^>]*data-nearest="([^"]*)"', dumped)
        assert figure is not None
        row, column, cosine = figure[1].split(",")
        assert float(cosine) == pytest.approx(of_view.max(), abs=0.02)
        assert of_view[int(row), int(column)] > of_view.max() - 0.02


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page in")
def test_a_linked_pixel_lights_up_what_numpy_finds_most_similar(tmp_path: Path) -> None:
    own = panels(3, (40, 50))
    dumped = opened(tmp_path / "page.html", page([own[:2], own[2:]]), "#0,13,29")
    cosines = cosines_with(own, 0, 13, 29)
    assert_nearest(dumped, cosines)
    said = re.search(r"([\d.]+) % of all pixels light up: their cosine with this one is ([\d.]+) or more", dumped)
    assert said is not None
    assert 3.0 < float(said[1]) <= 5.0
    assert float(said[2]) == pytest.approx(np.quantile(np.concatenate([c.ravel() for c in cosines]), 0.95), abs=0.03)
    assert "Click again to let go." in dumped


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page in")
def test_moving_over_a_pixel_does_the_same_until_the_pointer_leaves(tmp_path: Path) -> None:
    own = panels(2, (40, 50))
    moved = """<script>
    const wait = setInterval(() => {
      if (document.body.dataset.ready !== "yes") return;
      clearInterval(wait);
      const canvas = document.querySelectorAll("figure canvas")[1], box = canvas.getBoundingClientRect();
      const at = { clientX: box.left + box.width * 7.5 / 50, clientY: box.top + box.height * 31.5 / 40 };
      canvas.dispatchEvent(new PointerEvent("pointermove", at));
      LEAVE
    }, 20);
    </script></body>"""
    html = page([own])
    dumped = opened(tmp_path / "over.html", html.replace("</body>", moved.replace("LEAVE", "")))
    assert_nearest(dumped, cosines_with(own, 1, 31, 7))
    assert "Click to hold this pixel." in dumped
    assert '<span class="nearest">here</span>' in dumped
    left = opened(
        tmp_path / "left.html",
        html.replace("</body>", moved.replace("LEAVE", 'canvas.dispatchEvent(new PointerEvent("pointerleave"));')),
    )
    assert 'data-ready="yes"' in left
    assert "data-nearest" not in left
