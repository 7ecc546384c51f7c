"""PFLD (Guo et al. 2019): 68 landmarks of a 112-pixel crop, out of features of three sizes.

Layout: docs/reference/pyfeat.md sections 4 and 12. The module names are those of the published weights.

Shapes: N faces, C H W channels, rows, columns.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.models.constants import LANDMARKS
from actors.weights.state_dict import load_strict, read_state_dict


class PFLD(nn.Module):
    """Inverted residual blocks down to 14 pixels, and a linear layer over what is left at 14, 7 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.dw_pool = nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False)
        self.dw_bn = nn.BatchNorm2d(64)
        self.conv1_extra = nn.Conv2d(64, 64, 1, bias=False)
        self.conv3_1 = _InvertedResidual(64, 64, expanded=64, stride=2)
        self.block3_2 = _InvertedResidual(64, 64, expanded=64, adds_input=True)
        self.block3_3 = _InvertedResidual(64, 64, expanded=64, adds_input=True)
        self.block3_4 = _InvertedResidual(64, 64, expanded=64, adds_input=True)
        self.block3_5 = _InvertedResidual(64, 64, expanded=64, adds_input=True)
        self.conv4_1 = _InvertedResidual(64, 128, expanded=64, stride=2)
        self.conv5_1 = _InvertedResidual(128, 128, expanded=256)
        self.block5_2 = _InvertedResidual(128, 128, expanded=256, adds_input=True)
        self.block5_3 = _InvertedResidual(128, 128, expanded=256, adds_input=True)
        self.block5_4 = _InvertedResidual(128, 128, expanded=256, adds_input=True)
        self.block5_5 = _InvertedResidual(128, 128, expanded=256, adds_input=True)
        self.block5_6 = _InvertedResidual(128, 128, expanded=256, adds_input=True)
        self.conv6_1 = _InvertedResidual(128, 16, expanded=128)
        self.conv7 = nn.Sequential(
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True)
        )
        self.conv8 = nn.Conv2d(32, 128, 7)
        self.bn8 = nn.BatchNorm2d(128)  # in the weights, but not used
        self.fc = nn.Linear(16 + 32 + 128, 2 * LANDMARKS)

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Landmarks of crops.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112); no further normalization.

        Returns:
            landmarks_N136 float32: x0, y0, x1, y1, ... in fractions of the crop, dlib order; about 0 to 1.
        """
        x = F.relu(self.bn1(self.conv1(crops_NCHW.to(self.conv1.weight.dtype))))
        x = F.relu(self.conv1_extra(self.dw_bn(self.dw_pool(x))))
        x = self.block3_5(self.block3_4(self.block3_3(self.block3_2(self.conv3_1(x)))))
        x = self.conv5_1(self.conv4_1(x))
        x = self.block5_6(self.block5_5(self.block5_4(self.block5_3(self.block5_2(x)))))
        middle = self.conv6_1(x)
        coarse = self.conv7(middle)
        whole = F.relu(self.conv8(coarse))
        features = torch.cat([middle.mean((2, 3)), coarse.mean((2, 3)), whole.flatten(1)], dim=1)
        return self.fc(features).float()


class _InvertedResidual(nn.Module):
    """Widen by 1x1, filter by depth-wise 3x3, narrow by 1x1; perhaps plus the input."""

    def __init__(
        self, in_channels: int, out_channels: int, expanded: int, stride: int = 1, adds_input: bool = False
    ) -> None:
        super().__init__()
        self.adds_input = adds_input
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, expanded, 1, bias=False),
            nn.BatchNorm2d(expanded),
            nn.ReLU(inplace=True),
            nn.Conv2d(expanded, expanded, 3, stride, padding=1, groups=expanded, bias=False),
            nn.BatchNorm2d(expanded),
            nn.ReLU(inplace=True),
            nn.Conv2d(expanded, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.adds_input else self.conv(x)


def build_pfld(files: Mapping[str, Path]) -> PFLD:
    """PFLD for 68 landmarks, in eval mode, with its weights.

    Args:
        files: `weights`: the published torch file (tensors under `state_dict`), or safetensors.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = PFLD()
    path = Path(files["weights"])
    state = read_state_dict(path, key=None if path.suffix == ".safetensors" else "state_dict")
    load_strict(net, state, "pfld")
    return net.eval().requires_grad_(False)
