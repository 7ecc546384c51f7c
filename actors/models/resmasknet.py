"""ResMaskNet, the Residual Masking Network (Pham et al. 2020): seven emotions of a 224-pixel crop.

Layout: docs/reference/pyfeat.md sections 6 and 12. The module names are those of the published weights, in which the
shortcut of each block of a mask is stored twice, once as the mask's and once as the block's.

Shapes: N faces, C H W channels, rows, columns.
"""

import itertools
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

from actors.weights.state_dict import load_strict, read_state_dict
from pipeline.schema import EMOTIONS

_DEEPEST = 1024  # channels at the bottom of every mask


class ResMaskNet(ResNet):
    """torchvision's ResNet-34; after each of its layers a mask weights the features."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [3, 4, 6, 3])
        self.fc = nn.Sequential(nn.Dropout(0.4), nn.Linear(512, len(EMOTIONS)))
        self.mask1 = _Mask(64)
        self.mask2 = _Mask(128)
        self.mask3 = _Mask(256)
        self.mask4 = _Mask(512)

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Probabilities of emotions.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 224, 224); no further normalization: the reference leaves out the
                grayscale of the training set as well.

        Returns:
            (N, 7) float32: anger, disgust, fear, happiness, sadness, surprise, neutral; they add up to 1.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(crops_NCHW.to(self.conv1.weight.dtype)))))
        for layer, mask in (
            (self.layer1, self.mask1),
            (self.layer2, self.mask2),
            (self.layer3, self.mask3),
            (self.layer4, self.mask4),
        ):
            x = layer(x)
            x = x * (1 + mask(x))
        return self.fc(self.avgpool(x).flatten(1)).float().softmax(1)


class _Mask(nn.Module):
    """A U-Net (Ronneberger et al. 2015) of residual blocks over the features of one layer; its channels add up to 1.

    On the way down channels double up to 1024, on the way up they halve again: one block per doubling and halving.
    Published names count the blocks from 1, those of the way up on from those of the way down.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depth = (_DEEPEST // channels).bit_length() - 1
        widths = [channels << step for step in range(self.depth + 1)]
        self._add_blocks(1, widths)
        self._add_blocks(self.depth + 1, widths[::-1])
        for step in range(1, self.depth):
            setattr(self, f"up_pool{self.depth + step}", _doubling(widths[-step], widths[-step - 1]))

    def _add_blocks(self, first: int, widths: list[int]) -> None:
        for number, (width, next_width) in enumerate(itertools.pairwise(widths), start=first):
            shortcut = nn.Sequential(nn.Conv2d(width, next_width, 1, bias=False), nn.BatchNorm2d(next_width))
            setattr(self, f"downsample{number}", shortcut)
            setattr(self, f"conv{number}", BasicBlock(width, next_width, downsample=shortcut))

    def forward(self, x: Tensor) -> Tensor:
        passed = []
        for number in range(1, self.depth + 1):
            x = getattr(self, f"conv{number}")(x)
            passed.append(x)
            if number < self.depth:
                x = F.max_pool2d(x, kernel_size=2)
        for number in range(self.depth + 1, 2 * self.depth):
            x = getattr(self, f"up_pool{number}")(x)
            x = getattr(self, f"conv{number}")(torch.cat([x, passed[2 * self.depth - 1 - number]], dim=1))
        return getattr(self, f"conv{2 * self.depth}")(x).softmax(1)


def _doubling(in_channels: int, out_channels: int) -> nn.Sequential:
    """Features of twice as many rows and columns."""
    return nn.Sequential(
        nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def build_resmasknet(files: Mapping[str, Path]) -> ResMaskNet:
    """ResMaskNet, in eval mode, with its weights.

    Args:
        files: `weights`: the published torch file (tensors under `net`), or safetensors.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    with torch.device("meta"):  # every weight is loaded: to draw 137 million of them first would take seconds
        net = ResMaskNet()
    net.to_empty(device="cpu")
    path = Path(files["weights"])
    state = read_state_dict(path, key=None if path.suffix == ".safetensors" else "net")
    load_strict(net, state, "resmasknet")
    return net.eval().requires_grad_(False)
