"""Weight files as tensors: read without running code out of them, and loaded strictly.

torch is imported inside the functions, because the driver computes digests without it.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import MissingWeightsError, StateDictError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

_TORCH_SUFFIXES = (".pth", ".pt", ".tar", ".bin")
_KEYS_SHOWN = 12  # per kind of difference; a file of another architecture differs in all of its hundreds


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's bytes, 64 hex digits.

    Raises:
        MissingWeightsError: there is no such file.
    """
    path = _existing(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_state_dict(path: Path | str, key: str | None = None, strip_prefix: str = "") -> dict[str, Tensor]:
    """Tensors of a weight file, by name, on the CPU.

    Args:
        path: `.safetensors`, or a torch file (`.pth`, `.pth.tar`, `.pt`, `.bin`), which is read with `weights_only`.
        key: entry of a torch file under which the tensors lie, for example `state_dict`; None: they lie at the top.
        strip_prefix: taken off the names that begin with it, for example `module.`.

    Returns:
        name -> tensor. float16 and bfloat16 are cast up to float32; every other dtype is as stored.

    Raises:
        MissingWeightsError: there is no such file.
        WeightsError: the file is damaged, of another kind, has objects that are not tensors, or lacks `key`.
    """
    import torch

    path = _existing(path)
    content = _read(path)
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            held = ", ".join(map(repr, content)) if isinstance(content, Mapping) else type(content).__name__
            raise WeightsError(f"{path}: no entry {key!r}; the file holds {_shortened(held)}")
        content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        within = f" under {key!r}" if key is not None else ""
        raise WeightsError(f"{path}: expected names and tensors{within}; is another `key` meant?")
    half = (torch.float16, torch.bfloat16)
    return {
        name.removeprefix(strip_prefix): tensor.float() if tensor.dtype in half else tensor
        for name, tensor in content.items()
    }


def load_strict(net: nn.Module, state: Mapping[str, Tensor], model_name: str, optional: Sequence[str] = ()) -> None:
    """Load tensors into a network; every name and every shape has to agree.

    A network that keeps some of its random weights gives wrong results without an error, so nothing is skipped
    silently.

    Args:
        net: the network, changed in place.
        state: name -> tensor.
        model_name: for the message.
        optional: suffixes of names that `state` may lack, for example `num_batches_tracked`, which inference does
            not read.

    Raises:
        StateDictError: lists the missing and the unexpected names and the wrong shapes. The network is unchanged then.
    """
    expected = net.state_dict()
    suffixes = tuple(optional)
    missing = [name for name in expected if name not in state and not (suffixes and name.endswith(suffixes))]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} (expected {list(tensor.shape)}, got {list(state[name].shape)})"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    differences = {"missing": missing, "unexpected": unexpected, "wrong shape": shapes}
    if any(differences.values()):
        lines = [f"{kind} ({len(names)}): {_listed(names)}" for kind, names in differences.items() if names]
        raise StateDictError(f"weights of {model_name} do not fit its network; " + "; ".join(lines))
    net.load_state_dict(dict(state), strict=not suffixes)


def _existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"no weight file at {path}")
    return path


def _read(path: Path) -> object:
    import safetensors.torch
    import torch

    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise WeightsError(f"{path}: not a readable safetensors file: {error}") from error
    if path.suffix not in _TORCH_SUFFIXES:
        raise WeightsError(f"{path}: expected .safetensors or one of {', '.join(_TORCH_SUFFIXES)}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise WeightsError(f"{path}: not a torch file of plain tensors: {_shortened(str(error))}") from error


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _KEYS_SHOWN} more" if len(names) > _KEYS_SHOWN else ""
    return ", ".join(names[:_KEYS_SHOWN]) + more


def _shortened(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else text[:limit] + "…"
