"""Region proposals of Faster R-CNN (Ren et al. 2015) on a feature pyramid, and the pooling of regions, batch by batch.

torchvision has the parts with other names of the weights, and works frame by frame.

Shapes: B frames, C channels, A anchors of a level, P proposals of a frame, M regions of all frames.
"""

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import clip_boxes_to_image, nms, roi_align

#: the padded input's sides are multiples of it
SIZE_DIVISIBLE = 32
#: side of a pooled region
POOLED_SIDE = 7

# The reference also declares 512, for a level that its pyramid does not have.
_ANCHOR_SIDES = (16, 32, 64, 128, 256)
_ANCHOR_RATIOS = (0.5, 1.0, 2.0)
_NMS_IOU, _LEAST_SIDE = 0.4, 1e-3
_POOLED_STRIDES = (4, 8, 16, 32)
_SAMPLES = 2


def pool_regions(levels: Sequence[Tensor], rois_M5: Tensor) -> Tensor:
    """Cut each region out of the level that fits its size (Lin et al. 2017, equation 1): float32 (M, C, 7, 7).

    Not torchvision's MultiScaleRoIAlign, as it guesses the strides from the first picture that it sees and keeps them
    for all later ones, and wants its regions in a list with one entry per frame.
    """
    areas_M = (rois_M5[:, 3] - rois_M5[:, 1]) * (rois_M5[:, 4] - rois_M5[:, 2])
    level_M = torch.floor(4 + torch.log2(areas_M.sqrt() / 224) + 1e-6).clamp(2, 5) - 2
    pooled_MCHW = rois_M5.new_empty(len(rois_M5), levels[0].shape[1], POOLED_SIDE, POOLED_SIDE)
    for level, stride in enumerate(_POOLED_STRIDES):
        mine = torch.nonzero(level_M == level).squeeze(1)
        pooled_MCHW[mine] = roi_align(
            levels[level].float(), rois_M5[mine], POOLED_SIDE, spatial_scale=1 / stride, sampling_ratio=_SAMPLES
        )
    return pooled_MCHW


@functools.lru_cache(maxsize=32)
def anchors(height: int, width: int, grids: tuple[tuple[int, int], ...], device: torch.device) -> tuple[Tensor, ...]:
    """Anchors of each level in pixels of the resized frame, (A, 4) float32: rows, columns, ratios.

    Args:
        height: of the padded input.
        width: of the padded input.
        grids: rows and columns of each level.
        device: where they go.
    """
    generator = AnchorGenerator(tuple((side,) for side in _ANCHOR_SIDES), (_ANCHOR_RATIOS,) * len(_ANCHOR_SIDES))
    generator.set_cell_anchors(torch.float32, device)
    strides = [[torch.tensor(s, device=device) for s in (height // rows, width // columns)] for rows, columns in grids]
    return tuple(generator.grid_anchors([list(grid) for grid in grids], strides))


class Proposals(nn.Module):
    """The region proposal network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.head = _ProposalHead(channels, len(_ANCHOR_RATIOS))
        self.coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int], per_level: int, per_frame: int) -> Tensor:
        """Regions that may hold something.

        Args:
            levels: the pyramid's five levels, (B, C, h, w) each.
            size: rows and columns of the picture within the padded input.
            per_level: proposals of a level and frame that go into suppression.
            per_frame: proposals of a frame that are kept after it.

        Returns:
            (M, 5) float32: frame number, then left, top, right, bottom in pixels of the picture; by frame, then
            falling score.
        """
        grids = tuple((level.shape[2], level.shape[3]) for level in levels)
        padded = tuple(-(-side // SIZE_DIVISIBLE) * SIZE_DIVISIBLE for side in size)
        boxes, scores, shifts = [], [], []
        for number, (features, anchors_A4) in enumerate(
            zip(levels, anchors(*padded, grids, levels[0].device), strict=True)
        ):
            scores_BA, deltas_BA4 = self.head(features)
            best_BA, place_BA = scores_BA.topk(min(per_level, len(anchors_A4)), dim=1)
            deltas_BA4 = deltas_BA4.gather(1, place_BA[:, :, None].expand(-1, -1, 4))
            decoded = self.coder.decode_single(deltas_BA4.flatten(0, 1), anchors_A4[place_BA.flatten()])
            boxes.append(decoded.unflatten(0, place_BA.shape))
            scores.append(best_BA)
            # levels are suppressed apart: boxes are clipped to the frame, so this shift keeps them from meeting
            shifts.append(best_BA.new_full(best_BA.shape, number * (max(size) + 1), dtype=torch.float64))
        boxes_BP4 = clip_boxes_to_image(torch.cat(boxes, dim=1), size)
        too_small_BP = ((boxes_BP4[:, :, 2:] - boxes_BP4[:, :, :2]) < _LEAST_SIDE).any(2)
        # a box without area meets no other, and comes last
        scores_BP = torch.cat(scores, dim=1).masked_fill(too_small_BP, -torch.inf)
        apart_BP4 = boxes_BP4.double() + torch.cat(shifts, dim=1)[:, :, None]
        # One call per frame, and only here: nms compares all with all, and a frame has up to 15000 boxes.
        kept = [
            nms(apart, worth, _NMS_IOU)[:per_frame] + frame * scores_BP.shape[1]
            for frame, (apart, worth) in enumerate(zip(apart_BP4, scores_BP.double(), strict=True))
        ]
        kept_M = torch.cat(kept)
        kept_M = kept_M[~too_small_BP.flatten()[kept_M]]
        return torch.cat([(kept_M // scores_BP.shape[1])[:, None], boxes_BP4.flatten(0, 1)[kept_M]], dim=1)


class _ProposalHead(nn.Module):
    """Scores and box deltas of the anchors of one level; torchvision's own has other names."""

    def __init__(self, channels: int, ratios: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.cls_logits = nn.Conv2d(channels, ratios, 1)
        self.bbox_pred = nn.Conv2d(channels, 4 * ratios, 1)

    def forward(self, features_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, A) and deltas (B, A, 4), float32; anchors run over rows, columns, ratios."""
        hidden = F.relu(self.conv(features_BCHW))
        deltas = self.bbox_pred(hidden).unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2)
        return self.cls_logits(hidden).permute(0, 2, 3, 1).flatten(1).float(), deltas.flatten(1, 3).float()
