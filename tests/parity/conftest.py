"""The folder of reference answers, and networks filled with the stand-in weights they were made with."""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from actors.models.arcface import build_arcface_r50
from actors.models.facenet import build_facenet
from actors.models.img2pose import build_img2pose
from actors.models.l2cs import build_l2cs
from actors.models.mobilefacenet import build_mobilefacenet
from actors.models.mobilenet import build_mobilenet
from actors.models.pfld import build_pfld
from actors.models.pose_mlp import build_pose_mlp
from actors.models.resmasknet import build_resmasknet
from actors.models.retinaface import build_retinaface_r34
from actors.runtime.placement import place_network
from actors.runtime.winograd import WinogradConv


@dataclass(frozen=True)
class Layout:
    """How the weights of a model are published, and what builds the model from them.

    Attributes:
        build: from role -> file to the network.
        torch_key: None: a safetensors file. Else a torch file, and the key in it that holds the tensors; "" for none.
        prefix: of every tensor's name.
        counters: whether the file holds the counters of the batch norms.
        config: a file of the answers that the model needs as well.
    """

    build: Callable[..., nn.Module]
    torch_key: str | None = None
    prefix: str = ""
    counters: bool = True
    config: str | None = None


LAYOUTS = {
    "arcface_r50": Layout(build_arcface_r50, counters=False),
    "facenet": Layout(build_facenet, torch_key=""),
    "img2pose": Layout(build_img2pose, config="img2pose_config.json"),
    "l2cs": Layout(build_l2cs, prefix="module."),
    "mobilefacenet": Layout(build_mobilefacenet, torch_key="state_dict"),
    "mobilenet": Layout(build_mobilenet, torch_key="state_dict", prefix="module."),
    "pfld": Layout(build_pfld, torch_key="state_dict"),
    "pose_mlp": Layout(build_pose_mlp, config="pose_mlp_v2.json"),
    "resmasknet": Layout(build_resmasknet, torch_key="net"),
    "retinaface_r34": Layout(build_retinaface_r34),
}

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)] if torch.cuda.is_available() else ["cpu"]


def pytest_terminal_summary(terminalreporter) -> None:
    """One line in place of a skip per test."""
    if len(DEVICES) == 1:
        terminalreporter.write_line("tests/parity: no CUDA device at hand, the CPU alone was tested")


@pytest.fixture(scope="session", params=DEVICES)
def device(request) -> torch.device:
    """Every device at hand, in turn: the CPU, then CUDA if this machine has it."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def place(device: torch.device) -> Callable[[nn.Module], nn.Module]:
    """Puts a network on the device as the Annotator does in float32, without TF32, under its published names."""
    return lambda net: place_network(net, device, torch.float32, fold=False, winograd=True)


@pytest.fixture(scope="session")
def published_shapes(parity: Path) -> Callable[[str], dict[str, tuple[list[int], str]]]:
    """Gives, for a model, the name of every tensor -> its shape and dtype, as py-feat's network has them."""
    return lambda name: json.loads((parity / "keys" / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def standin_state(parity: Path, published_shapes) -> Callable[[str], dict[str, torch.Tensor]]:
    """Gives the stand-in weights of a model, under the names of py-feat's network."""
    spec = importlib.util.spec_from_file_location("standin", parity / "standin.py")
    standin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standin)

    def state(name: str) -> dict[str, torch.Tensor]:
        return {
            key: torch.from_numpy(standin.fill(key, tuple(shape))).to(getattr(torch, dtype))
            for key, (shape, dtype) in published_shapes(name).items()
        }

    return state


@pytest.fixture(scope="session")
def publish(parity: Path) -> Callable[..., dict[str, Path]]:
    """Writes the tensors of a model to a folder as they are published; gives role -> file."""

    def write(name: str, state: dict[str, torch.Tensor], folder: Path, **changed: Any) -> dict[str, Path]:
        layout = replace(LAYOUTS[name], **changed)
        kept = {
            layout.prefix + key: tensor
            for key, tensor in state.items()
            if layout.counters or not key.endswith("num_batches_tracked")
        }
        if layout.torch_key is None:
            files = {"weights": folder / "weights.safetensors"}
            save_file(kept, files["weights"])
        else:
            files = {"weights": folder / "weights.pth"}
            torch.save({layout.torch_key: kept} if layout.torch_key else kept, files["weights"])
        return files | ({"config": parity / layout.config} if layout.config else {})

    return write


@pytest.fixture(scope="session")
def build(publish) -> Callable[..., nn.Module]:
    """Builds a model from tensors by way of its published files, and removes these: some take half a gigabyte."""

    def through_files(name: str, state: dict[str, torch.Tensor], folder: Path, **changed: Any) -> nn.Module:
        files = publish(name, state, folder, **changed)
        try:
            return LAYOUTS[name].build(files)
        finally:
            files["weights"].unlink()

    return through_files


@pytest.fixture(scope="session")
def assert_like_reference() -> Callable[[torch.Tensor, np.ndarray], None]:
    """Holds float32 implementations of the same arithmetic together: rtol 1e-3, atol 1e-4 of the largest magnitude."""

    def check(ours: torch.Tensor, reference: np.ndarray) -> None:
        np.testing.assert_allclose(ours.cpu().numpy(), reference, rtol=1e-3, atol=1e-4 * np.abs(reference).max())

    return check


@pytest.fixture(scope="session")
def assert_layout() -> Callable[..., None]:
    """A network must have the published names and shapes, and hold what is published under two names only once."""

    def check(net: nn.Module, state: dict[str, torch.Tensor], parameters: int) -> None:
        tensors, learned = dict(net.state_dict()), list(net.parameters())
        for layer, module in net.named_modules(remove_duplicate=False):
            if isinstance(module, WinogradConv):  # on a CPU; it holds the weights in another form
                held = {"weight": module.weight, "bias": module.bias}
                tensors |= {f"{layer}.{name}": value for name, value in held.items() if value is not None}
        for module in net.modules():
            if isinstance(module, WinogradConv):
                learned += [value for value in (module.weight, module.bias) if value is not None]
        assert {name: value.shape for name, value in tensors.items()} == {
            name: value.shape for name, value in state.items()
        }
        assert sum(value.numel() for value in learned) == parameters

    return check
