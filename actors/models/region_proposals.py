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
    """Pool each region from the level that fits its size (Lin et al. 2017, equation 1).

    Not torchvision's MultiScaleRoIAlign: it guesses the strides from its first picture and keeps them for all later
    ones, and takes regions as a list with one entry per frame.

    Args:
        levels: of stride 4, 8, 16, 32 (more are ignored), (B, C, h, w) each.
        rois_M5: float32 frame number, then left, top, right, bottom in pixels of the resized frame.

    Returns:
        float32 (M, C, 7, 7).
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
def pyramid_anchors(
    height: int, width: int, grids: tuple[tuple[int, int], ...], device: torch.device
) -> tuple[Tensor, ...]:
    """Anchors of each level of the pyramid.

    Args:
        height: of the padded input, px.
        width: of the padded input, px.
        grids: rows and columns of each level.
        device: of the results.

    Returns:
        Of each level (A, 4) float32: left, top, right, bottom in pixels of the resized frame; rows, columns, ratios.
    """
    generator = AnchorGenerator(tuple((side,) for side in _ANCHOR_SIDES), (_ANCHOR_RATIOS,) * len(_ANCHOR_SIDES))
    generator.set_cell_anchors(torch.float32, device)
    strides = [[torch.tensor(s, device=device) for s in (height // rows, width // columns)] for rows, columns in grids]
    return tuple(generator.grid_anchors([list(grid) for grid in grids], strides))


class Proposals(nn.Module):
    """The region proposal network."""

    def __init__(self, channels: int) -> None:
        """Build it with random weights, for levels of so many channels."""
        super().__init__()
        self.head = _ProposalHead(channels, len(_ANCHOR_RATIOS))
        self.coder = BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int], per_level: int, per_frame: int) -> Tensor:
        """Regions that may show a face.

        Args:
            levels: the pyramid's five levels, (B, C, h, w) each.
            size: rows and columns of the picture within the padded input.
            per_level: most proposals of a level and frame before suppression.
            per_frame: most proposals of a frame after it.

        Returns:
            (M, 5) float32: frame number, then left, top, right, bottom in pixels of the picture; by frame, then
            falling score.
        """
        grids = tuple((level.shape[2], level.shape[3]) for level in levels)
        padded = tuple(-(-side // SIZE_DIVISIBLE) * SIZE_DIVISIBLE for side in size)
        boxes, scores, shifts = [], [], []
        for number, (features, anchors_A4) in enumerate(
            zip(levels, pyramid_anchors(*padded, grids, levels[0].device), strict=True)
        ):
            scores_BA, deltas_BA4 = self.head(features)
            best_BA, index_BA = scores_BA.topk(min(per_level, len(anchors_A4)), dim=1)
            deltas_BA4 = deltas_BA4.gather(1, index_BA[:, :, None].expand(-1, -1, 4))
            decoded = self.coder.decode_single(deltas_BA4.flatten(0, 1), anchors_A4[index_BA.flatten()])
            boxes.append(decoded.unflatten(0, index_BA.shape))
            scores.append(best_BA)
            # levels are suppressed separately: boxes are clipped to the frame, so shifted levels do not overlap
            shifts.append(best_BA.new_full(best_BA.shape, number * (max(size) + 1), dtype=torch.float64))
        boxes_BP4 = clip_boxes_to_image(torch.cat(boxes, dim=1), size)
        too_small_BP = ((boxes_BP4[:, :, 2:] - boxes_BP4[:, :, :2]) < _LEAST_SIDE).any(2)
        # a box without area overlaps no other, and comes last
        scores_BP = torch.cat(scores, dim=1).masked_fill(too_small_BP, -torch.inf)
        shifted_BP4 = boxes_BP4.double() + torch.cat(shifts, dim=1)[:, :, None]
        # One call per frame, and only here: nms compares all with all, and a frame has up to 15000 boxes.
        kept = [
            nms(boxes_P4, scores_P, _NMS_IOU)[:per_frame] + frame * scores_BP.shape[1]
            for frame, (boxes_P4, scores_P) in enumerate(zip(shifted_BP4, scores_BP.double(), strict=True))
        ]
        kept_M = torch.cat(kept)
        kept_M = kept_M[~too_small_BP.flatten()[kept_M]]
        return torch.cat([(kept_M // scores_BP.shape[1])[:, None], boxes_BP4.flatten(0, 1)[kept_M]], dim=1)


class _ProposalHead(nn.Module):
    """Scores and box deltas of the anchors of one level; torchvision's own has other weight names."""

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
