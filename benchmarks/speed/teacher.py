"""P14: the averaged copy of a network moved by one step, against the expression written for each parameter.

The network is the ResNet-50 U-Net. The usual expression makes new tensors for each parameter; its in-place form is
compared too. All start from the same weights and are told the same decay; afterwards the averages must be equal
to rounding.
"""

from measuring import Row, record, take_turns  # isort: skip  (sets the number of threads first)

import copy
import sys

import torch
from torch import nn

from scantling.networks import build_network
from scantling.networks.build import RESNET50_UNET
from scantling.targets.teacher import AveragedCopy

DECAY = 0.99
TOLERATED = 1e-5


@torch.no_grad()
def per_parameter(average: nn.Module, source: nn.Module) -> None:
    for own, other in zip(average.parameters(), source.parameters(), strict=True):
        own.data = DECAY * own.data + (1 - DECAY) * other.data
    for own, other in zip(average.buffers(), source.buffers(), strict=True):
        own.copy_(other)


@torch.no_grad()
def in_place(average: nn.Module, source: nn.Module) -> None:
    for own, other in zip(average.parameters(), source.parameters(), strict=True):
        own.mul_(DECAY).add_(other, alpha=1 - DECAY)
    for own, other in zip(average.buffers(), source.buffers(), strict=True):
        own.copy_(other)


def main() -> int:
    torch.set_num_threads(1)
    network = build_network(
        RESNET50_UNET, dimensions=2, in_channels=1, out_channels=4, generator=torch.Generator().manual_seed(0)
    )
    student = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)), alpha=0.1)
    ours = AveragedCopy(network, decay=DECAY)
    ours.updates = 10_000  # the warm-up of the decay is over
    averages = {"expression": copy.deepcopy(network), "in place": copy.deepcopy(network)}
    seconds, _ = take_turns(
        {
            "ours": lambda: ours.update(student),
            "expression": lambda: per_parameter(averages["expression"], student),
            "in place": lambda: in_place(averages["in place"], student),
        },
        rounds=25,
        warmups=3,
    )
    millions = sum(p.numel() for p in network.parameters()) / 1e6
    rows = []
    for name, floor, target in (("expression", "1.8", "2.4"), ("in place", "", "")):
        # largest difference of a tensor over the largest value in it
        pairs = zip(ours.module.parameters(), averages[name].parameters(), strict=True)
        with torch.no_grad():
            difference = max(float((own - other).abs().max() / other.abs().max()) for own, other in pairs)
        rows.append(
            Row(
                bar="P14",
                what=f"teacher update, {millions:.1f} M parameters",
                peer=f"per parameter, {name}",
                ours=seconds["ours"] * 1000,
                theirs=seconds[name] * 1000,
                unit="ms",
                ratio=seconds[name] / seconds["ours"],
                floor=floor,
                target=target,
                check=f"averages after 28 updates differ by {difference:.0e}",
                equal=difference <= TOLERATED,
            )
        )
    return record(rows)


if __name__ == "__main__":
    sys.exit(main())
