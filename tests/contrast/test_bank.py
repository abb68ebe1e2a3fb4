"""Banks against lists that are filled one pixel at a time."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from scantling.contrast.bank import ClassBank, FIFOBank
from scantling.contrast.pixels import Pixels, Tags, join
from scantling.shapes import IGNORE

DIM = 3


def some_pixels(n: int, seed: int, *, first_number: int = 0, usable: bool = True) -> Pixels:
    """Pixels whose `group` numbers them one by one; some are not usable, some have no class."""
    g = torch.Generator().manual_seed(seed)
    tags = Tags(
        group=torch.arange(first_number, first_number + n),
        image=torch.randint(0, 4, (n,), generator=g),
        klass=torch.randint(IGNORE, 4, (n,), generator=g),
        trust=torch.rand(n, generator=g),
        position_mm=torch.randn(n, 2, generator=g),
        annotated=torch.rand(n, 4, generator=g) < 0.5,
        usable=torch.rand(n, generator=g) < 0.7 if usable else None,
    )
    return Pixels(embeddings=torch.randn(n, DIM, generator=g), tags=tags)


def stored(pixels: Pixels) -> list[tuple[int, list[float]]]:
    """The usable places as (number, embedding), by number."""
    assert pixels.tags.usable is not None
    kept = pixels.pick(pixels.tags.usable)
    return sorted(zip(kept.tags.need("group").tolist(), kept.embeddings.tolist(), strict=True))


def expected(pixels: list[tuple[int, torch.Tensor]]) -> list[tuple[int, list[float]]]:
    return sorted((number, (v / v.norm()).tolist()) for number, v in pixels)


def assert_same(found: list[tuple[int, list[float]]], wanted: list[tuple[int, list[float]]]) -> None:
    assert [number for number, _ in found] == [number for number, _ in wanted]
    for (_, left), (_, right) in zip(found, wanted, strict=True):
        assert left == pytest.approx(right, abs=1e-6)


SIZES = [4, 0, 1, 9, 3, 17, 2, 2, 7, 1]


def test_a_fifo_holds_what_a_queue_filled_pixel_by_pixel_holds() -> None:
    bank = FIFOBank(7, DIM, tags=("group",))
    queue: deque[tuple[int, torch.Tensor]] = deque(maxlen=7)
    for step, n in enumerate(SIZES):
        pixels = some_pixels(n, step, first_number=100 * step, usable=step % 3 != 0)
        bank.push(pixels)
        for i in range(n):
            if pixels.tags.usable is None or pixels.tags.usable[i]:
                queue.append((100 * step + i, pixels.embeddings[i]))
        assert_same(stored(bank.pixels()), expected(list(queue)))
        assert bank.fill().item() == pytest.approx(len(queue) / 7)
    assert len(queue) == 7


def test_a_class_bank_holds_what_a_queue_for_each_class_holds() -> None:
    bank = ClassBank(4, DIM, classes=(3, 1), tags=("group",))
    queues: dict[int, deque[tuple[int, torch.Tensor]]] = {3: deque(maxlen=4), 1: deque(maxlen=4)}
    for step, n in enumerate(SIZES):
        pixels = some_pixels(n, step, first_number=100 * step, usable=step % 3 != 0)
        bank.push(pixels)
        for i in range(n):
            klass = int(pixels.tags.need("klass")[i])
            if klass in queues and (pixels.tags.usable is None or pixels.tags.usable[i]):
                queues[klass].append((100 * step + i, pixels.embeddings[i]))
        found = bank.pixels()
        for klass, queue in queues.items():
            of_class = found.pick(found.tags.need("klass") == klass)
            assert_same(stored(of_class), expected(list(queue)))
        assert bank.fill().tolist() == pytest.approx([len(queues[3]) / 4, len(queues[1]) / 4])
    assert all(len(queue) == 4 for queue in queues.values())


@pytest.mark.parametrize("device_like", ["cpu", "accelerator"])
def test_class_means_are_stored_one_for_each_class_of_each_image(
    device_like: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device_like == "accelerator":  # the sums as they are made elsewhere than on a processor
        monkeypatch.setattr("scantling.contrast.bank._SUMS_IN_ORDER", ())
    bank = ClassBank(6, DIM, classes=(1, 2, 3), store="means", tags=("image", "trust", "position_mm"), axes=2)
    bank.push(some_pixels(0, 0))
    pixels = some_pixels(60, 3)
    bank.push(pixels)
    found = bank.pixels()
    assert found.tags.usable is not None
    tags = pixels.tags
    assert tags.usable is not None
    n_found = 0
    for klass in (1, 2, 3):
        for image in range(4):
            members = [
                i
                for i in range(60)
                if tags.usable[i] and (tags.need("klass")[i], tags.need("image")[i]) == (klass, image)
            ]
            place = found.tags.usable & (found.tags.need("klass") == klass) & (found.tags.need("image") == image)
            assert int(place.sum()) == (1 if members else 0)
            if not members:
                continue
            n_found += 1
            mean = sum(pixels.embeddings[i] / pixels.embeddings[i].norm() for i in members)
            torch.testing.assert_close(found.embeddings[place][0], mean / mean.norm())
            for name in ("trust", "position_mm"):
                average = sum(tags.need(name)[i] for i in members) / len(members)
                torch.testing.assert_close(found.tags.need(name)[place][0], average)
    assert n_found > 8


def test_a_class_that_never_came_has_no_usable_place_and_no_share() -> None:
    bank = ClassBank(4, DIM, classes=(1, 9), tags=("image",))
    bank.push(some_pixels(30, 0))
    found = bank.pixels()
    assert found.tags.usable is not None
    assert bank.fill().tolist() == [1.0, 0.0]
    assert found.tags.usable.tolist() == [True] * 4 + [False] * 4


def test_background_is_stored_only_where_it_is_named() -> None:
    for classes in ((1, 2), (0, 1, 2)):
        bank = ClassBank(50, DIM, classes=classes, tags=("image",))
        bank.push(some_pixels(60, 0))
        found = bank.pixels()
        assert found.tags.usable is not None
        assert set(found.tags.need("klass")[found.tags.usable].tolist()) == set(classes)


def test_every_tag_comes_back_with_its_pixel() -> None:
    names = ("group", "image", "klass", "trust", "position_mm", "annotated")
    bank = FIFOBank(50, DIM, tags=names, axes=2, n_classes=4, normalise=False)
    pixels = some_pixels(20, 5)
    bank.push(pixels)
    found, kept = bank.pixels(), pixels.pick(pixels.tags.need("usable"))
    n = len(kept)
    assert 5 < n < 20
    assert torch.equal(found.embeddings[:n], kept.embeddings)
    for name in names:
        assert torch.equal(found.tags.need(name)[:n], kept.tags.need(name)), name
    assert found.tags.usable is not None
    assert not found.tags.usable[n:].any()


def test_remote_entries_keep_their_site() -> None:
    bank = FIFOBank(10, DIM, tags=("site", "patient"))
    for site in (0, 1):
        tags = Tags(site=torch.full((3,), site), patient=10 * site + torch.arange(3))
        bank.push(Pixels(embeddings=torch.randn(3, DIM, generator=torch.Generator().manual_seed(site)), tags=tags))
    found = bank.pixels().tags
    assert found.usable is not None
    assert found.need("site")[found.usable].tolist() == [0, 0, 0, 1, 1, 1]
    assert found.need("patient")[found.usable].tolist() == [0, 1, 2, 10, 11, 12]


class Method(nn.Module):
    """A method with a memory, in the loop's order: losses, then the step, then the memory."""

    def __init__(self) -> None:
        super().__init__()
        self.bank = FIFOBank(12, DIM, tags=("group",))
        self.seen: list[set[int]] = []

    def losses(self, pixels: Pixels) -> None:
        keys = self.bank.pixels().tags
        assert keys.usable is not None
        self.seen.append(set(keys.need("group")[keys.usable].tolist()))
        self.fresh = pixels

    def after_step(self) -> None:
        self.bank.push(self.fresh)


def test_a_memory_filled_after_the_step_never_holds_an_anchors_own_key() -> None:
    method = Method()
    for step in range(6):
        own = range(4 * step, 4 * step + 4)
        method.losses(some_pixels(4, step, first_number=own.start, usable=False))
        assert not method.seen[-1] & set(own)
        method.after_step()
    assert method.seen[-1] == set(range(8, 20))


def test_point_numbers_of_a_past_batch_mean_nothing() -> None:
    bank = FIFOBank(5, DIM, tags=("point",))
    pixels = Pixels(embeddings=torch.eye(3), tags=Tags(point=torch.arange(3)))
    bank.push(pixels)
    assert bank.pixels().tags.need("point").tolist() == [-1] * 5
    usable = torch.ones(3, dtype=torch.bool)
    both = join([replace(pixels, tags=replace(pixels.tags, usable=usable)), bank.pixels()])
    assert both.tags.need("point").tolist() == [0, 1, 2] + [-1] * 5


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_an_embedding_without_direction_is_not_stored(bad: float) -> None:
    pixels = some_pixels(5, 0, usable=False)
    pixels.embeddings[2] = bad
    for bank in (
        FIFOBank(5, DIM),
        ClassBank(5, DIM, classes=(0, 1, 2, 3), tags=("image",)),
        ClassBank(5, DIM, classes=(0, 1, 2, 3), tags=("image",), store="means"),
    ):
        labelled = replace(
            pixels, tags=Tags(image=torch.arange(5), patient=torch.zeros(5).long(), klass=torch.tensor(1).expand(5))
        )
        bank.push(labelled)
        found = bank.pixels()
        assert found.tags.usable is not None
        assert found.tags.need("image")[found.tags.usable].tolist() == [0, 1, 3, 4]
        assert found.embeddings.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_storage_gives_keys_in_float32_close_to_what_was_stored(dtype: torch.dtype) -> None:
    small, large = (FIFOBank(8, DIM, tags=("group",), dtype=d) for d in (dtype, torch.float32))
    pixels = replace(some_pixels(8, 1, usable=False), embeddings=1e6 * some_pixels(8, 1).embeddings)
    for bank in (small, large):
        bank.push(pixels)
    assert small.rings.embeddings.dtype == dtype
    assert small.pixels().embeddings.dtype == torch.float32
    torch.testing.assert_close(small.pixels().embeddings, large.pixels().embeddings, rtol=0, atol=4e-3)
    assert small.pixels().tags.need("usable").all()


def test_a_bank_saves_all_it_holds_and_goes_on_as_if_never_stopped() -> None:
    first = ClassBank(3, DIM, classes=(1, 2), tags=("group", "trust"))
    first.push(some_pixels(9, 0))
    second = ClassBank(3, DIM, classes=(1, 2), tags=("group", "trust"))
    second.load_state_dict(first.state_dict())
    for bank in (first, second):
        bank.push(some_pixels(4, 1, first_number=50))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_a_push_changes_buffers_in_place_so_that_a_step_can_be_undone() -> None:
    bank = FIFOBank(6, DIM, tags=("group",))
    bank.push(some_pixels(4, 0))
    buffers, before = list(bank.buffers()), copy.deepcopy(bank.state_dict())
    clones = [buffer.clone() for buffer in buffers]
    bank.push(some_pixels(4, 1, first_number=10))
    assert not torch.equal(bank.rings.embeddings, before["rings.embeddings"])
    torch._foreach_copy_(buffers, clones)
    for name, value in bank.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_what_is_stored_has_no_gradient() -> None:
    pixels = some_pixels(4, 0)
    pixels.embeddings.requires_grad_()
    for bank in (FIFOBank(6, DIM), ClassBank(6, DIM, classes=(0, 1, 2, 3), tags=("image",), store="means")):
        bank.push(replace(pixels, tags=replace(pixels.tags, patient=pixels.tags.image)))
        assert not bank.pixels().embeddings.requires_grad


def test_a_push_never_asks_what_the_numbers_are() -> None:
    """Tensors without data: reading a value, or a shape that depends on one, is an error."""
    with FakeTensorMode():
        tags = Tags(klass=torch.zeros(20, dtype=torch.int64), image=torch.zeros(20, dtype=torch.int64))
        pixels = Pixels(embeddings=torch.zeros(20, DIM), tags=replace(tags, usable=torch.ones(20, dtype=torch.bool)))
        fifo, means = (
            FIFOBank(6, DIM, tags=("klass",)),
            ClassBank(6, DIM, classes=(1, 2), tags=("image",), store="means"),
        )
        for bank in (fifo, means):
            bank.push(pixels)
            assert bank.pixels().embeddings.shape[1] == DIM
        with pytest.raises(DataDependentOutputException):
            pixels.embeddings.sum().item()


def test_what_cannot_be_stored_is_refused_in_words() -> None:
    bank = FIFOBank(4, DIM, tags=("site",))
    with pytest.raises(ValueError, match="embeddings of 3 numbers, got some of 5"):
        bank.push(Pixels(embeddings=torch.ones(2, 5), tags=Tags(site=torch.zeros(2).long())))
    with pytest.raises(ValueError, match="the pixels have no tag 'site'"):
        bank.push(some_pixels(2, 0))
    with pytest.raises(ValueError, match="'annotated' of 3 columns, got 4; build it with n_classes=4"):
        FIFOBank(4, DIM, tags=("annotated",), n_classes=3).push(some_pixels(2, 0))
    with pytest.raises(ValueError, match="keeping the tag 'position_mm' needs axes="):
        FIFOBank(4, DIM, tags=("position_mm",))
    with pytest.raises(ValueError, match="cannot keep a tag 'colour'; it may keep image, patient"):
        FIFOBank(4, DIM, tags=("colour",))
    with pytest.raises(ValueError, match="needs room: got capacity 0"):
        FIFOBank(0, DIM)
    with pytest.raises(ValueError, match="different and from 0"):
        ClassBank(4, DIM, classes=(1, 1))
    with pytest.raises(ValueError, match="no tag view; it may keep image"):
        ClassBank(4, DIM, classes=(1,), store="means", tags=("view",))
    with pytest.raises(ValueError, match="the pixels have no tag 'image'"):
        ClassBank(4, DIM, classes=(1,), store="means", tags=()).push(
            Pixels(embeddings=torch.ones(1, DIM), tags=Tags(klass=torch.tensor([1])))
        )
