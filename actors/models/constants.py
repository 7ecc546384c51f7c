"""Numbers that networks calculate with in float32, whatever the dtype of their weights.

As buffers they would be rounded when a network is moved to bfloat16, and made anew in each call they would be copied to
the device while the host waits; so they are kept per device.
"""

import functools

import torch
from torch import Tensor, nn

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@functools.lru_cache(maxsize=64)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values as a float32 vector on a device, shared by all who ask for it: not to be written to."""
    return torch.tensor(values, dtype=torch.float32, device=device)


class ImageNetNorm(nn.Module):
    """Takes the means of ImageNet's channels out of crops, and divides by their deviations.

    A module, as `actors.runtime.bn_folding` traces networks, and needs not look into one that has no parts.
    """

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Crops float32 RGB [0, 1] to the range that torchvision's weights were trained on, float32."""
        mean_C11 = constant(_IMAGENET_MEAN, crops_NCHW.device)[:, None, None]
        return (crops_NCHW - mean_C11) / constant(_IMAGENET_STD, crops_NCHW.device)[:, None, None]
