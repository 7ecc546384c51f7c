"""Histograms of oriented gradients of the aligned face, cut to its outline: the input of the classical models.

Formulas: docs/reference/pyfeat.md sections 5.1 to 5.3. A face is turned until its eyes are level and scaled by eyes,
nose and mouth; all but the convex hull of its landmarks and a block above it, the forehead, is made black; the
gradients of the rest are counted by direction in cells of 8 x 8 pixels. Everything runs on all faces at once, on the
crops' device.

Shapes: N faces, K landmarks (68), C channels (3), S side of the picture in pixels, G cells along a side.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ORIENTATIONS, CELL, BLOCK = 8, 8, 2
HOG_WIDTH = 5408  # of a picture of 112 pixels: 13 x 13 blocks of 2 x 2 cells

_ENLARGED = 2.5  # side of the aligned picture over the extent of eyes, nose and mouth
_OUTSIDE = 128.0  # the reference's value of pixels outside the crop, although the picture is 0 to 1
_LEAST = 1e-12
_WHOLE = 1e-6  # px; rounding of an edge's place is far below, the next whole number's distance far above
_CLIPPED, _NORM_EPSILON = 0.2, 1e-5  # L2-Hys
_JAW_FIRST, _JAW_LAST = 0, 16

#: faces per pass: on a CPU the intermediate pictures of one then stay in the cache
_BLOCK_FACES = {"cpu": 16, "cuda": 1024}


@dataclass(frozen=True)
class HogFeatures:
    """Input of the classical models.

    Attributes:
        features_N5408: float32; order: block row, block column, cell row, cell column, direction.
        landmarks_N136: x0, y0, x1, y1, ... in whole pixels of the aligned picture, as float32.

    Both are NaN for a face whose landmarks span no area or are not finite, or whose outline is black.
    """

    features_N5408: Tensor
    landmarks_N136: Tensor

    def __len__(self) -> int:
        return len(self.features_N5408)


def hog_features(crops_NCHW: Tensor, landmarks_NK2: Tensor) -> HogFeatures:
    """Align, mask and describe faces.

    Args:
        crops_NCHW: float32 RGB [0, 1], (N, 3, 112, 112); N may be 0.
        landmarks_NK2: float32 px of the crop, dlib order.

    Returns:
        HogFeatures on the crops' device. NaN for a face, and for no other, if its landmarks are not finite or lie on
        one line; if its outline holds no pixel of the crop; or if nothing but black lies within, as of a box outside
        the frame.
    """
    size = crops_NCHW.shape[-1]
    matrix_N23, points_NK2 = align_landmarks(landmarks_NK2.to(torch.float64), size)
    good_N = points_NK2.isfinite().all(2).all(1) & crops_NCHW.sum((1, 2, 3)).isfinite() & _spans_area(points_NK2)
    features, shown = [crops_NCHW.new_empty(0, _width(size))], [good_N[:0]]
    for block in _blocks(len(crops_NCHW), _BLOCK_FACES[crops_NCHW.device.type]):
        aligned, on_crop = warp_affine(crops_NCHW[block], matrix_N23[block])
        mask = face_mask(points_NK2[block], size)
        seen = mask & on_crop
        off_crop = (mask ^ seen).to(aligned.dtype) * _OUTSIDE
        described = hog_blocks(torch.addcmul(off_crop[:, None], aligned, seen.to(aligned.dtype)[:, None]))
        features.append(described)
        lit = (aligned != 0).any(1) & seen  # the fill beyond the crop alone shows nothing
        shown.append(lit.flatten(1).any(1) & (described != 0).any(1))
    good_N &= torch.cat(shown)
    nan = float("nan")
    return HogFeatures(
        torch.cat(features).where(good_N[:, None], nan), points_NK2.flatten(1).float().where(good_N[:, None], nan)
    )


def align_landmarks(landmarks_NK2: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The turn, scale and shift that level the eyes and center the face, and the landmarks carried along.

    Args:
        landmarks_NK2: float64 px of the crop.
        size: S.

    Returns:
        (N, 2, 3) float64, from pixels of the crop to pixels of the aligned picture; and the landmarks there, cut to
        whole numbers toward zero, still float64. Not finite where the landmarks are not.
    """
    left_N2, right_N2 = landmarks_NK2[:, 36:42].mean(1), landmarks_NK2[:, 42:48].mean(1)
    anchors = torch.stack([left_N2, right_N2, *(landmarks_NK2[:, k] for k in (30, 48, 54))], dim=1)
    across_N2 = right_N2 - left_N2
    cos_N, sin_N = (across_N2 / across_N2.norm(dim=1, keepdim=True).clamp_min(_LEAST)).unbind(1)
    turn_N22 = torch.stack([cos_N, sin_N, -sin_N, cos_N], dim=1).unflatten(1, (2, 2))
    turned = anchors @ turn_N22.mT
    low_N2, high_N2 = turned.amin(1), turned.amax(1)
    half_N1 = 0.5 * _ENLARGED * (high_N2 - low_N2).amax(1, keepdim=True)
    scale_N1 = (size - 1) / 2 / half_N1.clamp_min(_LEAST)
    shift_N2 = scale_N1 * (half_N1 - (low_N2 + high_N2) / 2)
    matrix_N23 = torch.cat([scale_N1[:, None] * turn_N22, shift_N2[:, :, None]], dim=2)
    moved_NK2 = landmarks_NK2 @ matrix_N23[:, :, :2].mT + shift_N2[:, None]
    return matrix_N23, moved_NK2.trunc() + 0.0  # no negative zeros


def warp_affine(crops_NCHW: Tensor, matrix_N23: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures moved by affine maps; bilinear, black off the crop.

    Args:
        crops_NCHW: float32.
        matrix_N23: float64, from pixels of the crop to pixels of the result.

    Returns:
        (N, C, S, S) float32, and where it shows the crop, (N, S, S) bool.
    """
    size = crops_NCHW.shape[-1]
    turn_N22, shift_N2 = matrix_N23[:, :, :2], matrix_N23[:, :, 2]
    a, b, c, d = turn_N22.flatten(1).unbind(1)
    back_N22 = torch.stack([d, -b, -c, a], dim=1).unflatten(1, (2, 2)) / (a * d - b * c)[:, None, None]
    # in the coordinates of grid_sample: pixel p is (p - middle) / (S / 2)
    middle = (size - 1) / 2
    offset_N21 = (back_N22 @ (middle - shift_N2)[:, :, None] - middle) / (size / 2)
    steps_S = (torch.arange(size, device=crops_NCHW.device, dtype=torch.float64) - middle) / (size / 2)
    columns_N2S = (back_N22[:, :, :1] * steps_S).to(crops_NCHW.dtype)
    rows_N2S = (back_N22[:, :, 1:] * steps_S + offset_N21).to(crops_NCHW.dtype)
    grid_NSS2 = crops_NCHW.new_empty(len(crops_NCHW), size, size, 2)
    for axis in (0, 1):
        torch.add(columns_N2S[:, axis, None, :], rows_N2S[:, axis, :, None], out=grid_NSS2[..., axis])
    x_NSS, y_NSS = grid_NSS2.abs().unbind(3)
    aligned_NCSS = functional.grid_sample(crops_NCHW, grid_NSS2, align_corners=False)
    return aligned_NCSS, (x_NSS <= 1) & (y_NSS <= 1)


def face_mask(points_NK2: Tensor, size: int) -> Tensor:
    """Outline of a face: the convex hull of its landmarks, and the block above it from temple to temple.

    The block is rows 0 to min(y0, y16) and columns x0 to x16 of the jaw's ends, as a slice of Python: a negative number
    counts from the far side. The reference has it so, and its weights were trained with it.

    Args:
        points_NK2: whole numbers, float64, px.
        size: S.

    Returns:
        (N, S, S) bool.
    """
    steps_S = torch.arange(size, device=points_NK2.device)
    first_N2, last_N2 = points_NK2[:, _JAW_FIRST], points_NK2[:, _JAW_LAST]
    rows_N, left_N, right_N = (
        torch.where(edge < 0, edge + size, edge)[:, None]
        for edge in (torch.minimum(first_N2[:, 1], last_N2[:, 1]), first_N2[:, 0], last_N2[:, 0])
    )
    columns_NS = (steps_S >= left_N) & (steps_S < right_N)
    forehead_NSS = (steps_S < rows_N)[:, :, None] & columns_NS[:, None, :]
    return hull_mask(points_NK2, size) | forehead_NSS


def hull_mask(points_NK2: Tensor, size: int) -> Tensor:
    """Pixels within the convex hull of points with whole coordinates, or on its edge.

    The right side of a hull is x as a concave function of y. A point is a corner of it, or lies on it, if no line that
    comes to the point from above leans less to the right than the one that leads down from it and leans most; and that
    line bounds the hull in every row. So the hulls of all faces come out of one K x K table of slopes, without a walk
    along any of them. Slopes are quotients of whole numbers: float64 makes equal ones equal and keeps others apart.

    Args:
        points_NK2: whole numbers, float64, px, not all on one line; exact if they are below 100,000.
        size: S.

    Returns:
        (N, S, S) bool: as skimage's `grid_points_in_poly` of scipy's `ConvexHull`.
    """
    x_NK, y_NK = points_NK2.unbind(2)
    down_NKK = y_NK[:, None, :] - y_NK[:, :, None]
    # of the line from the second index to the third; infinite within a row, which rules out all but its outermost point
    slope_NKK = (x_NK[:, None, :] - x_NK[:, :, None]).div_(down_NKK)
    leads_NKK = (down_NKK >= 0) & (slope_NKK == slope_NKK)
    most_NKK = slope_NKK.where(leads_NKK, -math.inf)
    least_NKK = slope_NKK.where(leads_NKK, math.inf)
    steps_S = torch.arange(size, device=points_NK2.device, dtype=points_NK2.dtype)

    def reach(x_NK: Tensor, leaves_NK: Tensor, comes_NK: Tensor) -> Tensor:
        """Where the lines of the right side cross each row."""
        on_side_NK = (comes_NK >= leaves_NK) & leaves_NK.isfinite()
        slope_NK = leaves_NK.where(on_side_NK, 0.0)
        start_NK = (x_NK - y_NK * slope_NK).where(on_side_NK, math.inf)
        return torch.addcmul(start_NK[:, :, None], slope_NK[:, :, None], steps_S).amin(1)

    right_NS = reach(x_NK, most_NKK.amax(2), least_NKK.amin(1))
    left_NS = -reach(-x_NK, -least_NKK.amin(2), -most_NKK.amax(1))
    in_rows_NS = (steps_S >= y_NK.amin(1, keepdim=True)) & (steps_S <= y_NK.amax(1, keepdim=True))
    first_NS = (left_NS - _WHOLE).ceil().where(in_rows_NS, size).clamp(0, size).to(torch.int16)
    last_NS = (right_NS + _WHOLE).floor().clamp(-1, size).to(torch.int16)
    columns_S = torch.arange(size, device=points_NK2.device, dtype=torch.int16)
    return (columns_S >= first_NS[:, :, None]) & (columns_S <= last_NS[:, :, None])


def hog_blocks(pictures_NCSS: Tensor) -> Tensor:
    """Histograms of oriented gradients (Dalal and Triggs 2005), as scikit-image computes them.

    8 directions of 22.5 degrees without sign, cells of 8 x 8 pixels, blocks of 2 x 2 cells, L2-Hys. A pixel takes the
    gradient of the channel where it is largest, and counts whole for one direction.

    Args:
        pictures_NCSS: float32, S a multiple of 8.

    Returns:
        (N, blocks x blocks x 4 x 8) float32.
    """
    count, channels, size, _ = pictures_NCSS.shape
    gx_NCSS, gy_NCSS = torch.zeros_like(pictures_NCSS), torch.zeros_like(pictures_NCSS)
    torch.sub(pictures_NCSS[..., 2:], pictures_NCSS[..., :-2], out=gx_NCSS[..., 1:-1])
    torch.sub(pictures_NCSS[..., 2:, :], pictures_NCSS[..., :-2, :], out=gy_NCSS[..., 1:-1, :])
    square_NCSS = gx_NCSS.square().addcmul_(gy_NCSS, gy_NCSS)
    gx, gy, square = gx_NCSS[:, 0], gy_NCSS[:, 0], square_NCSS[:, 0]
    for channel in range(1, channels):
        larger = square_NCSS[:, channel] > square
        gx = torch.where(larger, gx_NCSS[:, channel], gx)
        gy = torch.where(larger, gy_NCSS[:, channel], gy)
        square = torch.maximum(square, square_NCSS[:, channel])
    # -8 to 8 half-open sectors; opposite directions are one, which the lowest three bits express
    direction_NSS = torch.atan2(gy, gx).mul_(ORIENTATIONS / math.pi).floor_().to(torch.int64).bitwise_and_(7)
    cells = size // CELL
    along_S = torch.arange(size, device=pictures_NCSS.device) // CELL
    bin_NSS = direction_NSS.add_((along_S[:, None] * cells + along_S) * ORIENTATIONS)
    histogram = pictures_NCSS.new_zeros(count, cells * cells * ORIENTATIONS)
    histogram.scatter_add_(1, bin_NSS.flatten(1), square.sqrt().flatten(1))
    return _normalized(histogram.div_(CELL * CELL).view(count, cells, cells, ORIENTATIONS))


def _normalized(histogram_NGG8: Tensor) -> Tensor:
    """Blocks of cells, each scaled to length 1, clipped, and scaled again."""
    blocks = histogram_NGG8.unfold(1, BLOCK, 1).unfold(2, BLOCK, 1).permute(0, 1, 2, 4, 5, 3).flatten(3)
    for clipped in (_CLIPPED, math.inf):
        blocks = (blocks / (blocks.square().sum(3, keepdim=True) + _NORM_EPSILON**2).sqrt()).clamp_max(clipped)
    return blocks.flatten(1)


def _spans_area(points_NK2: Tensor) -> Tensor:
    """Whether points do not all lie on one line, exactly for whole numbers."""
    apart_NK2 = points_NK2 - points_NK2[:, :1]
    farthest_N = apart_NK2.square().sum(2).nan_to_num(nan=0.0).argmax(1)
    along_N12 = apart_NK2.gather(1, farthest_N[:, None, None].expand(-1, 1, 2))
    return (along_N12[..., 0] * apart_NK2[..., 1] != along_N12[..., 1] * apart_NK2[..., 0]).any(1)


def _width(size: int) -> int:
    blocks = size // CELL - BLOCK + 1
    return blocks * blocks * BLOCK * BLOCK * ORIENTATIONS


def _blocks(count: int, step: int) -> Iterator[slice]:
    return (slice(low, low + step) for low in range(0, count, step))
