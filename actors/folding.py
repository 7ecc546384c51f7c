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
    """Fold every batch norm that directly follows a convolution or a linear layer, in place.

    Pairs are found by tracing `forward`, so a norm that comes before its convolution, or a convolution whose output is
    used elsewhere too, stays as it is. A network that cannot be traced stays as it is too.

    Args:
        net: in eval mode, with its weights.

    Returns:
        Number of folded pairs.
    """
    try:
        graph = _Tracer().trace(net)
    except (fx.proxy.TraceError, TypeError, AttributeError, RuntimeError, NotImplementedError):
        return 0  # control flow that depends on values: slower, and still right
    calls = Counter(id(net.get_submodule(str(node.target))) for node in graph.nodes if node.op == "call_module")
    folded = 0
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(net.get_submodule(str(node.target)), _NORMS):
            continue
        before = node.args[0]
        if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
            continue
        layer, norm = net.get_submodule(str(before.target)), net.get_submodule(str(node.target))
        fuse = _FUSED.get(type(layer))
        if fuse is None or calls[id(layer)] > 1 or calls[id(norm)] > 1:
            continue
        with torch.no_grad():
            fused = fuse(layer, norm)  # type: ignore[operator]
        fused.requires_grad_(False)
        # under every name: some published networks register one layer twice
        _replace(net, layer, fused)
        _replace(net, norm, nn.Identity())
        folded += 1
    return folded


def _replace(net: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in net.modules():
        for name, child in list(parent.named_children()):
            if child is old:
                setattr(parent, name, new)
