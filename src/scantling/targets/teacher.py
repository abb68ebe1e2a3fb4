"""Who teaches: an averaged copy of a network, a frozen copy, or peers that teach one another.

One policy for all of them: what a teacher says carries no gradient. A teacher is asked by calling it; what a peer
says in its own forward pass passes `without_gradient` before another learns from it.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeVar, cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from scantling.errors import DataError, IntegrityError
from scantling.files import require_sha256, sha256_file
from scantling.networks.transfer import read_state

T = TypeVar("T")

WEIGHTS: Final = "model.safetensors"
CHECKSUMS: Final = "SHA256SUMS"


def without_gradient(output: T) -> T:
    """The same tensors, in the same tuple, list or dictionary, cut from whatever made them.

    Raises:
        TypeError: something else is in there, which might carry a gradient.
    """
    cut: Any = output
    if isinstance(cut, Tensor):
        cut = cut.detach()
    elif type(cut) in (list, tuple):
        cut = type(cut)(map(without_gradient, cut))
    elif isinstance(cut, dict):
        cut = {name: without_gradient(value) for name, value in cut.items()}
    elif cut is not None:
        raise TypeError(f"a teacher gave a {type(cut).__name__}; wanted tensors, or tuples, lists and dicts of them")
    return cast("T", cut)


class AveragedCopy:
    """Exponential moving average of a module's parameters; buffers are copied. Calling it asks the average.

    The decay is warmed up as min(decay, (1 + n) / (10 + n)) after n updates, so that the random start is
    forgotten within the first tenth of a run.

    Source: Tarvainen and Valpola 2017, "Mean teachers are better role models", Eq. 1.
    """

    def __init__(self, source: nn.Module, *, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self.module = _silent_copy(source)

    def __call__(self, *inputs: Any, method: str = "forward", **options: Any) -> Any:
        """What the average says: its output, or that of another method such as "features", without gradient."""
        return _ask(self.module, method, inputs, options)

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Move towards `source` by one step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine: list[Tensor] = list(self.module.parameters())
        torch._foreach_lerp_(mine, [p.detach() for p in source.parameters()], 1 - decay)
        for own, other in zip(self.module.buffers(), source.buffers(), strict=True):
            own.copy_(other)

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers, and the number of updates under `__updates__`."""
        state = cast("dict[str, Tensor]", self.module.state_dict())
        return {**state, "__updates__": torch.tensor(self.updates)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        tensors = dict(state)
        self.updates = int(tensors.pop("__updates__"))
        self.module.load_state_dict(tensors)


@final
class FrozenCopy:
    """A network that teaches and never moves. Calling it asks the copy.

    Attributes:
        weights_sha256: of the file the weights were read from; "" where they were not.
    """

    def __init__(self, source: nn.Module, *, weights_sha256: str = "") -> None:
        self.module = _silent_copy(source)
        self.weights_sha256 = weights_sha256

    @classmethod
    def from_weights(cls, network: nn.Module, weights: Path | Mapping[str, Tensor]) -> FrozenCopy:
        """The copy of a network with the weights of a run folder, a model folder, a file, or a state dict.

        Args:
            network: built as the one the weights were saved from; it is not changed.

        Raises:
            DataError: there are no weights, or they are those of another network: every tensor must fit.
            IntegrityError: the weights of a folder are not those its checksums were made of.
        """
        path = _weights_file(weights) if isinstance(weights, Path) else None
        frozen = cls(network, weights_sha256=sha256_file(path) if path else "")
        state = read_state(path) if path else dict(cast("Mapping[str, Tensor]", weights))
        try:
            frozen.module.load_state_dict(state)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise DataError(
                f"{path or 'the state dict'}: the weights of another network ({reason}); build the teacher with the "
                "plan that stands beside them",
                code="E-TGT-01",
            ) from None
        return frozen

    def __call__(self, *inputs: Any, method: str = "forward", **options: Any) -> Any:
        """What the copy says: its output, or that of another method such as "features", without gradient."""
        return _ask(self.module, method, inputs, options)

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters and buffers."""
        return dict(self.module.state_dict())

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        self.module.load_state_dict(state)


@final
class Peers(nn.Module):
    """Networks that learn side by side and teach one another; all of them are trained, each has its own weights.

    Raises:
        ValueError: fewer than two, or two that share a parameter: who shares weights has nothing to teach.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if len(members) < 2:
            raise ValueError(f"peers: wanted two networks or more, got {len(members)}")
        owners: dict[int, int] = {}
        for number, member in enumerate(members):
            for parameter in member.parameters():
                if owners.setdefault(id(parameter), number) != number:
                    raise ValueError(f"peers: networks {owners[id(parameter)]} and {number} share a parameter")
        self.members = nn.ModuleList(members)

    def forward(self, *inputs: Any) -> list[Any]:
        """What each member says, with gradient."""
        return [member(*inputs) for member in self.members]


def peer_targets(
    probs: Float[Tensor, "peer batch klass *spatial"],
    *,
    mix: Literal["average", "random"] = "average",
    among: Literal["others", "all"] = "others",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "peer batch klass *spatial"]:
    """For each peer the probabilities it shall learn from, without gradient.

    Two peers and `among="others"` is crossing over: each gets what the other says. Hard labels are the argmax over
    `klass`, or `scantling.targets.confidence.confident_labels`.

    Args:
        mix: "average", or a convex combination drawn evenly from all there are, once a call.
        among: a peer learns from the others only, with a draw of its own; or all learn the one mixture of all.
        generator: needed for "random".

    Raises:
        ValueError: fewer than two peers, or "random" without a generator.

    Source: crossed, Chen et al. 2021, "Semi-supervised semantic segmentation with cross pseudo supervision";
    random mixture of two decoders, Luo et al. 2022, "Scribble-supervised medical image segmentation via
    dual-branch network and dynamically mixed pseudo labels supervision", Eq. 2.
    """
    n_peers = len(probs)
    if n_peers < 2:
        raise ValueError(f"peer_targets: wanted two peers or more, got {n_peers}")
    if mix == "random" and generator is None:
        raise ValueError("peer_targets: a random mixture needs a generator")
    shares = torch.ones(n_peers, n_peers)
    if generator is not None and mix == "random":
        # exponential draws over their sum lie evenly on the simplex
        shares = torch.empty(n_peers, n_peers, device=generator.device).exponential_(generator=generator).cpu()
    if among == "others":
        shares.fill_diagonal_(0)
    else:
        shares = shares[:1].expand(n_peers, n_peers)
    shares = shares / shares.sum(dim=1, keepdim=True)
    said = without_gradient(probs)
    return torch.einsum("ts,s...->t...", shares.to(device=said.device, dtype=said.dtype), said)


def _silent_copy(source: nn.Module) -> nn.Module:
    return copy.deepcopy(source).requires_grad_(False).eval()


@torch.no_grad()
def _ask(module: nn.Module, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    asked = module if method == "forward" else getattr(module, method)
    return without_gradient(asked(*inputs, **options))


def _weights_file(path: Path) -> Path:
    """The file itself, or the one of a model folder or run folder, which must be what its checksum says."""
    if not path.is_dir():
        return path
    for folder in (path, path / "model"):
        if (folder / CHECKSUMS).is_file():
            lines = (line.split() for line in (folder / CHECKSUMS).read_text(errors="replace").splitlines())
            listed = {line[1]: line[0] for line in lines if len(line) == 2}
            if WEIGHTS not in listed:
                raise IntegrityError(
                    f"{folder / CHECKSUMS}: the file is damaged; it lists no {WEIGHTS}", code="E-CHK-01"
                )
            require_sha256(folder / WEIGHTS, listed[WEIGHTS])
            return folder / WEIGHTS
    raise DataError(
        f"{path}: no model here; wanted a run folder whose training has finished, or its model folder", code="E-TGT-02"
    )
