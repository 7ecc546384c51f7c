"""The folder of reference answers, and networks filled with the stand-in weights they were made with."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from actors.errors import StateDictError
from actors.runtime.placement import place_network
from actors.runtime.winograd import WinogradConv

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
def standin_state(parity: Path) -> Callable[[str], dict[str, torch.Tensor]]:
    """name -> the stand-in weights of that model, in the layout of the published file."""
    spec = importlib.util.spec_from_file_location("standin", parity / "standin.py")
    standin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(standin)

    def state(name: str) -> dict[str, torch.Tensor]:
        keys = json.loads((parity / "keys" / f"{name}.json").read_text())
        return {
            key: torch.from_numpy(standin.fill(key, tuple(shape))).to(getattr(torch, dtype))
            for key, (shape, dtype) in keys.items()
        }

    return state


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


@pytest.fixture(scope="session")
def assert_strict() -> Callable[[Callable[[dict], nn.Module], dict], None]:
    """A model must refuse weights that lack a tensor, bring one too many, or bring one of another shape."""

    def check(load: Callable[[dict], nn.Module], state: dict) -> None:
        lost, bent = [key for key in state if key.endswith(".weight")][:2]
        changed = {key: value for key, value in state.items() if key != lost}
        changed |= {"extra.weight": torch.zeros(1), bent: state[bent][:0]}
        with pytest.raises(StateDictError) as error:
            load(changed)
        for words in (f"missing (1): {lost}", "unexpected (1): extra.weight", f"wrong shape (1): {bent}"):
            assert words in str(error.value)

    return check
