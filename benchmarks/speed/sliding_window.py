"""Sliding window against MONAI's, in one process: CPU time, peak memory, equality of the labels.

Run by hand: `python benchmarks/speed/sliding_window.py` (MONAI must be importable for the comparison). The
network is a 1x1x1 convolution, so that what is left is the window itself. Both use one thread, the same
overlap and Gaussian weights; contestants take turns, and the median of the rounds is reported. Peak memory is
the growth of the resident set of a fresh process, less what the network needs for one patch; the image was
there before.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from scantling.inference.sliding_window import predict_labels, predict_logits
from scantling.inference.tiling import tile

Contestant = Callable[[nn.Module, Tensor, int], Tensor]


def ours_labels(network: nn.Module, image: Tensor, patch: int) -> Tensor:
    return predict_labels(network, image, patch_size=(patch,) * 3, n_classes=4)


def ours_logits(network: nn.Module, image: Tensor, patch: int) -> Tensor:
    return predict_logits(network, image, patch_size=(patch,) * 3, n_classes=4)


def monai_logits(network: nn.Module, image: Tensor, patch: int) -> Tensor:
    from monai.inferers import SlidingWindowInferer

    window = SlidingWindowInferer((patch,) * 3, sw_batch_size=1, overlap=0.5, mode="gaussian")
    with torch.inference_mode():
        return window(image[None], network)[0]


def monai_labels(network: nn.Module, image: Tensor, patch: int) -> Tensor:
    with torch.inference_mode():
        return monai_logits(network, image, patch).argmax(0)


def one_patch(network: nn.Module, image: Tensor, patch: int) -> Tensor:
    with torch.inference_mode():
        return network(image[None, :, :patch, :patch, :patch])


CONTESTANTS: dict[str, Contestant] = {
    "ours_labels": ours_labels,
    "monai_labels": monai_labels,
    "ours_logits": ours_logits,
    "monai_logits": monai_logits,
    "one_patch": one_patch,
}


def scene(size: tuple[int, ...]) -> tuple[nn.Module, Tensor]:
    """A near-free network and an image, the same in every process."""
    torch.manual_seed(0)
    return nn.Conv3d(1, 4, 1), torch.randn(1, *size)


def bare_seconds(network: nn.Module, image: Tensor, patch: int) -> float:
    """CPU seconds of the network alone on every patch of ours."""
    window = tile(tuple(image.shape[1:]), (patch,) * 3, overlap=0.5, batch_size=1)
    start = time.process_time()
    with torch.inference_mode():
        for ((z, y, x),) in window.batches:
            network(image[None, :, z : z + patch, y : y + patch, x : x + patch])
    return time.process_time() - start


def peak_mib(name: str, size: tuple[int, ...], patch: int) -> float:
    """Growth of the peak resident set of a fresh process that runs one contestant once."""
    shape = [str(length) for length in size]
    command = [sys.executable, __file__, "--only", name, "--size", *shape, "--patch", str(patch)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_alone(name: str, size: tuple[int, ...], patch: int) -> None:
    """Print the growth of this process's peak, in MiB, after a warm-up on a small image."""
    network, _ = scene((patch,) * 3)
    CONTESTANTS[name](network, torch.zeros(1, patch, patch, patch), patch)
    _, image = scene(size)
    before = status_kib("VmRSS")
    kept = CONTESTANTS[name](network, image, patch)
    print((status_kib("VmHWM") - before) / 1024)
    del kept


def status_kib(field: str) -> int:
    """A figure of this process from Linux: its resident set (VmRSS) or the peak of it (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(320, 320, 130))
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=CONTESTANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(options.size)
    if options.only:
        run_alone(options.only, size, options.patch)
        return
    try:
        import monai

        print(f"monai {monai.__version__}, torch {torch.__version__}")
        names = [name for name in CONTESTANTS if name != "one_patch"]
    except ImportError:
        print("monai is not importable: only our own figures")
        names = [name for name in CONTESTANTS if name.startswith("ours")]
    report(names, size, options.patch, options.rounds)


def report(names: list[str], size: tuple[int, ...], patch: int, rounds: int) -> None:
    network, image = scene(size)
    seconds: dict[str, list[float]] = {name: [] for name in (*names, "bare")}
    results: dict[str, Tensor] = {}
    for turn in range(rounds + 1):
        for name in names:
            start = time.process_time()
            results[name] = CONTESTANTS[name](network, image, patch)
            seconds[name].append(time.process_time() - start)
        seconds["bare"].append(bare_seconds(network, image, patch))
        if turn == 0:  # warm-up
            seconds = {name: [] for name in seconds}
    patches = len(tile(size, (patch,) * 3, overlap=0.5, batch_size=1).batches)
    alone = peak_mib("one_patch", size, patch)
    bare = statistics.median(seconds["bare"])
    print(f"{size}, patch {patch}, {patches} patches, network alone {bare:.3f} CPU s, {alone:.0f} MiB")
    overhead = {name: (statistics.median(seconds[name]) - bare) / patches * 1000 for name in names}
    peaks = {name: peak_mib(name, size, patch) - alone for name in names}
    for name in names:
        median = statistics.median(seconds[name])
        print(f"  {name:13s} {median:6.3f} CPU s  {overhead[name]:6.2f} ms a patch  peak {peaks[name]:6.0f} MiB")
    own = results["ours_logits"].argmax(0)
    print("  labels equal the argmax of our full float32 sum:", torch.equal(own, results["ours_labels"].long()))
    if "monai_labels" in names:
        for kind in ("labels", "logits"):
            ours, peer = f"ours_{kind}", f"monai_{kind}"
            faster, smaller = overhead[peer] / overhead[ours], peaks[peer] / peaks[ours]
            print(f"  {kind}: {faster:.1f}x less overhead, {smaller:.1f}x less memory")
        agreement = (results["monai_labels"] == results["ours_labels"]).float().mean().item()
        print(f"  labels agree with MONAI's at {agreement:.6f} of the voxels (its tiles lie elsewhere)")


if __name__ == "__main__":
    main()
