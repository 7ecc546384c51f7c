"""Factories of the bundle `shared.yaml`: how a user brings a model of their own."""

import importlib.util
from pathlib import Path

from torch import Tensor, nn


class Mbf512(nn.Module):
    """The 512-d identity network that lies beside the checkout; reads faces aligned on five points."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        return self.net((crops_NCHW * 255 - 127.5) / 127.5)


def mbf512(weights: Path) -> nn.Module:
    spec = importlib.util.spec_from_file_location("graphnet", weights.parent / "graphnet.py")
    graphnet = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(graphnet)
    return Mbf512(graphnet.GraphNet.load(str(weights.with_suffix(""))))
