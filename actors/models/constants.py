"""Constants that networks share; tensors of them stay in float32, whatever the dtype of the weights.

As buffers they would be rounded when a network is moved to bfloat16, and created in each call they would be copied to
the device while the host waits. So they are kept per device.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn

#: landmarks of a face, in dlib's order
LANDMARKS = 68
#: of RGB channels in [0, 1], for torchvision's weights
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=64)
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """A float32 tensor on a device, shared by all callers: not to be written to.

    Args:
        values: numbers, or tuples of them, of equal lengths.
        device: of the tensor.
    """
    return torch.tensor(values, dtype=torch.float32, device=device)


class ImageNetNorm(nn.Module):
    """Subtracts the means of ImageNet's channels and divides by their standard deviations.

    A module and not a function: `actors.runtime.bn_folding` traces networks, and does not look into a module that has
    no parts.
    """

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """float32 RGB crops (N, 3, H, W) in [0, 1] to the range of torchvision's training, float32."""
        mean_C11 = constant(IMAGENET_MEAN, crops_NCHW.device)[:, None, None]
        return (crops_NCHW - mean_C11) / constant(IMAGENET_STD, crops_NCHW.device)[:, None, None]
