"""MobileFaceNet (Chen et al. 2018) with a regression head: 68 landmarks of a 112-pixel crop.

Layout: docs/reference/pyfeat.md sections 4 and 12. The module names are those of the published weights.

Shapes: N faces, C H W channels, rows, columns.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from actors.models.constants import LANDMARKS
from actors.weights.state_dict import load_strict, read_state_dict


class MobileFaceNet(nn.Module):
    """Inverted residual blocks, then a 7x7 depth-wise convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _ConvUnit(3, 64, kernel=3, stride=2)
        self.conv2_dw = _ConvUnit(64, 64, kernel=3, groups=64)
        self.conv_23 = _Bottleneck(64, 64, expanded=128, stride=2)
        self.conv_3 = _ResidualBottlenecks(64, expanded=128, blocks=4)
        self.conv_34 = _Bottleneck(64, 128, expanded=256, stride=2)
        self.conv_4 = _ResidualBottlenecks(128, expanded=256, blocks=6)
        self.conv_45 = _Bottleneck(128, 128, expanded=512, stride=2)
        self.conv_5 = _ResidualBottlenecks(128, expanded=256, blocks=2)
        self.conv_6_sep = _ConvUnit(128, 512, kernel=1)
        self.output_layer = _RegressionHead(512, 2 * LANDMARKS)

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Landmarks of crops.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112); no further normalization.

        Returns:
            landmarks_N136 float32: x0, y0, x1, y1, ... in fractions of the crop, dlib order; about 0 to 1.
        """
        x = self.conv1(crops_NCHW.to(self.conv1.conv.weight.dtype))
        x = self.conv_23(self.conv2_dw(x))
        x = self.conv_34(self.conv_3(x))
        x = self.conv_45(self.conv_4(x))
        return self.output_layer(self.conv_6_sep(self.conv_5(x))).float()


class _ConvUnit(nn.Module):
    """Convolution, batch norm and, if active, a PReLU; the picture keeps its size but for the stride."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        padding: int | None = None,
        active: bool = True,
    ) -> None:
        super().__init__()
        pad = kernel // 2 if padding is None else padding
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=pad, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        self.prelu = nn.PReLU(out_channels) if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(self.conv(x)))


class _Bottleneck(nn.Module):
    """Widen by 1x1, filter by depth-wise 3x3, narrow by 1x1."""

    def __init__(self, in_channels: int, out_channels: int, expanded: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = _ConvUnit(in_channels, expanded, kernel=1)
        self.conv_dw = _ConvUnit(expanded, expanded, kernel=3, stride=stride, groups=expanded)
        self.project = _ConvUnit(expanded, out_channels, kernel=1, active=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(self.conv_dw(self.conv(x)))


class _ResidualBottlenecks(nn.Module):
    """Bottlenecks that each add their input."""

    def __init__(self, channels: int, expanded: int, blocks: int) -> None:
        super().__init__()
        self.model = nn.ModuleList(_Bottleneck(channels, channels, expanded) for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.model:
            x = x + block(x)
        return x


class _RegressionHead(nn.Module):
    """7x7 depth-wise convolution to one pixel, linear layer, batch norm."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.conv_6_dw = _ConvUnit(channels, channels, kernel=7, groups=channels, padding=0, active=False)
        self.linear = nn.Linear(channels, outputs, bias=False)
        self.bn = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.linear(self.conv_6_dw(x).flatten(1)))


def build_mobilefacenet(files: Mapping[str, Path]) -> MobileFaceNet:
    """MobileFaceNet for 68 landmarks, in eval mode, with its weights.

    Args:
        files: `weights`: the published torch file (tensors under `state_dict`), or safetensors.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = MobileFaceNet()
    path = Path(files["weights"])
    state = read_state_dict(path, key=None if path.suffix == ".safetensors" else "state_dict")
    load_strict(net, state, "mobilefacenet")
    return net.eval().requires_grad_(False)
