"""Crops of faces, sampled straight from the frames, and the mapping of landmarks between crop and frame.

All crops of a batch come out of one indexed gather: a face is a row of sampling positions and a frame number, so no
frame is copied and no loop runs over faces. Pixels outside the frame are black.

Shapes: B frames, C channels (3), H rows, W columns, N faces, K landmarks, S side of a crop in pixels.
Boxes are left, top, right, bottom in pixels of the frame, pixel edges at integers; points likewise.
"""

import itertools

import torch
from torch import Tensor

from pipeline.geometry import ARCFACE_POINTS
from pipeline.schema import LUMA_WEIGHTS

#: growth of the detector's box: for 112-pixel crops (landmarks, identity, gaze, AUs), for 224-pixel crops (emotions)
EXPAND_112 = 1.2
EXPAND_224 = 1.1

# Crop pixels per gather: on the CPU its index (8 bytes each) then stays in the cache, on a GPU it stays under 128 MB.
_CPU_BLOCK_PIXELS = 1 << 17
_GPU_BLOCK_PIXELS = 1 << 24
_ON_A_LINE = 1e-3  # of float32 pixels at 4K, rounding is below 1e-4 for faces of 10 pixels; no face is so flat
_FARTHEST_PX = 2.0**30  # integer boxes stay far inside int64 and exact in float64, whatever the input


def crop_faces(frames_BCHW: Tensor, frame_N: Tensor, boxes_N4: Tensor, size: int, expand: float) -> Tensor:
    """Square crops of axis-aligned boxes, as the reference cuts them (docs/reference/pyfeat.md section 3.1).

    Width and height of the box grow by `expand` about its center, each on its own, and the rectangle is stretched to a
    square; nothing is clamped to the frame. Sampling is bilinear without antialiasing, at the reference's positions:
    with g = left + (i + 0.5) / size x width, the source index is g W / (W - 1) - 0.5, up to a pixel right of and below
    the exact place. The landmark, identity and AU weights were trained on crops that are cut this way.

    Args:
        frames_BCHW: uint8 RGB, any device.
        frame_N: int64, the frame of each face.
        boxes_N4: float32 px of the frame; N may be 0.
        size: S.
        expand: 1.2 for landmarks, identity and gaze, 1.1 for emotions.

    Returns:
        crops_NCHW float32 RGB [0, 1], (N, 3, S, S). A face whose box is not finite gets NaN, and no other face does.
    """
    height, width = frames_BCHW.shape[-2:]
    left, top, right, bottom = _expanded(boxes_N4, expand).unbind(1)
    steps_S = (torch.arange(size, device=boxes_N4.device, dtype=torch.float32) + 0.5) / size
    x_NS = left[:, None] + steps_S * (right - left)[:, None]
    y_NS = top[:, None] + steps_S * (bottom - top)[:, None]
    return _sample(
        frames_BCHW,
        frame_N,
        _reference_index(x_NS, width)[:, None, :],
        _reference_index(y_NS, height)[:, :, None],
        size,
    )


def crop_boxes(boxes_N4: Tensor, expand: float) -> Tensor:
    """The boxes that crops are taken from, rounded half to even (docs/reference/pyfeat.md section 3.1).

    Args:
        boxes_N4: float32 px of the frame.
        expand: as for `crop_faces`.

    Returns:
        int64 (N, 4) px of the frame, neither clipped nor squared. Coordinates that are not finite become 0; the crop
        of such a box is NaN, so its landmarks are NaN all the same.
    """
    expanded_N4 = _expanded(boxes_N4, expand).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    return expanded_N4.round().clamp(-_FARTHEST_PX, _FARTHEST_PX).to(torch.int64)


def landmarks_to_frame(landmarks_N136: Tensor, crop_boxes: Tensor) -> Tensor:
    """Landmarks of a crop in pixels of the frame (docs/reference/pyfeat.md section 3.2).

    Args:
        landmarks_N136: float32 x0, y0, x1, y1, ... in fractions of the crop; any even number of columns.
        crop_boxes: int64 (N, 4) from the function of that name; rounded, as the reference maps with rounded boxes.

    Returns:
        landmarks_NK2 float32 px of the frame.
    """
    boxes_N4 = crop_boxes.to(landmarks_N136.dtype)
    corner_N12, extent_N12 = boxes_N4[:, None, :2], (boxes_N4[:, 2:] - boxes_N4[:, :2])[:, None]
    return landmarks_N136.unflatten(1, (-1, 2)) * extent_N12 + corner_N12


def landmarks_to_crop(landmarks_NK2: Tensor, crop_boxes: Tensor) -> Tensor:
    """Landmarks of the frame in fractions of the crop: the inverse of `landmarks_to_frame`.

    Args:
        landmarks_NK2: float32 px of the frame.
        crop_boxes: int64 (N, 4) from the function of that name.

    Returns:
        float32 (N, K, 2); not finite for a box without extent.
    """
    boxes_N4 = crop_boxes.to(torch.float64)
    corner_N12, extent_N12 = boxes_N4[:, None, :2], (boxes_N4[:, 2:] - boxes_N4[:, :2])[:, None]
    return ((landmarks_NK2 - corner_N12) / extent_N12).to(landmarks_NK2.dtype)


def five_points(landmarks_NK2: Tensor) -> Tensor:
    """Eye centers, nose tip and mouth corners out of the 68 landmarks, in the order of `ARCFACE_POINTS`.

    Args:
        landmarks_NK2: (N, 68, 2) in dlib order, any unit.

    Returns:
        points_N52, same dtype and unit.
    """
    return torch.stack(
        [
            landmarks_NK2[:, 36:42].mean(1),
            landmarks_NK2[:, 42:48].mean(1),
            landmarks_NK2[:, 30],
            landmarks_NK2[:, 48],
            landmarks_NK2[:, 54],
        ],
        dim=1,
    )


def align_faces(frames_BCHW: Tensor, frame_N: Tensor, points_N52: Tensor, size: int = 112) -> Tensor:
    """Crops rotated, scaled and shifted so that five points of the face map to ArcFace's template.

    Sampling is bilinear without antialiasing. Points and template count as pixel indices (a pixel's center at the
    integer), as in the alignment of ArcFace's training set.

    Args:
        frames_BCHW: uint8 RGB, any device.
        frame_N: int64, the frame of each face.
        points_N52: float32 px of the frame, in the order of `ARCFACE_POINTS`; N may be 0.
        size: S; the template is scaled from 112 to it.

    Returns:
        crops_NCHW float32 [0, 1], (N, 3, S, S). A face whose points are not finite, or all the same, gets NaN, and no
        other face does.
    """
    template_N52 = (torch.tensor(ARCFACE_POINTS, device=points_N52.device) * (size / 112)).expand_as(points_N52)
    (a_N11, b_N11, tx_N11, ty_N11) = similarity(points_N52, template_N52)[:, :, None, None].unbind(1)
    # The transform goes from frame to crop; pixels of the crop are sampled through its inverse.
    steps_S = torch.arange(size, device=points_N52.device, dtype=torch.float32)
    x_NSS, y_NSS = steps_S - tx_N11, steps_S[:, None] - ty_N11
    scale_N11 = a_N11.square() + b_N11.square()
    return _sample(
        frames_BCHW,
        frame_N,
        (a_N11 * x_NSS + b_N11 * y_NSS) / scale_N11,
        (a_N11 * y_NSS - b_N11 * x_NSS) / scale_N11,
        size,
    )


def show_a_face(landmarks_NK2: Tensor, sizes_N2: Tensor) -> Tensor:
    """Whether landmarks can be those of a face in its frame, so that results computed from them are meaningful.

    Args:
        landmarks_NK2: float32 px of the frame, finite or not.
        sizes_N2: width and height of each face's frame, px.

    Returns:
        bool (N,): all are finite, at least one is within the frame, and they are not on one line: their spread
        across their main direction (standard deviation) is above a thousandth of that along it.
    """
    in_frame_N = ((landmarks_NK2 >= 0) & (landmarks_NK2 <= sizes_N2[:, None])).all(2).any(1)
    points_NK2 = landmarks_NK2.double()  # the smaller spread is a difference of nearly equal numbers
    x_NK, y_NK = (points_NK2 - points_NK2.mean(1, keepdim=True)).unbind(2)
    xx_N, yy_N, xy_N = x_NK.square().mean(1), y_NK.square().mean(1), (x_NK * y_NK).mean(1)
    # eigenvalues of the covariance matrix; NaN, which compares as false, if any landmark is not finite
    sum_N, difference_N = xx_N + yy_N, torch.hypot(xx_N - yy_N, 2 * xy_N)
    return in_frame_N & (sum_N - difference_N > _ON_A_LINE**2 * (sum_N + difference_N))


def similarity(from_NK2: Tensor, to_NK2: Tensor) -> Tensor:
    """The rotation, scale and shift that map points closest to others; without reflection.

    Least squares in closed form (Umeyama 1991): in the plane, with points as complex numbers, the best factor is the
    covariance of the two sets over the variance of the first.

    Args:
        from_NK2: float32, K >= 2 points.
        to_NK2: float32, likewise.

    Returns:
        (N, 4): a, b, tx, ty such that x' = a x - b y + tx and y' = b x + a y + ty. NaN where the first points all
        coincide or any is not finite.
    """
    from_mean_N2, to_mean_N2 = from_NK2.mean(1), to_NK2.mean(1)
    from_x_NK, from_y_NK = (from_NK2 - from_mean_N2[:, None]).unbind(2)
    to_x_NK, to_y_NK = (to_NK2 - to_mean_N2[:, None]).unbind(2)
    variance_N = (from_x_NK.square() + from_y_NK.square()).sum(1)
    a_N = (from_x_NK * to_x_NK + from_y_NK * to_y_NK).sum(1) / variance_N
    b_N = (from_x_NK * to_y_NK - from_y_NK * to_x_NK).sum(1) / variance_N
    (x_N, y_N), (to_x_N, to_y_N) = from_mean_N2.unbind(1), to_mean_N2.unbind(1)
    return torch.stack([a_N, b_N, to_x_N - a_N * x_N + b_N * y_N, to_y_N - b_N * x_N - a_N * y_N], dim=1)


def _expanded(boxes_N4: Tensor, expand: float) -> Tensor:
    """Boxes grown about their centers, not rounded."""
    left, top, right, bottom = boxes_N4.unbind(1)
    x, y = (left + right) / 2, (top + bottom) / 2
    half_width, half_height = (right - left) * expand / 2, (bottom - top) * expand / 2
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=1)


def _reference_index(position: Tensor, length: int) -> Tensor:
    """Pixel index at which the reference samples a position in pixels.

    It normalizes by length - 1 and lets `grid_sample` undo that with length (align_corners=False). Written out in the
    same order, so that float32 rounds alike. A frame one pixel wide, where the reference divides by 0, counts as two.
    """
    normalized = 2 * position / max(length - 1, 1) - 1
    return ((normalized + 1) * length - 1) / 2


def _sample(frames_BCHW: Tensor, frame_N: Tensor, x: Tensor, y: Tensor, size: int) -> Tensor:
    """Bilinear samples of uint8 frames at pixel indices, black outside.

    Args:
        frames_BCHW: uint8.
        frame_N: int64.
        x: float32 column index, broadcastable to (N, S, S); (N, 1, S) for axis-aligned crops.
        y: float32 row index, likewise; (N, S, 1) for axis-aligned crops.
        size: S.

    Returns:
        (N, C, S, S) float32 [0, 1]; NaN where a position is NaN.
    """
    channels, height, width = frames_BCHW.shape[1:]
    pixels = frames_BCHW.reshape(-1)
    crops_NCHW = torch.zeros((len(frame_N), channels, size, size), dtype=torch.float32, device=frames_BCHW.device)
    step = max(1, (_GPU_BLOCK_PIXELS if frames_BCHW.is_cuda else _CPU_BLOCK_PIXELS) // (size * size))
    for begin in range(0, len(frame_N), step):
        block = slice(begin, begin + step)
        first_N11 = (frame_N[block] * (channels * height * width))[:, None, None]
        columns, rows = _taps(x[block], width), _taps(y[block], height)
        for (row, row_weight), (column, column_weight) in itertools.product(rows, columns):
            index_NSS = first_N11 + row * width + column
            weight_NSS = row_weight * column_weight
            for channel in range(channels):
                # the offset of the channel is in the view, so that one index serves all channels
                samples_NSS = torch.take(pixels[channel * height * width :], index_NSS)
                crops_NCHW[block, channel].addcmul_(samples_NSS.to(torch.float32), weight_NSS)
    return crops_NCHW.div_(255)


def _taps(position: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """The two pixels that surround each position along one axis: indices inside the frame, and weights.

    Outside the frame the index is clamped and the weight is 0. A NaN position has an index of 0 and weights of NaN, an
    infinite one too.
    """
    lower = position.floor()
    upper_weight = position - lower
    taps = []
    for tap, weight in ((lower, 1 - upper_weight), (lower + 1, upper_weight)):
        inside = (tap >= 0) & (tap <= length - 1)
        index = tap.nan_to_num(nan=0.0).clamp(0, length - 1).to(torch.int64)
        taps.append((index, weight * inside))
    return taps


def sharpness(crops_NCHW: Tensor) -> Tensor:
    """Variance of the Laplacian of each crop's luma: small where it is blurred (Pech-Pacheco et al., ICPR 2000).

    Args:
        crops_NCHW: float32 RGB [0, 1].

    Returns:
        (N,) float32, in squared gray levels of 0-255.
    """
    red, blue = LUMA_WEIGHTS["bt601"]
    weights_C = crops_NCHW.new_tensor([red, 1 - red - blue, blue])
    gray_NHW = (crops_NCHW * weights_C[:, None, None]).sum(1) * 255
    inner_NHW = gray_NHW[:, 1:-1, 1:-1]
    around_NHW = gray_NHW[:, :-2, 1:-1] + gray_NHW[:, 2:, 1:-1] + gray_NHW[:, 1:-1, :-2] + gray_NHW[:, 1:-1, 2:]
    laplacian_NP = (around_NHW - 4 * inner_NHW).flatten(1)
    return (laplacian_NP - laplacian_NP.mean(1, keepdim=True)).square().mean(1)
