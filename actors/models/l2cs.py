"""L2CS-Net (Abdelrahman et al. 2022): the line of sight, from a ResNet-50 that sorts pitch and yaw into bins.

Formulas: docs/reference/pyfeat.md sections 8 and 12. The module names are those of the published weights.

Shapes: N faces, C H W channels, rows, columns.
"""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from actors.models.constants import ImageNetNorm
from actors.weights.state_dict import load_strict, read_state_dict

_SIDE = 224
_BINS, _BIN_WIDTH, _FIRST_BIN = 90, 4, -180  # degrees


class L2CS(ResNet):
    """torchvision's ResNet-50 with a classifier for each of two angles."""

    def __init__(self) -> None:
        super().__init__(Bottleneck, [3, 4, 6, 3])
        self.norm = ImageNetNorm()
        self.expected_angle = _ExpectedAngle()
        width = 512 * Bottleneck.expansion
        self.fc = nn.Identity()
        self.fc_yaw_gaze = nn.Linear(width, _BINS)
        self.fc_pitch_gaze = nn.Linear(width, _BINS)
        self.fc_finetune = nn.Linear(width + 3, 3)  # in the weights, but not used

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Line of sight of faces.

        The reference divides a batch by 255 if any of its pixels is above 1.5; crops are always [0, 1] here.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112); enlarged and normalized here.

        Returns:
            (N, 3) float32, rad: pitch (+ up), yaw (+ to the subject's left, against the sign of the head pose), and
            the angle between the line of sight and the camera axis.
        """
        wide_NCHW = F.interpolate(crops_NCHW, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        features_ND = super().forward(self.norm(wide_NCHW).to(self.conv1.weight.dtype))
        pitch_N = self.expected_angle(self.fc_pitch_gaze(features_ND))
        yaw_N = self.expected_angle(self.fc_yaw_gaze(features_ND))
        angle_N = torch.arccos((pitch_N.cos() * yaw_N.cos()).clamp(-1, 1))
        return torch.stack([pitch_N, yaw_N, angle_N], dim=1)


class _ExpectedAngle(nn.Module):
    """Mean over the bins, rad; a bin counts with its lower edge, as in the training of the weights."""

    def forward(self, logits_NA: Tensor) -> Tensor:
        degrees_A = torch.arange(_BINS, dtype=torch.float32, device=logits_NA.device) * _BIN_WIDTH + _FIRST_BIN
        return (logits_NA.float().softmax(1) * degrees_A).sum(1) * (math.pi / 180)


def build_l2cs(files: Mapping[str, Path]) -> L2CS:
    """L2CS-Net, in eval mode, with its weights.

    Args:
        files: `weights`.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = L2CS()
    load_strict(net, read_state_dict(files["weights"], strip_prefix="module."), "l2cs")
    return net.eval().requires_grad_(False)
