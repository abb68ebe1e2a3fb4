"""P15, P15m, P16: the sliding window against nnU-Net's and MONAI's: overhead a patch, peak memory, equality.

The network is a 1x1x1 convolution, so that what is left is the window itself: overhead is CPU time less that of
the network alone on as many patches. All use one thread, 96^3 patches of a 320 x 320 x 130 image, overlap 0.5 and
a Gaussian; "labels" of a peer is its logits and `argmax(0)`. Ours must equal the argmax of our own full float32 sum
exactly, and MONAI's labels where its tiles lie as ours; nnU-Net sums in float16, so a few labels differ. Peak memory
is the growth of the resident set of a fresh process, less what the network needs for one patch.
"""

from measuring import Row, child_peak_mib, peak_growth_mib, peer, record, take_turns  # isort: skip  (one thread)

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from scantling.inference.sliding_window import predict_labels, predict_logits
from scantling.inference.tiling import tile

Contestant = Callable[[nn.Module, Tensor], Tensor]
SIZE, PATCH, CLASSES = (320, 320, 130), 96, 4
GOALS = {
    ("labels", "nnU-Net"): ("4", "6"),
    ("labels", "MONAI"): ("3.5", "5"),
    ("logits", "nnU-Net"): ("1.6", "2"),
    ("logits", "MONAI"): ("1.0", "1.15"),
}
AGREEMENT = {"nnU-Net": 0.99, "MONAI": 0.999}
"""Least share of voxels with the same label; MONAI's last tile of an axis lies elsewhere, nnU-Net sums in float16."""


def ours_labels(network: nn.Module, image: Tensor) -> Tensor:
    return predict_labels(network, image, patch_size=(PATCH,) * 3, n_classes=CLASSES)


def ours_logits(network: nn.Module, image: Tensor) -> Tensor:
    return predict_logits(network, image, patch_size=(PATCH,) * 3, n_classes=CLASSES)


def monai_logits(network: nn.Module, image: Tensor) -> Tensor:
    from monai.inferers import SlidingWindowInferer

    window = SlidingWindowInferer((PATCH,) * 3, sw_batch_size=1, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        return window(image[None], network)[0]


def nnunet_logits(network: nn.Module, image: Tensor) -> Tensor:
    """Its predictor, told only what its sliding window asks for."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        predictor = nnUNetPredictor(
            tile_step_size=0.5, use_gaussian=True, use_mirroring=False, perform_everything_on_device=False,
            device=torch.device("cpu"), allow_tqdm=False,
        )  # fmt: skip
    predictor.network = network
    predictor.configuration_manager = SimpleNamespace(patch_size=(PATCH,) * 3)
    predictor.label_manager = SimpleNamespace(num_segmentation_heads=CLASSES)
    return predictor.predict_sliding_window_return_logits(image)


def to_labels(contestant: Contestant) -> Contestant:
    def labels(network: nn.Module, image: Tensor) -> Tensor:
        with torch.inference_mode():
            return contestant(network, image).argmax(0)

    return labels


def network_alone(network: nn.Module, image: Tensor) -> None:
    """On every patch of our tiling."""
    with torch.inference_mode():
        for ((z, y, x),) in tile(tuple(image.shape[1:]), (PATCH,) * 3, overlap=0.5, batch_size=1).batches:
            network(image[None, :, z : z + PATCH, y : y + PATCH, x : x + PATCH])


def one_patch(network: nn.Module, image: Tensor) -> Tensor:
    with torch.inference_mode():
        return network(image[None, :, :PATCH, :PATCH, :PATCH])


CONTESTANTS: dict[str, Contestant] = {
    "ours labels": ours_labels,
    "MONAI labels": to_labels(monai_logits),
    "nnU-Net labels": to_labels(nnunet_logits),
    "ours logits": ours_logits,
    "MONAI logits": monai_logits,
    "nnU-Net logits": nnunet_logits,
}
MODULES = {"MONAI": "monai.inferers", "nnU-Net": "nnunetv2.inference.predict_from_raw_data"}


def given(size: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """A near-free network and an image, the same in every process."""
    torch.manual_seed(0)
    return nn.Conv3d(1, CLASSES, 1).requires_grad_(False), torch.randn(1, *size)


def run_alone(name: str) -> None:
    """Print the growth of this process's peak, after a warm-up on one patch."""
    contestant = one_patch if name == "one patch" else CONTESTANTS[name]
    network, _ = given((PATCH,) * 3)
    contestant(network, torch.zeros(1, PATCH, PATCH, PATCH))
    _, image = given(SIZE)
    print(peak_growth_mib(lambda: contestant(network, image)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["one patch", *CONTESTANTS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        run_alone(options.only)
        return 0
    peers = [name for name, module in MODULES.items() if peer(module) is not None]
    names = [name for name in CONTESTANTS if name.split()[0] in ("ours", *peers)]
    network, image = given(SIZE)
    everyone = {name: lambda name=name: CONTESTANTS[name](network, image) for name in names}
    everyone["alone"] = lambda: network_alone(network, image)
    seconds, results = take_turns(everyone, rounds=options.rounds)
    patches = len(tile(SIZE, (PATCH,) * 3, overlap=0.5, batch_size=1).batches)
    overhead = {name: (seconds[name] - seconds["alone"]) / patches * 1000 for name in names}
    alone = child_peak_mib(__file__, "--only", "one patch")
    peaks = {name: child_peak_mib(__file__, "--only", name) - alone for name in names}
    exact = torch.equal(results["ours logits"].argmax(0), results["ours labels"].long())
    for name in names:
        print(f"  {name}: {seconds[name]:.3f} CPU s, {overhead[name]:.2f} ms a patch, {peaks[name]:.0f} MiB")
    rows = []
    for kind in ("labels", "logits"):
        ours = f"ours {kind}"
        for name in peers:
            theirs = f"{name} {kind}"
            same = float((results[f"{name} labels"] == results["ours labels"]).float().mean())
            check = f"labels {'equal' if exact else 'DIFFER from'} the fp32 sum's, {100 * same:.3f} % equal the peer's"
            floor, target = GOALS[kind, name]
            equal = exact and same >= AGREEMENT[name]
            rows.append(
                Row(
                    bar="P15" if kind == "labels" else "P16",
                    what=f"sliding window to {kind}: overhead",
                    peer=name,
                    ours=overhead[ours],
                    theirs=overhead[theirs],
                    unit="ms a patch",
                    ratio=overhead[theirs] / overhead[ours],
                    floor=floor,
                    target=target,
                    check=check,
                    equal=equal,
                )
            )
            gated = kind == "labels"
            rows.append(
                Row(
                    bar="P15m" if gated else "P16m",
                    what=f"sliding window to {kind}: peak memory",
                    peer=name,
                    ours=peaks[ours],
                    theirs=peaks[theirs],
                    unit="MiB",
                    ratio=peaks[theirs] / peaks[ours],
                    floor="3" if gated else "",
                    target="4.5" if gated else "",
                    check=check,
                    equal=equal,
                )
            )
    return record(rows)


if __name__ == "__main__":
    sys.exit(main())
