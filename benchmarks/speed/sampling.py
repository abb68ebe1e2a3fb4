"""P7: supervised pixel contrast, from a feature map to its gradient: sample, gather, contrast, go back.

The peer is the anchor sampling and the loss that PCLMix and its forerunners use, written again from their formulas:
per image and class the pixels are listed and the feature map is indexed, so that backward makes a gradient of the
whole map once for each pair of image and class. Ours draws the same quota of hard and easy pixels and reads the map
once. The times are those of whole steps, each with pixels of its own; the losses are compared on the same pixels.

Both have to hand on the gradient of the map, so memory is what a step needs beyond it, in a process of its own.
"""

from measuring import Row, child_peak_mib, peak_growth_mib, record, take_turns  # isort: skip  (one thread)

import sys
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from scantling.contrast.class_sampling import class_points
from scantling.contrast.pairing import PairRule
from scantling.contrast.pixels import Tags
from scantling.contrast.points import Points, gather
from scantling.contrast.relations import SameClass
from scantling.losses.contrastive import info_nce

BATCH, CHANNELS, SIDE, N_CLASSES = 12, 64, 256, 4
MOST_ANCHORS = 1024
MOST_PER_PAIR = 100
"""Of an image and a class; a class with fewer pixels is left out by the peer. Here all classes have more."""
TEMPERATURE = 0.07
TOLERATED = 1e-5
RULE = PairRule(SameClass(), denominator="per_positive")


@dataclass(frozen=True)
class Inputs:
    """A feature map that wants a gradient, labels, and predictions that are wrong along borders."""

    features: Tensor
    labels: Tensor
    predictions: Tensor


def make_inputs(batch: int = BATCH, side: int = SIDE) -> Inputs:
    rng = torch.Generator().manual_seed(0)
    scores = torch.randn(batch, N_CLASSES, 8, 8, generator=rng)
    scores = F.interpolate(scores, size=(side, side), mode="bicubic")
    labels = scores.argmax(dim=1)
    features = torch.randn(batch, CHANNELS, side, side, generator=rng).requires_grad_()
    return Inputs(features, labels, labels.roll((3, 2), dims=(1, 2)))


def quota() -> int:
    """Anchors of an image and a class."""
    return min(MOST_ANCHORS // (BATCH * N_CLASSES), MOST_PER_PAIR)


def list_anchors(features: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """The peer's sampling: `[pair, view, channel]` and the class of each pair."""
    batch, channels = features.shape[:2]
    pixels = features.permute(0, 2, 3, 1).contiguous().view(batch, -1, channels)
    labels, predictions = inputs.labels.view(batch, -1), inputs.predictions.view(batch, -1)
    pairs = [
        (image, int(klass))
        for image in range(batch)
        for klass in torch.unique(labels[image])
        if klass != -1 and int((labels[image] == klass).sum()) > MOST_PER_PAIR
    ]
    n = min(MOST_ANCHORS // len(pairs), MOST_PER_PAIR)
    anchors = torch.zeros(len(pairs), n, channels)
    for number, (image, klass) in enumerate(pairs):
        hard = ((labels[image] == klass) & (predictions[image] != klass)).nonzero().flatten()
        easy = ((labels[image] == klass) & (predictions[image] == klass)).nonzero().flatten()
        n_hard = min(max(n // 2, n - len(easy)), len(hard))
        chosen = (hard[torch.randperm(len(hard))[:n_hard]], easy[torch.randperm(len(easy))[: n - n_hard]])
        anchors[number] = pixels[image, torch.cat(chosen)]
    return anchors, torch.tensor([klass for _, klass in pairs])


def dense_loss(anchors: Tensor, classes: Tensor) -> Tensor:
    """The peer's loss of N anchors against themselves: each positive against itself and all of other classes."""
    anchors = F.normalize(anchors, dim=1)
    logits = anchors @ anchors.T / TEMPERATURE
    logits = logits - logits.max(dim=1, keepdim=True).values.detach()
    same = (classes[:, None] == classes[None, :]).float()
    positive = same * (1 - torch.eye(len(anchors)))
    negative = 1 - same
    exponentials = logits.exp()
    others = (exponentials * negative).sum(dim=1, keepdim=True)
    log_share = logits - (exponentials + others).log()
    return -((positive * log_share).sum(dim=1) / positive.sum(dim=1)).mean()


def peer_step(inputs: Inputs) -> Tensor:
    anchors, classes = list_anchors(inputs.features, inputs)
    loss = dense_loss(anchors.flatten(0, 1), classes.repeat_interleave(anchors.shape[1]))
    return gradient_of(loss, inputs)


def our_points(inputs: Inputs, rng: torch.Generator) -> Points:
    labels = inputs.labels.unsqueeze(1)
    hard = (inputs.predictions != inputs.labels).unsqueeze(1)
    return class_points(labels, quota(), rng, classes=range(N_CLASSES), preferred=hard)


def our_loss(inputs: Inputs, points: Points) -> Tensor:
    shape = inputs.labels.shape[1:]
    embeddings = gather(inputs.features.unsqueeze(1), points, shape, interpolation="nearest").flatten(0, 2)
    assert points.klass is not None
    pairs = RULE.pairs(Tags(klass=points.klass.flatten(), usable=points.usable.flatten()))
    return info_nce(embeddings, None, pairs, temperature=TEMPERATURE)


def our_step(inputs: Inputs, rng: torch.Generator) -> Tensor:
    return gradient_of(our_loss(inputs, our_points(inputs, rng)), inputs)


def gradient_of(loss: Tensor, inputs: Inputs) -> Tensor:
    return torch.autograd.grad(loss, inputs.features)[0]


def difference(inputs: Inputs) -> float:
    """Of value and gradient on the same pixels, relative to the value and to the largest entry of the gradient."""
    points = our_points(inputs, torch.Generator().manual_seed(1))
    assert bool(points.usable.all())
    assert points.klass is not None
    ours = our_loss(inputs, points)
    y, x = points.indices.flatten(1, 2).long().unbind(dim=-1)
    pixels = inputs.features.permute(0, 2, 3, 1)[torch.arange(len(y))[:, None], y, x]
    theirs = dense_loss(pixels.flatten(0, 1), points.klass.flatten())
    mine, other = gradient_of(ours, inputs), gradient_of(theirs, inputs)
    of_value = float(((ours - theirs).abs() / theirs.abs()).detach())
    return max(of_value, float((mine - other).abs().max() / other.abs().max()))


def step(name: str, inputs: Inputs) -> Tensor:
    return our_step(inputs, torch.Generator().manual_seed(2)) if name == "ours" else peer_step(inputs)


def peak_beyond_gradient(name: str) -> float:
    """What a step needs at most beyond the gradient of the feature map, in MiB, after a small step."""
    step(name, make_inputs(batch=2, side=64))
    inputs = make_inputs()
    return peak_growth_mib(lambda: step(name, inputs)) - inputs.features.nbytes / 2**20


def main() -> int:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["--peak-of"]:
        print(peak_beyond_gradient(sys.argv[2]))
        return 0
    inputs = make_inputs()
    off = difference(inputs)
    seconds, _ = take_turns(
        {"ours": lambda: step("ours", inputs), "peer": lambda: step("peer", inputs)}, rounds=5, warmups=1
    )
    peaks = {name: child_peak_mib(__file__, "--peak-of", name) for name in ("ours", "peer")}
    what = f"supervised pixel contrast, B={BATCH}, {SIDE} x {SIDE}, {N_CLASSES} classes, forward and backward"
    peer = "PCLMix (its formula)"
    gradient = inputs.features.nbytes / 2**20
    check = f"on the same {BATCH * N_CLASSES * quota()} pixels value and gradient differ by {off:.0e}"
    equal = off <= TOLERATED
    rows = [
        Row(
            bar="P7", what=what, peer=peer, ours=seconds["ours"], theirs=seconds["peer"], unit="s",
            ratio=seconds["peer"] / seconds["ours"], floor="20", target="35", check=check, equal=equal,
        ),
        Row(
            bar="P7", what=f"{what}: peak beyond the map's gradient", peer=peer, ours=peaks["ours"],
            theirs=peaks["peer"], unit="MiB", ratio=peaks["peer"] / peaks["ours"], floor="5", target="10",
            check=f"{check}; with that gradient {peaks['ours'] + gradient:.0f} and {peaks['peer'] + gradient:.0f} MiB",
            equal=equal,
        ),
    ]  # fmt: skip
    return record(rows)


if __name__ == "__main__":
    sys.exit(main())
