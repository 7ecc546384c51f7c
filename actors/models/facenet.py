"""FaceNet (Schroff et al. 2015) as an Inception-ResNet-v1 (Szegedy et al. 2017): an identity embedding.

Layout: docs/reference/pyfeat.md sections 7 and 12. The module names are those of the published weights.

Shapes: N faces, C H W channels, rows, columns.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.weights.state_dict import load_strict, read_state_dict

_EMBEDDING = 512
_TRAINING_PEOPLE = 8631  # VGGFace2
_BN_EPS = 1e-3


class InceptionResnetV1(nn.Module):
    """A stem, three runs of residual blocks with reductions between them, and a linear layer over the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2d_1a = _ConvUnit(3, 32, 3, stride=2)
        self.conv2d_2a = _ConvUnit(32, 32, 3)
        self.conv2d_2b = _ConvUnit(32, 64, 3, padding=1)
        self.conv2d_3b = _ConvUnit(64, 80, 1)
        self.conv2d_4a = _ConvUnit(80, 192, 3)
        self.conv2d_4b = _ConvUnit(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(_block35(scale=0.17) for _ in range(5)))
        self.mixed_6a = _Parallel(
            _ConvUnit(256, 384, 3, stride=2),
            nn.Sequential(_ConvUnit(256, 192, 1), _ConvUnit(192, 192, 3, padding=1), _ConvUnit(192, 256, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_2 = nn.Sequential(*(_block17(scale=0.10) for _ in range(10)))
        self.mixed_7a = _Parallel(
            nn.Sequential(_ConvUnit(896, 256, 1), _ConvUnit(256, 384, 3, stride=2)),
            nn.Sequential(_ConvUnit(896, 256, 1), _ConvUnit(256, 256, 3, stride=2)),
            nn.Sequential(_ConvUnit(896, 256, 1), _ConvUnit(256, 256, 3, padding=1), _ConvUnit(256, 256, 3, stride=2)),
            nn.MaxPool2d(3, stride=2),
        )
        self.repeat_3 = nn.Sequential(*(_block8(scale=0.20) for _ in range(5)))
        self.block8 = _block8(scale=1.0, active=False)
        self.last_linear = nn.Linear(1792, _EMBEDDING, bias=False)
        self.last_bn = nn.BatchNorm1d(_EMBEDDING, eps=_BN_EPS)
        self.logits = nn.Linear(_EMBEDDING, _TRAINING_PEOPLE)  # in the weights, but only training uses it

    def forward(self, crops_NCHW: Tensor) -> Tensor:
        """Embeddings of crops.

        Args:
            crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112); taken as they are, as the reference does, although the
                weights were trained on 160 pixels and (x - 127.5) / 128.

        Returns:
            embeddings_ND float32, (N, 512), of length 1.
        """
        x = self.conv2d_1a(crops_NCHW.to(self.last_linear.weight.dtype))
        x = F.max_pool2d(self.conv2d_2b(self.conv2d_2a(x)), kernel_size=3, stride=2)
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.mixed_6a(self.repeat_1(x))
        x = self.mixed_7a(self.repeat_2(x))
        x = self.block8(self.repeat_3(x))
        embeddings_ND = self.last_bn(self.last_linear(x.mean((2, 3))))
        return F.normalize(embeddings_ND.float(), dim=1)


class _ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out_channels, eps=_BN_EPS)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Parallel(nn.Module):
    """Branches over one input, their channels laid side by side."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.names = [f"branch{number}" for number in range(len(branches))]
        for name, branch in zip(self.names, branches, strict=True):
            setattr(self, name, branch)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([getattr(self, name)(x) for name in self.names], dim=1)


class _ResidualBlock(_Parallel):
    """The branches brought to the input's width by a 1x1 convolution, scaled, and added to it."""

    def __init__(self, *branches: nn.Module, joined: int, channels: int, scale: float, active: bool = True) -> None:
        super().__init__(*branches)
        self.conv2d = nn.Conv2d(joined, channels, 1)
        self.scale, self.active = scale, active

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.conv2d(super().forward(x)) * self.scale
        return F.relu(x) if self.active else x


def _block35(scale: float) -> _ResidualBlock:
    """For 35x35 features, in the input size of the paper; likewise the others."""
    return _ResidualBlock(
        _ConvUnit(256, 32, 1),
        nn.Sequential(_ConvUnit(256, 32, 1), _ConvUnit(32, 32, 3, padding=1)),
        nn.Sequential(_ConvUnit(256, 32, 1), _ConvUnit(32, 32, 3, padding=1), _ConvUnit(32, 32, 3, padding=1)),
        joined=3 * 32,
        channels=256,
        scale=scale,
    )


def _block17(scale: float) -> _ResidualBlock:
    return _ResidualBlock(
        _ConvUnit(896, 128, 1),
        nn.Sequential(
            _ConvUnit(896, 128, 1),
            _ConvUnit(128, 128, (1, 7), padding=(0, 3)),
            _ConvUnit(128, 128, (7, 1), padding=(3, 0)),
        ),
        joined=2 * 128,
        channels=896,
        scale=scale,
    )


def _block8(scale: float, active: bool = True) -> _ResidualBlock:
    return _ResidualBlock(
        _ConvUnit(1792, 192, 1),
        nn.Sequential(
            _ConvUnit(1792, 192, 1),
            _ConvUnit(192, 192, (1, 3), padding=(0, 1)),
            _ConvUnit(192, 192, (3, 1), padding=(1, 0)),
        ),
        joined=2 * 192,
        channels=1792,
        scale=scale,
        active=active,
    )


def build_facenet(files: Mapping[str, Path]) -> InceptionResnetV1:
    """FaceNet, in eval mode, with its weights.

    Args:
        files: `weights`.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = InceptionResnetV1()
    load_strict(net, read_state_dict(files["weights"]), "facenet")
    return net.eval().requires_grad_(False)
