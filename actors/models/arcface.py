"""ArcFace IResNet-50 (Deng et al. 2019): an identity embedding of a 112-pixel crop.

Layout: docs/reference/pyfeat.md sections 7 and 12. In the published weights the batch norms that follow a convolution
are folded into it; the module names are theirs.

Shapes: N faces, C H W channels, rows, columns.
"""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from actors.weights.state_dict import load_strict, read_state_dict

_EMBEDDING = 512


class IResNet50(nn.Module):
    """A stem, four layers of residual blocks, and a linear layer over what is left of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1)
        self.prelu = nn.PReLU(64)
        self.layer1 = _layer(64, 64, blocks=3)
        self.layer2 = _layer(64, 128, blocks=4)
        self.layer3 = _layer(128, 256, blocks=14)
        self.layer4 = _layer(256, 512, blocks=3)
        self.bn2 = nn.BatchNorm2d(512)
        self.fc = nn.Linear(512 * 7 * 7, _EMBEDDING)
        self.features = nn.BatchNorm1d(_EMBEDDING)

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Embeddings of crops.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112); taken to [-1, 1] here.

        Returns:
            embeddings_ND float32, (N, 512), not normalized.
        """
        x = self.prelu(self.conv1((crops_NCHW * 2 - 1).to(self.conv1.weight.dtype)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.features(self.fc(self.bn2(x).flatten(1))).float()


class _ResidualBlock(nn.Module):
    """Batch norm, convolution, PReLU, convolution, plus the input or its 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.prelu = nn.PReLU(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, stride, padding=1)
        self.downsample = nn.Conv2d(in_channels, out_channels, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.prelu(self.conv1(self.bn1(x)))) + self.downsample(x)


def _layer(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    first = _ResidualBlock(in_channels, out_channels, stride=2)
    return nn.Sequential(first, *(_ResidualBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)))


def build_arcface_r50(files: Mapping[str, Path]) -> IResNet50:
    """IResNet-50 for identity, in eval mode, with its weights.

    Args:
        files: `weights`.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = IResNet50()
    # the published file leaves out the counters of the batch norms, which only training reads
    load_strict(net, read_state_dict(files["weights"]), "arcface_r50", optional=("num_batches_tracked",))
    return net.eval().requires_grad_(False)
