"""The device of an actor, and networks on it in the number format and memory layout in which they run."""

from collections.abc import Mapping
from typing import Any

import torch

from actors.runtime.bn_folding import fold_batch_norms

_LARGE = 5_000_000  # weights; the bundle tiny's networks gained nothing by Winograd


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(name: str) -> torch.device:
    """The device of that name; of `auto` CUDA if this process has one.

    Not Ray's number of GPUs: a cluster may give logical GPUs to a machine without any.
    """
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def choose_dtype(precision: Mapping[str, str], device: torch.device, name: str = "auto") -> torch.dtype:
    """The dtype of a network's weights.

    Args:
        precision: of its card: kind of device -> name of a dtype; float32 where not named.
        device: the device it runs on.
        name: float32, bfloat16 or float16, which override the card; `auto`: by the card.
    """
    return _DTYPES[precision.get(device.type, "float32") if name == "auto" else name]


def place_network(net: Any, device: torch.device, dtype: torch.dtype, fold: bool, winograd: bool = False) -> Any:
    """Move a network to a device, in eval mode; convolutions ran 2 to 5 times faster channels last, on two CPU cores.

    When a float32 network moves to CUDA, TF32 is switched off for this process: cuDNN would otherwise round the inputs
    of its convolutions to 10 bits of mantissa, though they are float32 by name, and parity (rtol 1e-3) ends there. For
    speed choose bfloat16 or float16, whose deviations are measured (docs/parity_precision.md).

    Args:
        net: a network; anything else that a factory made is returned unchanged.
        device: its device.
        dtype: of its weights.
        fold: fold batch norms into the convolutions before them.
        winograd: on the CPU, of a large float32 network, compute 3x3 convolutions by actors/runtime/winograd.py.
    """
    if not isinstance(net, torch.nn.Module):
        return net
    if device.type == "cuda" and dtype == torch.float32:
        torch.backends.cudnn.allow_tf32 = False  # true by default
        torch.backends.cuda.matmul.allow_tf32 = False  # false by default; an environment may say otherwise
    if fold:
        fold_batch_norms(net.eval())
    net = net.eval().to(device, dtype).to(memory_format=torch.channels_last)
    large = sum(weights.numel() for weights in net.parameters()) >= _LARGE
    if winograd and large and device.type == "cpu" and dtype == torch.float32:
        from actors.runtime.winograd import use_winograd  # loads compiled code, in a second

        use_winograd(net)
    return net
