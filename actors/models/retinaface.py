"""RetinaFace (Deng et al. 2020): a one-stage face detector, with a ResNet-34 or a MobileNetV1-0.25 backbone.

Formulas: docs/reference/pyfeat.md section 2.1. The module names are those of the published weights.

Shapes: B frames, C H W channels, rows, columns; A anchors of a frame, M anchors that pass the threshold, N faces.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from actors.models import Detections
from actors.ops.nms import by_frame_then_score, suppress
from actors.weights.state_dict import load_strict, read_state_dict

_STRIDES = (8, 16, 32)
_ANCHOR_SIDES = ((16, 32), (64, 128), (256, 512))  # px, per stride
_ANCHORS_PER_CELL = 2
_CENTER_VARIANCE, _SIZE_VARIANCE = 0.1, 0.2
_NMS_IOU = 0.4
# Both limits count per frame. The reference cuts at 5000 times the number of frames across the batch, so that a crowd
# in one frame could cost another its faces.
_MAX_CANDIDATES = 5000
_MAX_FACES = 750


class RetinaFace(nn.Module):
    """Backbone, feature pyramid, context modules and heads; `detect` is the whole way from frames to faces.

    `reduce`: frames are reduced to 1/reduce of their size first: 1, or 2 for a model that was trained for it.
    """

    mean_C11: Tensor

    def __init__(
        self,
        body: nn.Module,
        body_channels: tuple[int, int, int],
        out_channels: int,
        mean: tuple[float, float, float],
        bgr: bool,
        score_threshold: float,
    ) -> None:
        """Build the network with random weights.

        Args:
            body: backbone; gives the levels of stride 8, 16 and 32.
            body_channels: of these levels.
            out_channels: of the pyramid; up to 64 it has leaky ReLUs.
            mean: of the training's channels 0 to 255, in the network's order.
            bgr: the network reads BGR; frames are RGB.
            score_threshold: least score of a face that `detect` returns, 0 to 1.
        """
        super().__init__()
        self.reduce = 1
        self.body = body
        self.fpn = _FeaturePyramid(body_channels, out_channels)
        self.ssh1 = _ContextModule(out_channels)
        self.ssh2 = _ContextModule(out_channels)
        self.ssh3 = _ContextModule(out_channels)
        self.ClassHead = _Head(out_channels, 2)
        self.BboxHead = _Head(out_channels, 4)
        self.LandmarkHead = _Head(out_channels, 10)
        # whole numbers up to 256 are exact in bfloat16 as well
        self.register_buffer("mean_C11", torch.tensor(mean)[:, None, None], persistent=False)
        self.bgr = bgr
        self.score_threshold = score_threshold

    def normalize(self, frames_BCHW: Tensor) -> Tensor:
        """The network's input.

        Args:
            frames_BCHW: RGB 0 to 255, any dtype.

        Returns:
            float32, same shape: channels in the network's order, minus their means.
        """
        if self.bgr:
            frames_BCHW = frames_BCHW.flip(1)
        return frames_BCHW.to(torch.float32).sub_(self.mean_C11)

    def forward(self, frames_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw output of the network for each anchor.

        Args:
            frames_BCHW: float32, out of `normalize`; any size.

        Returns:
            float32: box deltas (B, A, 4), probabilities of background and face (B, A, 2), point deltas (B, A, 10).
            Anchors run over levels, rows, columns, sides.
        """
        levels = self.fpn(*self.body(frames_BCHW.to(next(self.parameters()).dtype)))
        features = [ssh(level) for ssh, level in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        return self.BboxHead(features), self.ClassHead(features).softmax(2), self.LandmarkHead(features)

    def detect(self, frames_BCHW: Tensor) -> Detections:
        """Find the faces of a batch of frames.

        What is found in a frame does not depend on the other frames. The reference drops scores below 0.02 before and
        below the threshold after suppression; as a box is only ever suppressed by a better one, dropping everything
        below the threshold first gives the same faces.

        Args:
            frames_BCHW: uint8 RGB on the model's device, B >= 0.

        Returns:
            Detections with score >= the threshold, at most 750 per frame, boxes not clipped to the frame.
        """
        inputs_BCHW = self.normalize(halve(frames_BCHW) if self.reduce == 2 else frames_BCHW)
        height, width = inputs_BCHW.shape[-2:]
        deltas_BA4, probabilities_BA2, point_deltas_BA10 = self(inputs_BCHW)
        scores_BA = probabilities_BA2[:, :, 1]
        frame_M, anchor_M = torch.nonzero(scores_BA >= self.score_threshold, as_tuple=True)
        scores_M = scores_BA[frame_M, anchor_M]

        order_M = by_frame_then_score(frame_M, scores_M, _MAX_CANDIDATES)
        frame_M, anchor_M, scores_M = frame_M[order_M], anchor_M[order_M], scores_M[order_M]
        anchors_M4 = frame_anchors(height, width, frames_BCHW.device)[anchor_M]
        # an odd side is rounded up: its last pixel covers the frame's edge and what would be beyond it
        size_2 = torch.tensor([width, height], dtype=torch.float32, device=frames_BCHW.device) * self.reduce
        boxes_M4 = decode_boxes(deltas_BA4[frame_M, anchor_M], anchors_M4) * size_2.repeat(2)

        kept_N = suppress(boxes_M4, scores_M, frame_M, _NMS_IOU)
        kept_N = kept_N[by_frame_then_score(frame_M[kept_N], scores_M[kept_N], _MAX_FACES)]
        frame_N, anchor_N = frame_M[kept_N], anchor_M[kept_N]
        points_N52 = decode_points(point_deltas_BA10[frame_N, anchor_N], anchors_M4[kept_N]) * size_2
        return Detections(frame_N, boxes_M4[kept_N], scores_M[kept_N], points_N52)


def halve(frames_BCHW: Tensor) -> Tensor:
    """Frames at half their size, by the means of 2x2 pixels.

    Args:
        frames_BCHW: uint8.

    Returns:
        float32 (B, C, ceil(H / 2), ceil(W / 2)), 0 to 255; at an odd edge the mean of the pixels that exist.
    """
    height, width = frames_BCHW.shape[-2:]
    if height % 2:
        frames_BCHW = torch.cat([frames_BCHW, frames_BCHW[:, :, -1:]], 2)
    if width % 2:
        frames_BCHW = torch.cat([frames_BCHW, frames_BCHW[:, :, :, -1:]], 3)
    # sums of whole numbers, in 16 bits: a pooling of floats took eight times as long
    rows_BChW = frames_BCHW[:, :, ::2].to(torch.int16) + frames_BCHW[:, :, 1::2]
    return (rows_BChW[..., ::2] + rows_BChW[..., 1::2]).to(torch.float32).div_(4)


@functools.lru_cache(maxsize=32)
def frame_anchors(height: int, width: int, device: torch.device) -> Tensor:
    """Anchors of a frame.

    Args:
        height: of the network's input, px.
        width: likewise.
        device: of the result.

    Returns:
        (A, 4) float32: center x, center y, width, height in fractions of the frame; level by level, row by row,
        column by column, the smaller side first. Not clipped.
    """
    levels = []
    for stride, sides in zip(_STRIDES, _ANCHOR_SIDES, strict=True):
        rows, columns = -(-height // stride), -(-width // stride)
        y = (torch.arange(rows, dtype=torch.float32, device=device) + 0.5) * stride / height
        x = (torch.arange(columns, dtype=torch.float32, device=device) + 0.5) * stride / width
        side = torch.tensor(sides, dtype=torch.float32, device=device)
        y, x, side = torch.meshgrid(y, x, side, indexing="ij")
        levels.append(torch.stack([x, y, side / width, side / height], dim=-1).reshape(-1, 4))
    return torch.cat(levels)


def decode_boxes(deltas_M4: Tensor, anchors_M4: Tensor) -> Tensor:
    """Boxes from the network's deltas.

    Args:
        deltas_M4: float32, in units of the anchors' sizes and of the training's variances 0.1 and 0.2.
        anchors_M4: float32 center x, center y, width, height.

    Returns:
        float32 (M, 4) left, top, right, bottom in the unit of the anchors.
    """
    center_M2 = anchors_M4[:, :2] + deltas_M4[:, :2] * _CENTER_VARIANCE * anchors_M4[:, 2:]
    size_M2 = anchors_M4[:, 2:] * torch.exp(deltas_M4[:, 2:] * _SIZE_VARIANCE)
    corner_M2 = center_M2 - size_M2 / 2
    return torch.cat([corner_M2, corner_M2 + size_M2], dim=1)


def decode_points(deltas_M10: Tensor, anchors_M4: Tensor) -> Tensor:
    """The five points of faces from the network's deltas.

    Args:
        deltas_M10: float32 x, y of each point, in units of the anchors' sizes and of the training's variance 0.1.
        anchors_M4: float32 center x, center y, width, height.

    Returns:
        float32 (M, 5, 2) in the unit of the anchors.
    """
    return anchors_M4[:, None, :2] + deltas_M10.unflatten(1, (5, 2)) * _CENTER_VARIANCE * anchors_M4[:, None, 2:]


class _FeaturePyramid(nn.Module):
    """Brings three levels of the backbone to one width, and adds the coarse ones to the finer."""

    def __init__(self, in_channels: tuple[int, int, int], out_channels: int) -> None:
        super().__init__()
        slope = _slope(out_channels)
        self.output1 = _conv_bn(in_channels[0], out_channels, kernel=1, slope=slope)
        self.output2 = _conv_bn(in_channels[1], out_channels, kernel=1, slope=slope)
        self.output3 = _conv_bn(in_channels[2], out_channels, kernel=1, slope=slope)
        self.merge1 = _conv_bn(out_channels, out_channels, slope=slope)
        self.merge2 = _conv_bn(out_channels, out_channels, slope=slope)

    def forward(self, fine: Tensor, middle: Tensor, coarse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine, middle, coarse = self.output1(fine), self.output2(middle), self.output3(coarse)
        middle = self.merge2(middle + F.interpolate(coarse, size=middle.shape[-2:], mode="nearest"))
        fine = self.merge1(fine + F.interpolate(middle, size=fine.shape[-2:], mode="nearest"))
        return fine, middle, coarse


class _ContextModule(nn.Module):
    """SSH (Najibi et al. 2017): 3x3, 5x5 and 7x7 context, the larger ones as chains of 3x3."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        slope, quarter = _slope(channels), channels // 4
        self.conv3X3 = _conv_bn(channels, channels // 2)
        self.conv5X5_1 = _conv_bn(channels, quarter, slope=slope)
        self.conv5X5_2 = _conv_bn(quarter, quarter)
        self.conv7X7_2 = _conv_bn(quarter, quarter, slope=slope)
        self.conv7x7_3 = _conv_bn(quarter, quarter)

    def forward(self, features: Tensor) -> Tensor:
        context = self.conv5X5_1(features)
        wide = self.conv7x7_3(self.conv7X7_2(context))
        return F.relu(torch.cat([self.conv3X3(features), self.conv5X5_2(context), wide], dim=1))


class _Head(nn.Module):
    """A 1x1 convolution per level that gives `values` numbers for each anchor: (B, A, values) float32."""

    def __init__(self, channels: int, values: int) -> None:
        super().__init__()
        self.values = values
        self._convs = nn.ModuleList(nn.Conv2d(channels, _ANCHORS_PER_CELL * values, 1) for _ in _STRIDES)

    def forward(self, features: list[Tensor]) -> Tensor:
        outputs = [conv(level).float().permute(0, 2, 3, 1) for conv, level in zip(self._convs, features, strict=True)]
        # not reshape(B, -1, values): an empty batch could not resolve the -1
        return torch.cat([out.unflatten(3, (_ANCHORS_PER_CELL, self.values)).flatten(1, 3) for out in outputs], dim=1)


class _ResNet34Body(nn.Module):
    """ResNet-34 (He et al. 2016) without its classifier; gives the levels of stride 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _residual_layer(64, 64, blocks=3, stride=1)
        self.layer2 = _residual_layer(64, 128, blocks=4, stride=2)
        self.layer3 = _residual_layer(128, 256, blocks=6, stride=2)
        self.layer4 = _residual_layer(256, 512, blocks=3, stride=2)

    def forward(self, frames_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        stem = F.max_pool2d(F.relu(self.bn1(self.conv1(frames_BCHW))), kernel_size=3, stride=2, padding=1)
        fine = self.layer2(self.layer1(stem))
        middle = self.layer3(fine)
        return fine, middle, self.layer4(middle)


class _MobileNet025Body(nn.Module):
    """MobileNetV1 (Howard et al. 2017) at a quarter of its width; gives the levels of stride 8, 16 and 32."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(
            _conv_bn(3, 8, stride=2, slope=0.1),
            _separable(8, 16),
            _separable(16, 32, stride=2),
            _separable(32, 32),
            _separable(32, 64, stride=2),
            _separable(64, 64),
        )
        self.stage2 = nn.Sequential(_separable(64, 128, stride=2), *(_separable(128, 128) for _ in range(5)))
        self.stage3 = nn.Sequential(_separable(128, 256, stride=2), _separable(256, 256))

    def forward(self, frames_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.stage1(frames_BCHW)
        middle = self.stage2(fine)
        return fine, middle, self.stage3(middle)


def build_retinaface_r34(files: Mapping[str, Path], score_threshold: float = 0.5) -> RetinaFace:
    """RetinaFace with ResNet-34, in eval mode, with its weights.

    It takes RGB, as the reference feeds it, although its weights were trained on BGR.

    Args:
        files: `weights`.
        score_threshold: least score of a face, 0 to 1.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = new_retinaface_r34(score_threshold)
    load_strict(net, read_state_dict(files["weights"]), "retinaface_r34")
    return net.eval().requires_grad_(False)


def build_retinaface_mnet025(files: Mapping[str, Path], score_threshold: float = 0.5) -> RetinaFace:
    """RetinaFace with MobileNetV1-0.25, in eval mode, with its weights; takes BGR, as it was trained.

    Args:
        files: `weights`.
        score_threshold: least score of a face, 0 to 1.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    net = new_retinaface_mnet025(score_threshold)
    load_strict(net, read_state_dict(files["weights"]), "retinaface_mnet025")
    return net.eval().requires_grad_(False)


def new_retinaface_r34(score_threshold: float = 0.5) -> RetinaFace:
    """RetinaFace with ResNet-34 and random weights, in training mode; `score_threshold` is 0 to 1."""
    return RetinaFace(
        _ResNet34Body(), (128, 256, 512), 128, mean=(123, 117, 104), bgr=False, score_threshold=score_threshold
    )


def new_retinaface_mnet025(score_threshold: float = 0.5) -> RetinaFace:
    """RetinaFace with MobileNetV1-0.25 and random weights, in training mode; `score_threshold` is 0 to 1."""
    return RetinaFace(
        _MobileNet025Body(), (64, 128, 256), 64, mean=(104, 117, 123), bgr=True, score_threshold=score_threshold
    )


def _slope(channels: int) -> float:
    """Slope of the leaky ReLUs: the narrow network was trained with 0.1, the wide one with plain ReLU."""
    return 0.1 if channels <= 64 else 0.0


def _conv_bn(
    in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, slope: float | None = None
) -> nn.Sequential:
    """Convolution and batch norm; then a leaky ReLU if it is given a slope."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers) if slope is None else nn.Sequential(*layers, nn.LeakyReLU(slope, inplace=True))


def _separable(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    """Depth-wise 3x3, then 1x1 convolution."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.LeakyReLU(0.1, inplace=True),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.LeakyReLU(0.1, inplace=True),
    )


def _residual_layer(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    # the small backbone does without torchvision, which takes seconds to import
    from torchvision.models.resnet import BasicBlock

    shortcut = None
    if stride != 1 or in_channels != out_channels:
        shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
        )
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1)))
