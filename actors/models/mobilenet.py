"""MobileNetV2 (Sandler et al. 2018) with a global depth-wise convolution: 68 landmarks of a 224-pixel crop.

Layout: docs/reference/pyfeat.md sections 4 and 12. The module names are those of the published weights, which hold the
features twice, once as the classifier's that they were trained from and once as the landmark network's.

Shapes: N faces, C H W channels, rows, columns.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from actors.models.constants import LANDMARKS, ImageNetNorm
from actors.weights.state_dict import load_strict, read_state_dict


class MobileNetGDConv(nn.Module):
    """torchvision's MobileNetV2 without its classifier, a 7x7 depth-wise convolution to one pixel, and a 1x1."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = ImageNetNorm()
        self.pretrain_net = mobilenet_v2(weights=None)
        self.base_net = nn.Sequential(self.pretrain_net.features)
        self.linear7 = _ConvUnit(1280, 1280, kernel=7, groups=1280)
        self.linear1 = _ConvUnit(1280, 2 * LANDMARKS, kernel=1)

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Landmarks of crops.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 224, 224); normalized here, in a copy: in the reference the
                normalized crops go on to the other models and distort their outputs.

        Returns:
            landmarks_N136 float32: x0, y0, x1, y1, ... in fractions of the crop, dlib order; about 0 to 1.
        """
        x = self.base_net(self.norm(crops_NCHW).to(self.linear7.conv.weight.dtype))
        return self.linear1(self.linear7(x)).flatten(1).float()


class _ConvUnit(nn.Module):
    """Convolution without padding, and batch norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


def build_mobilenet(files: Mapping[str, Path]) -> MobileNetGDConv:
    """MobileNetV2 for 68 landmarks, in eval mode, with its weights.

    Args:
        files: `weights`: the published torch file (tensors under `state_dict`, names beginning with `module.`), or
            safetensors.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = MobileNetGDConv()
    path = Path(files["weights"])
    key = None if path.suffix == ".safetensors" else "state_dict"
    load_strict(net, read_state_dict(path, key=key, strip_prefix="module."), "mobilenet")
    return net.eval().requires_grad_(False)
