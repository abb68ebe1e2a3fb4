"""Two processes that share a batch see the pixels of both, and move the weights as one would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scantling.contrast.gathering import gather_pixels, told_apart
from scantling.contrast.pixels import Pixels, Tags
from two_processes import run_two

SCRIPT = Path(__file__).with_name("gathering_process.py")
LOSSES = [
    "across views",
    "across views, both directions",
    "across views with a memory",
    "classes across views, both directions, by trust",
    "classes across views, both directions, balanced",
    "among themselves",
    "within a radius, among themselves",
    "among themselves, both directions",
    "among themselves, one positive at a time",
    "among themselves, by trust",
    "among themselves, balanced",
    "among themselves with a memory",
    "a memory alone",
    "gathered by hand",
    "prototypes",
    "local contrast",
]
Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What each of two processes found, of unequal shares of a batch and of the whole."""
    folder = tmp_path_factory.mktemp("processes")
    run_two(SCRIPT, folder)
    return [torch.load(folder / f"found{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LOSSES)
def test_two_processes_give_the_loss_and_the_gradient_of_one(found: Found, name: str) -> None:
    for rank in range(2):
        shared, alone = found[rank]["shared"][name], found[rank]["alone"][name]
        assert alone[:-1].abs().max() > 1e-3
        assert alone[-1] > 0
        torch.testing.assert_close(shared, alone, rtol=1e-6, atol=1e-10)


def test_the_script_computes_every_loss_that_is_tested(found: Found) -> None:
    assert set(found[0]["shared"]) == {*LOSSES, "keys of its own process alone"}


def test_without_the_other_processes_keys_the_gradient_would_be_another(found: Found) -> None:
    shared, alone = (found[0][of]["keys of its own process alone"] for of in ("shared", "alone"))
    assert (shared - alone).abs().max() > 1e-3


def test_gathered_pixels_lie_process_by_process_with_all_their_tags_and_empty_places_unusable(found: Found) -> None:
    assert len(found[0]["own"]["image"]) > len(found[1]["own"]["image"])
    for name in found[0]["own"]:
        together = found[0]["gathered"][name]
        assert torch.equal(together, found[1]["gathered"][name])
        for rank in range(2):
            own, start = found[rank]["own"][name], found[rank]["offset"]
            mine = together[start : start + len(own)]
            assert mine.dtype == own.dtype
            assert torch.equal(mine, 2 * own + rank if name == "point" else own), name
    end = found[1]["offset"] + len(found[1]["own"]["image"])
    assert end < len(found[0]["gathered"]["usable"])
    assert not found[0]["gathered"]["usable"][end:].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_through_as_it_is(found: Found, dtype: torch.dtype) -> None:
    assert torch.equal(found[0]["half"][dtype], found[0]["gathered"]["embeddings"].to(dtype))


def test_no_two_processes_share_the_number_of_a_point(found: Found) -> None:
    gathered, start = found[0]["gathered"]["point"], found[1]["offset"]
    second = gathered[start : start + len(found[1]["own"]["point"])]
    assert set(found[0]["own"]["point"].tolist()) & set(found[1]["own"]["point"].tolist())
    assert not set(gathered[:start].tolist()) & set(second.tolist())


def test_no_pixels_anywhere_is_no_pixels_together(found: Found) -> None:
    assert found[0]["nothing"] == found[1]["nothing"] == {"n": 0}


@pytest.mark.parametrize("name", ["fifo", "classes", "means", "statistics"])
def test_memories_are_the_same_in_both_processes(found: Found, name: str) -> None:
    first, second = (f["shared memories"][name] for f in found)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


@pytest.mark.parametrize("name", ["fifo", "classes", "means"])
def test_memories_hold_the_pixels_of_both_processes(found: Found, name: str) -> None:
    """In another order than one process would have them; none has fallen out."""
    shared, alone = found[0]["shared memories"][name], found[0]["alone memories"][name]
    rows = []
    for state in (shared, alone):
        columns = [state["rings.embeddings"].round(decimals=9)]
        columns += [v.reshape(len(v), -1).double() for k, v in sorted(state.items()) if k.startswith("rings.tag_")]
        kept = torch.cat(columns, dim=1)[state["rings.filled"]]
        rows.append(sorted(kept.tolist()))
    assert len(rows[1]) > 5
    assert rows[0] == rows[1]


def test_statistics_of_both_processes_are_those_of_one(found: Found) -> None:
    shared, alone = (found[0][of]["statistics"] for of in ("shared memories", "alone memories"))
    assert torch.equal(shared["count"], alone["count"])
    for name in ("mean", "variance"):
        torch.testing.assert_close(shared[name], alone[name], rtol=1e-10, atol=1e-12)


def test_processes_that_do_not_fit_together_say_so_instead_of_waiting_for_ever(found: Found) -> None:
    for rank in range(2):
        said = found[rank]["refusals"]
        assert (
            f"process {1 - rank} has embeddings of {4 - rank} numbers and process {rank} of {3 + rank}"
            in said["dimension"]
        )
        assert said["tags"].endswith("differ in their tags: trust; give them in every process or in none")


def test_one_process_alone_gets_its_pixels_back() -> None:
    pixels = Pixels(embeddings=torch.eye(3, requires_grad=True), tags=Tags(point=torch.arange(3)))
    gathered, own = gather_pixels(pixels)
    assert gathered is pixels
    assert own == 0
    assert told_apart(pixels.tags) is pixels.tags
