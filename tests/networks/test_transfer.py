"""Loading what fits: which tensors are taken, what the table says, and files damaged or malicious."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scantling.data.plan import NetworkPlan
from scantling.errors import DataError, ResourceError
from scantling.networks import UNet, build_network, load_initial
from scantling.networks.transfer import load_matching, read_state


def make_network(in_channels: int = 1, classes: int = 2) -> nn.Sequential:
    network = nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, classes, 1))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return network


def random_state(in_channels: int = 1, classes: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = make_network(in_channels, classes).state_dict()
    return {
        name: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 3
        for name, value in state.items()
    }


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
def test_everything_is_taken_where_everything_fits(tmp_path: Path, suffix: str) -> None:
    path, state, network = tmp_path / f"weights{suffix}", random_state(), make_network()
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    report = load_matching(network, path)
    assert report.count("matched") == len(report.rows) == len(state)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_what_does_not_fit_is_skipped_with_its_reason_and_what_is_absent_stays_as_it_was() -> None:
    network, state = make_network(classes=3), random_state(classes=2)
    state["projector.weight"] = torch.zeros(5)
    del state["1.running_var"]
    report = load_matching(network, state)
    outcomes = {row.file_name or row.name: (row.outcome, row.reason) for row in report.rows}
    assert outcomes["0.weight"] == ("matched", "[4, 1, 3, 3]")
    assert outcomes["2.weight"] == ("skipped", "shape [2, 4, 1, 1] in the file, [3, 4, 1, 1] in the network")
    assert outcomes["projector.weight"] == ("skipped", "the network has no projector.weight")
    assert outcomes["1.running_var"] == ("missing", "not in the file, left as it was")
    assert len(report.rows) == 10  # nine tensors of the network and one that only the file has
    assert not network[2].weight.any()
    assert (network[1].running_var == 1).all()


def test_the_report_prints_as_a_table() -> None:
    state = random_state()
    del state["2.bias"]
    state["fc.weight"] = torch.zeros(1)
    text = str(load_matching(make_network(), state, rename=[(r"^fc\.", "")]))
    lines = text.splitlines()
    assert lines[0] == "weights from a state dict: 8 matched, 0 adapted, 1 skipped, 1 missing"
    assert lines[1].split() == ["outcome", "network", "file", "reason"]
    assert lines[2].split() == ["matched", "0.weight", "0.weight", "[4,", "1,", "3,", "3]"]
    assert any(line.split() == ["skipped", "fc.weight", "of", "no", "use", "here"] for line in lines)
    assert any(line.startswith("missing") and "2.bias" in line for line in lines)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_the_first_convolution_answers_equal_channels_as_the_file_answered_grey(channels: int) -> None:
    state, network = random_state(in_channels=3), make_network(in_channels=channels)
    report = load_matching(network, state)
    assert report.count("adapted") == (channels != 3)
    grey = torch.randn(1, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    expected = nn.functional.conv2d(grey.expand(-1, 3, -1, -1), state["0.weight"], state["0.bias"])
    torch.testing.assert_close(network[0](grey.expand(-1, channels, -1, -1)), expected, rtol=1e-4, atol=1e-5)


def test_only_the_first_convolution_is_adapted() -> None:
    state, network = random_state(), make_network()
    state["2.weight"] = torch.ones(2, 3, 1, 1)
    report = load_matching(network, state)
    assert report.count("adapted") == 0
    assert not network[2].weight.any()


def test_names_are_rewritten_by_the_first_rule_that_matches() -> None:
    state = {f"backbone.stem.{name}": value for name, value in random_state().items()}
    network = make_network()
    report = load_matching(network, state, rename=[(r"^backbone\.stem\.(\d)", r"\1"), (r"^backbone\.", "9.")])
    assert report.count("matched") == len(state)


def test_two_tensors_that_would_get_one_name_are_refused() -> None:
    state = random_state()
    state["a.weight"] = state["0.weight"]
    with pytest.raises(DataError, match=r"two tensors would become '0.weight'.*'a.weight'"):
        load_matching(make_network(), state, rename=[(r"^a\.", "0.")])


def test_where_nothing_fits_both_sides_are_named_and_nothing_changes() -> None:
    network = make_network()
    with pytest.raises(DataError, match=r"none of its 2 tensors fits .*\(the file has p, q; the network has 0.weight"):
        load_matching(network, {"p": torch.ones(1), "q": torch.ones(2)})
    assert not any(parameter.any() for parameter in network.parameters())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused_before_anything_is_copied(bad: float) -> None:
    network, state = make_network(), random_state()
    state["2.weight"][0, 0] = bad
    with pytest.raises(DataError, match=r"2.weight holds NaN or infinite values"):
        load_matching(network, state)
    assert not network[0].weight.any()


def test_half_precision_is_widened_and_integers_are_not_taken_for_weights() -> None:
    network, state = make_network(), random_state()
    state["0.weight"] = state["0.weight"].half()
    state["0.bias"] = torch.ones(4, dtype=torch.int64)
    report = load_matching(network, state)
    assert torch.equal(network[0].weight, state["0.weight"].float())
    assert {row.file_name: row.outcome for row in report.rows}["0.bias"] == "skipped"
    assert not network[0].bias.any()


@pytest.mark.parametrize("key", ["state_dict", "model", "network_weights"])
def test_checkpoints_and_wrapped_networks_are_opened(tmp_path: Path, key: str) -> None:
    state = random_state()
    path = tmp_path / "checkpoint.pth"
    torch.save({key: {f"module._orig_mod.{name}": value for name, value in state.items()}, "epoch": 3}, path)
    assert read_state(path).keys() == state.keys()


class Payload:
    """Unpickled without care, it makes a folder."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("plain", [False, True])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path: Path, plain: bool) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "was_here"
    content: dict[str, Any] = {"extra": Payload(str(mark))}
    if not plain:
        content["0.weight"] = torch.zeros(4, 1, 3, 3)
    path.write_bytes(pickle.dumps(content, protocol=2)) if plain else torch.save(content, path)
    with pytest.raises(
        DataError, match=r"evil.pth: refused, because it holds more than tensors.*asks for \w+\.mkdir"
    ) as caught:
        load_matching(make_network(), path)
    assert not mark.exists()
    assert caught.value.code == "E-NET-11"
    pickle.loads(pickle.dumps(Payload(str(mark))))
    assert mark.exists(), "the payload is harmless, so the test shows nothing"


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(random_state(), path) if suffix == ".safetensors" else torch.save(random_state(), path)
    whole = path.read_bytes()
    for cut in range(20):
        path.write_bytes(whole[: len(whole) * cut // 20])
        with pytest.raises(DataError, match=f"weights{suffix}"):
            read_state(path)


def test_a_damaged_plain_pickle_is_refused_whatever_its_bytes_lead_to(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    whole = pickle.dumps({"a": [1, "text"] * 20}, protocol=2)
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        with pytest.raises(DataError, match=r"weights\.pth"):
            read_state(path)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("absent.pth", None, "no such file"),
        ("weights.h5", b"x", "not from '.h5'"),
        ("weights.pth", torch.zeros(3), "holds no named tensors"),
        ("weights.pt", {"epoch": 3}, "holds no named tensors"),
    ],
)
def test_what_is_no_file_of_weights_is_said_to_be_none(tmp_path: Path, name: str, content: Any, text: str) -> None:
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(DataError, match=text):
        read_state(path)


def test_pickles_are_not_read_by_a_torch_whose_restricted_reader_is_unsafe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pth"
    torch.save(random_state(), path)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")
    with pytest.raises(ResourceError, match=r"torch 2\.10 or newer only \(this is 2\.9\.1\+cpu\)"):
        read_state(path)


def test_in_brief_only_what_was_not_simply_copied_is_listed_and_the_rest_is_counted() -> None:
    state = random_state(classes=2)
    for k in range(12):
        state[f"projector.{k}"] = torch.zeros(1)
    report = load_matching(make_network(classes=3), state)
    brief = report.brief(most=3).splitlines()
    assert brief[0] == str(report).splitlines()[0]
    assert [line.split()[0] for line in brief[1:]] == ["outcome", "skipped", "skipped", "skipped", "and"]
    assert brief[-1] == f"and {len([r for r in report.rows if not r.is_taken]) - 3} more"
    whole = load_matching(make_network(), random_state()).brief()
    assert whole == "weights from a state dict: 9 matched, 0 adapted, 0 skipped, 0 missing"


def test_heads_are_left_where_they_tell_other_classes_apart(tmp_path: Path) -> None:
    plan = NetworkPlan(features=(4, 8), strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)))

    def made(seed: int) -> UNet:
        generator = torch.Generator().manual_seed(seed)
        return build_network(plan, dimensions=2, in_channels=1, out_channels=2, generator=generator)

    path = tmp_path / "weights.safetensors"
    save_file(dict(made(0).state_dict()), path)
    for heads in (True, False):
        network, before = made(1), made(1).state_dict()
        report = load_initial(network, path, plan, heads=heads)
        assert report.count("skipped") == (0 if heads else 2)
        for name, value in network.state_dict().items():
            source = before if name.startswith("heads.") and not heads else made(0).state_dict()
            assert torch.equal(value, source[name]), name
