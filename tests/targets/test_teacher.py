from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scantling.errors import DataError, IntegrityError
from scantling.targets.teacher import AveragedCopy, FrozenCopy, Peers, peer_targets, without_gradient


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


class Tapped(nn.Module):
    """Gives everything a network may give: a list when called, a dictionary of features."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.layer(x), 2 * self.layer(x)]

    def features(self, x: Tensor, *, stop_at: str | None = None) -> dict[str, Any]:
        return {"stop_at": None, stop_at or "all": (self.layer(x), x)}


def test_the_average_follows_its_recursion_by_hand_and_copies_buffers() -> None:
    source = network()
    average = AveragedCopy(source, decay=0.5)
    expected = source[0].weight.detach().clone()
    for n in range(5):
        with torch.no_grad():
            source[0].weight.add_(1.0)
            source[1].running_mean.add_(0.25)
        average.update(source)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * source[0].weight.detach()
    torch.testing.assert_close(average.module[0].weight, expected)
    assert torch.equal(average.module[1].running_mean, source[1].running_mean)


@pytest.mark.parametrize(("decay", "updates", "leaves_warm_up"), [(0.3, 12, True), (0.9, 40, False)])
def test_the_average_after_n_steps_equals_the_closed_form_through_the_warm_up(
    decay: float, updates: int, leaves_warm_up: bool
) -> None:
    source = network().double()
    average = AveragedCopy(source, decay=decay)
    weights = [source[0].weight.detach().clone()]
    draw = torch.Generator().manual_seed(3)
    for _ in range(updates):
        with torch.no_grad():
            source[0].weight.copy_(torch.randn(4, 3, generator=draw, dtype=torch.float64))
        weights.append(source[0].weight.detach().clone())
        average.update(source)
    decays = [min(decay, (1 + n) / (10 + n)) for n in range(updates)]
    assert decays[0] == 0.1
    assert (decays[-1] == decay) is leaves_warm_up
    expected = torch.zeros(4, 3, dtype=torch.float64)
    for n, weight in enumerate(weights):
        share = 1.0 if n == 0 else 1 - decays[n - 1]
        for later in decays[n:]:
            share *= later
        expected += share * weight
    torch.testing.assert_close(average.module[0].weight, expected, rtol=1e-12, atol=1e-12)


def test_counters_of_whole_numbers_are_copied_like_other_buffers() -> None:
    source = network().train()
    average = AveragedCopy(source)
    for _ in range(3):
        source(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    average.update(source)
    assert average.module[1].num_batches_tracked.dtype == torch.int64
    assert int(average.module[1].num_batches_tracked) == 3


def test_the_average_has_no_gradient_and_leaves_its_source_alone() -> None:
    source = network()
    before = source[0].weight.detach().clone()
    average = AveragedCopy(source)
    average.update(source)
    assert not any(p.requires_grad for p in average.module.parameters())
    assert torch.equal(source[0].weight, before)
    assert source[0].weight.requires_grad


def test_a_restored_average_goes_on_as_the_original() -> None:
    source = network()
    first, second = AveragedCopy(source, decay=0.9), AveragedCopy(network(), decay=0.9)
    for _ in range(3):
        with torch.no_grad():
            source[0].weight.mul_(1.1)
        first.update(source)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        source[0].weight.mul_(1.1)
    first.update(source)
    second.update(source)
    assert torch.equal(first.module[0].weight, second.module[0].weight)
    assert second.updates == 4


def test_an_impossible_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="decay must be in"):
        AveragedCopy(network(), decay=1.0)


@pytest.mark.parametrize("kind", [AveragedCopy, FrozenCopy])
def test_what_a_teacher_says_carries_no_gradient_even_where_its_input_and_its_weights_do(kind: type) -> None:
    teacher = kind(Tapped())
    teacher.module.requires_grad_(True)
    x = torch.randn(2, 3, requires_grad=True)
    said = [*teacher(x), *teacher(x, method="features", stop_at="deep")["deep"]]
    assert len(said) == 4
    assert not any(one.requires_grad for one in said)
    torch.testing.assert_close(said[0], teacher.module(x)[0].detach())


def test_a_teacher_that_gives_something_else_than_tensors_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> set[Tensor]:
            return {x}

    with pytest.raises(TypeError, match="a teacher gave a set; wanted tensors"):
        FrozenCopy(Odd())(torch.zeros(1))


def test_without_gradient_keeps_the_structure_and_the_values() -> None:
    x = torch.randn(3, requires_grad=True)
    cut = without_gradient({"a": [x, (2 * x, None)]})
    assert torch.equal(cut["a"][1][0], 2 * x)
    assert cut["a"][1][1] is None
    assert isinstance(cut["a"][1], tuple)
    assert not cut["a"][1][0].requires_grad


def test_a_frozen_copy_answers_in_evaluation_mode_and_does_not_follow_its_source() -> None:
    source = network().train()
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    frozen = FrozenCopy(source)
    before = frozen(x)
    source(x)
    with torch.no_grad():
        source[0].weight.add_(1)
    assert torch.equal(frozen(x), before)
    assert torch.equal(before, copy.deepcopy(frozen.module).eval()(x))


def saved(folder: Path, weights: dict[str, Tensor]) -> Path:
    folder.mkdir(parents=True)
    save_file(weights, folder / "model.safetensors")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{digest}  model.safetensors\n{'0' * 64}  model.json\n")
    return folder


def test_a_frozen_copy_is_read_from_a_run_a_model_folder_a_file_or_a_state_dict(tmp_path: Path) -> None:
    trained, fresh = network(1), network(2)
    model = saved(tmp_path / "run" / "model", dict(trained.state_dict()))
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    for weights in (tmp_path / "run", model, model / "model.safetensors", dict(trained.state_dict())):
        frozen = FrozenCopy.from_weights(fresh, weights)
        assert torch.equal(frozen.module[0].weight, trained[0].weight)
        assert not frozen.module[0].weight.requires_grad
        assert frozen.weights_sha256 == (digest if isinstance(weights, Path) else "")
    assert not torch.equal(fresh[0].weight, trained[0].weight)


def test_a_restored_frozen_copy_says_the_same() -> None:
    first, second = FrozenCopy(network(1)), FrozenCopy(network(2))
    second.load_state_dict(first.state_dict())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(first(x), second(x))


def test_weights_that_are_damaged_or_of_another_network_or_not_there_are_refused(tmp_path: Path) -> None:
    model = saved(tmp_path / "run" / "model", dict(network().state_dict()))
    with pytest.raises(DataError, match=r"weights of another network .*build the teacher with the plan") as caught:
        FrozenCopy.from_weights(nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)), model)
    assert caught.value.code == "E-TGT-01"
    with pytest.raises(DataError, match="no model here; wanted a run folder"):
        FrozenCopy.from_weights(network(), model.parent.parent)
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match="damaged"):
        FrozenCopy.from_weights(network(), model)
    (model / "SHA256SUMS").write_text("nothing\n")
    with pytest.raises(IntegrityError, match=r"it lists no model\.safetensors"):
        FrozenCopy.from_weights(network(), model)


def probabilities(n_peers: int, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randn(n_peers, *shape, generator=draw, dtype=torch.float64).softmax(dim=2).requires_grad_()


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 2, 3, 2, 4)])
def test_two_peers_are_crossed_and_more_get_the_mean_of_the_others(shape: tuple[int, ...]) -> None:
    two, four = probabilities(2, *shape), probabilities(4, *shape)
    assert torch.equal(peer_targets(two), two.detach().flip(0))
    targets = peer_targets(four)
    for i in range(4):
        others = [four[j].detach() for j in range(4) if j != i]
        torch.testing.assert_close(targets[i], sum(others) / 3)
    torch.testing.assert_close(peer_targets(four, among="all")[2], four.detach().mean(dim=0))
    assert not targets.requires_grad


@pytest.mark.parametrize("among", ["others", "all"])
def test_a_random_mixture_is_a_convex_combination_of_those_it_is_drawn_from(among: Any) -> None:
    n = 4
    marks = torch.eye(n, dtype=torch.float64).reshape(n, 1, n, 1)  # peer i says class i, so the classes show the shares
    shares = peer_targets(marks, mix="random", among=among, generator=torch.Generator().manual_seed(5))[:, 0, :, 0]
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(n, dtype=torch.float64))
    assert (shares >= 0).all()
    if among == "others":
        assert (shares.diagonal() == 0).all()
        assert (shares > 0).sum() == n * (n - 1)
        assert not torch.equal(shares[0, 2:], shares[1, 2:])
    else:
        assert torch.equal(shares, shares[:1].expand(n, n))
    same = peer_targets(marks, mix="random", among=among, generator=torch.Generator().manual_seed(5))
    assert torch.equal(same[:, 0, :, 0], shares)
    other = peer_targets(marks, mix="random", among=among, generator=torch.Generator().manual_seed(6))
    assert not torch.equal(other[:, 0, :, 0], shares)


def test_the_random_share_of_two_peers_is_even_between_0_and_1() -> None:
    marks = torch.eye(2).reshape(2, 1, 2, 1)
    draw = torch.Generator().manual_seed(0)
    drawn = [peer_targets(marks, mix="random", among="all", generator=draw)[0, 0, 0, 0] for _ in range(2000)]
    counts = torch.histc(torch.stack(drawn), bins=4, min=0, max=1)
    assert (counts - 500).abs().max() < 80  # four standard deviations of a count


def test_a_loss_against_a_peers_target_moves_only_the_learner() -> None:
    peers = Peers([nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)])
    x = torch.randn(2, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    probs = torch.stack([logits.softmax(dim=1) for logits in peers(x)])
    ((probs[0] - peer_targets(probs)[0]) ** 2).sum().backward()
    assert peers.members[0].weight.grad.abs().sum() > 0
    assert peers.members[1].weight.grad is None or not peers.members[1].weight.grad.any()


def test_peers_are_saved_and_restored_whole() -> None:
    first, second = Peers([network(1), network(2)]), Peers([network(3), network(4)])
    second.load_state_dict(first.state_dict())
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    for one, other in zip(first.eval()(x), second.eval()(x), strict=True):
        assert torch.equal(one, other)


def test_peers_that_cannot_teach_one_another_are_refused() -> None:
    alone = network()
    with pytest.raises(ValueError, match="two networks or more, got 1"):
        Peers([alone])
    with pytest.raises(ValueError, match="networks 0 and 2 share a parameter"):
        Peers([alone, network(1), alone])
    with pytest.raises(ValueError, match="two peers or more, got 1"):
        peer_targets(torch.ones(1, 1, 2, 3))
    with pytest.raises(ValueError, match="a random mixture needs a generator"):
        peer_targets(torch.ones(2, 1, 2, 3), mix="random")
