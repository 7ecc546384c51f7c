"""Folding batch norms into the convolutions before them: the same function in fewer passes over memory.

The network keeps its class and its methods; only the pairs are changed in place, after its weights were loaded and
checked under their published names.
"""

from collections import Counter

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_FUSED = {nn.Conv2d: fuse_conv_bn_eval, nn.Linear: fuse_linear_bn_eval}
_NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)


class _Tracer(fx.Tracer):
    """Records calls down to the layers of torch, without running anything."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 (fixed by the base)
        return not list(m.children())


def fold_batch_norms(net: nn.Module) -> int:
    """Fold every batch norm that follows a convolution or a linear layer, directly or behind a ReLU, in place.

    Pairs are found by tracing `forward`, so a norm that comes before its convolution, or a convolution whose output is
    used elsewhere too, is left unchanged. So is a network that cannot be traced. Behind a ReLU, a norm with positive
    factors s and shifts b only moves the bend: s max(y, 0) + b = max(s y + b, b).

    Args:
        net: in eval mode, with its weights.

    Returns:
        Number of folded pairs.
    """
    try:
        graph = _Tracer().trace(net)
    except (fx.proxy.TraceError, TypeError, AttributeError, RuntimeError, NotImplementedError):
        return 0  # control flow that depends on values: slower, but still correct
    calls = Counter(id(net.get_submodule(str(node.target))) for node in graph.nodes if node.op == "call_module")
    folded = 0
    for node in graph.nodes:
        norm = net.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, _NORMS):
            continue
        before, layer = _before(net, node)
        bend = layer if type(layer) is nn.ReLU else None
        if bend is not None and before is not None:
            before, layer = _before(net, before)
        fuse = _FUSED.get(type(layer))
        if layer is None or fuse is None or any(calls[id(module)] > 1 for module in (layer, bend, norm)):
            continue
        with torch.no_grad():
            fused = fuse(layer, norm)  # type: ignore[operator]
            if bend is not None:
                if norm.weight is not None and not (norm.weight > 0).all():
                    continue
                _replace(net, bend, Floor(norm(_zeros(norm))))
        fused.requires_grad_(False)
        # under every name: some published networks register one layer twice
        _replace(net, layer, fused)
        _replace(net, norm, nn.Identity())
        folded += 1
    return folded


class Floor(nn.Module):
    """Clamps each channel from below, in place: nothing else reads its input."""

    least: torch.Tensor

    def __init__(self, least: torch.Tensor) -> None:
        """Store the least value of each channel, in a shape that broadcasts to the input."""
        super().__init__()
        self.register_buffer("least", least, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The maximum of x and the least values, written to x."""
        return torch.maximum(x, self.least, out=x)


def _zeros(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> torch.Tensor:
    """The smallest input of zeros that a batch norm takes; its answer is each channel's shift."""
    return torch.zeros(1, norm.num_features, *([1, 1] if isinstance(norm, nn.BatchNorm2d) else []))


def _before(net: nn.Module, node: fx.Node) -> tuple[fx.Node | None, nn.Module | None]:
    """The layer whose output a node alone reads."""
    before = node.args[0]
    if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
        return None, None
    return before, net.get_submodule(str(before.target))


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in net.modules():
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
