"""Load what fits from a file of weights, and say tensor by tensor what did and what did not."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from scantling.errors import DataError, ResourceError

WRAPPERS: Final = (
    "module.",
    "_orig_mod.",
)  # what DistributedDataParallel and torch.compile put before each name
NESTED: Final = ("state_dict", "model_state_dict", "network_weights", "model", "network")
SAFE_TORCH: Final = (2, 10)  # earlier restricted unpicklers could be made to run code: CVE-2026-24747

Outcome = Literal["matched", "adapted", "skipped", "missing"]


@dataclass(frozen=True, kw_only=True)
class TransferRow:
    """What became of one tensor.

    Attributes:
        name: in the network; empty if the file's tensor belongs to nothing there.
        file_name: in the file; empty if the file has no such tensor.
        outcome: `matched` copied as it is; `adapted` copied to another number of input channels; `skipped` in
            the file but not used; `missing` in the network but not in the file. What is skipped or missing
            stays in the network as it was.
        reason: why, and the shapes where they matter.
    """

    name: str
    file_name: str
    outcome: Outcome
    reason: str

    @property
    def is_taken(self) -> bool:
        """Whether the network has it from the file."""
        return self.outcome in ("matched", "adapted")


@dataclass(frozen=True, kw_only=True)
class TransferReport:
    """What `load_matching` did; `str()` of it is a table for people."""

    source: str
    rows: tuple[TransferRow, ...]

    def count(self, outcome: Outcome) -> int:
        """Number of tensors with this outcome."""
        return sum(row.outcome == outcome for row in self.rows)

    def __str__(self) -> str:
        return "\n".join([self._head(), *_table(self.rows)])

    def brief(self, *, most: int = 8) -> str:
        """How many tensors had which outcome, and the first that were not simply copied."""
        others = [row for row in self.rows if row.outcome != "matched"]
        more = [f"and {len(others) - most} more"] if len(others) > most else []
        return "\n".join([self._head(), *(_table(others[:most]) if others else []), *more])

    def _head(self) -> str:
        outcomes: tuple[Outcome, ...] = ("matched", "adapted", "skipped", "missing")
        summary = ", ".join(f"{self.count(outcome)} {outcome}" for outcome in outcomes)
        return f"weights from {self.source}: {summary}"


def load_matching(
    network: nn.Module,
    source: Path | Mapping[str, Tensor],
    *,
    rename: Sequence[tuple[str, str]] = (),
) -> TransferReport:
    """Copy every tensor whose (renamed) name and shape fit; all others of the network stay as they are.

    The first convolution is adapted to another number of input channels: its file weights are summed over
    their channels and spread evenly, so that an input with equal channels gives the response the file's
    network gave to a grey picture.

    Args:
        rename: (regular expression, replacement) pairs; the first that matches a file name is applied, once.
            An empty replacement says that the network has no use for the tensor.

    Raises:
        DataError: the file is missing, damaged or unsafe; two of its tensors get one name; a tensor that fits
            holds NaN or infinite values; or nothing fits at all, and the network is unchanged.
    """
    where = str(source) if isinstance(source, Path) else "a state dict"
    state = read_state(source) if isinstance(source, Path) else _without_wrappers(source)
    own = {**dict(network.named_parameters()), **_saved_buffers(network)}
    first = next((f"{name}.weight" for name, part in network.named_modules() if _is_convolution(part)), None)
    rows: list[TransferRow] = []
    copies: dict[str, Tensor] = {}
    for file_name, tensor in state.items():
        name = _renamed(file_name, rename)
        if name in copies:
            raise DataError(
                f"{where}: two tensors would become {name!r} in the network, the second is {file_name!r}; "
                "make the rename rules tell them apart",
                code="E-NET-12",
            )
        row, fitted = _fit(name, file_name, tensor, own.get(name), is_first=name == first)
        if fitted is not None:
            if not bool(torch.isfinite(fitted).all()):
                raise DataError(f"{where}: {file_name} holds NaN or infinite values; use another file", code="E-NET-13")
            copies[name] = fitted
        rows.append(row)
    if not copies:
        raise DataError(
            f"{where}: none of its {len(state)} tensors fits the network (the file has {_some(state)}; the "
            f"network has {_some(own)}); give rename rules, or another file",
            code="E-NET-14",
        )
    with torch.no_grad():
        for name, value in copies.items():
            own[name].copy_(value)
    named = {row.name for row in rows}
    rows += [
        TransferRow(name=name, file_name="", outcome="missing", reason="not in the file, left as it was")
        for name in own
        if name not in named
    ]
    return TransferReport(source=where, rows=tuple(rows))


def read_state(path: Path) -> dict[str, Tensor]:
    """The named tensors of a `.safetensors`, `.pth`, `.pt` or `.bin` file, on the CPU.

    A pickle is read by torch's restricted unpickler, which builds tensors and plain containers and runs no
    code of the file.

    Raises:
        DataError: the file is missing, damaged, wants to run code, or holds no named tensors.
        ResourceError: a pickle, and a torch older than 2.10, whose restricted unpickler is not safe.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file of weights", code="E-NET-10")
    if path.suffix == ".safetensors":
        try:
            return _without_wrappers(safetensors.torch.load_file(path))
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise DataError(f"{path}: not a whole safetensors file ({error})", code="E-NET-10") from None
    if path.suffix not in {".pth", ".pt", ".bin"}:
        raise DataError(
            f"{path}: weights are read from .safetensors, .pth, .pt or .bin, not from {path.suffix!r}",
            code="E-NET-10",
        )
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < SAFE_TORCH:
        raise ResourceError(
            f"{path}: pickled weights are read with torch 2.10 or newer only (this is {torch.__version__}), "
            "because older versions can be made to run code; update torch, or convert it to safetensors",
            code="E-NET-15",
        )
    return _without_wrappers(_named_tensors(path, _unpickle(path)))


def _unpickle(path: Path) -> object:
    try:
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols: the caller cannot act on it
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        reason = f"it asks for {found.group(1)}" if found else "not a pickle of tensors"
        raise DataError(
            f"{path}: refused, because it holds more than tensors or is damaged ({reason}); none of it was "
            "run; ask its maker for a safetensors file",
            code="E-NET-11",
        ) from None
    except Exception as error:  # noqa: BLE001 - a damaged pickle fails with whatever its bytes lead to
        reason = str(error).split(". ")[0].splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{path}: not a whole file of weights ({reason})", code="E-NET-10") from None
    return content


def _named_tensors(path: Path, content: object) -> dict[str, Tensor]:
    """The state dict itself, or the one a training checkpoint carries under a usual key."""
    if isinstance(content, Mapping):
        for key in NESTED:
            if isinstance(content.get(key), Mapping):
                return _named_tensors(path, content[key])
        named = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if named:
            return named
    raise DataError(f"{path}: holds no named tensors; wanted a state dict of a network", code="E-NET-10")


def _without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = list(state)
    for prefix in WRAPPERS:
        if names and all(name.startswith(prefix) for name in names):
            return _without_wrappers({name.removeprefix(prefix): state[name] for name in names})
    return dict(state)


def _saved_buffers(network: nn.Module) -> dict[str, Tensor]:
    saved = set(network.state_dict())
    return {name: buffer for name, buffer in network.named_buffers() if name in saved}


def _is_convolution(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d | nn.Conv3d)


def _renamed(name: str, rename: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rename:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name, count=1) if replacement else ""
    return name


def _fit(
    name: str, file_name: str, tensor: Tensor, target: Tensor | None, *, is_first: bool
) -> tuple[TransferRow, Tensor | None]:
    """The row of one file tensor, and what is to be copied if anything is."""

    def row(outcome: Outcome, reason: str) -> TransferRow:
        return TransferRow(name=name if target is not None else "", file_name=file_name, outcome=outcome, reason=reason)

    if not name:
        return row("skipped", "of no use here"), None
    if target is None:
        return row("skipped", f"the network has no {name}"), None
    have, want = tuple(tensor.shape), tuple(target.shape)
    if tensor.is_floating_point() != target.is_floating_point():
        return row("skipped", f"the file has {tensor.dtype}, the network {target.dtype}"), None
    if have == want:
        return row("matched", str(list(want))), tensor
    channels_differ = len(have) == len(want) and have[:1] + have[2:] == want[:1] + want[2:]
    if is_first and channels_differ:
        spread = tensor.sum(dim=1, keepdim=True, dtype=torch.float64) / want[1]
        return row("adapted", f"input channels {have[1]} -> {want[1]}"), spread.expand(want)
    return row("skipped", f"shape {list(have)} in the file, {list(want)} in the network"), None


def _table(rows: Sequence[TransferRow]) -> list[str]:
    """A line a tensor under a header, in columns."""
    head = ("outcome", "network", "file", "reason")
    cells = [head, *((row.outcome, row.name, row.file_name, row.reason) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(3)]
    return [
        "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[3]]).rstrip()
        for line in cells
    ]


def _some(names: Mapping[str, Tensor]) -> str:
    return ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")
