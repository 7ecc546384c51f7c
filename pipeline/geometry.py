"""Geometry of faces that several parts share: overlap of boxes, the places of the features in an aligned crop."""

import numpy as np

#: eye centers, nose tip and mouth corners (left in the picture first) in a 112-pixel crop that ArcFace expects
#: (Deng et al., "ArcFace", 2019; the alignment of its published training set)
ARCFACE_POINTS = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)


def box_iou(a_4: np.ndarray, b_4: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes.

    Args:
        a_4: left, top, right, bottom in pixels: (..., 4).
        b_4: likewise; the leading axes of the two broadcast, so (F, 1, 4) and (T, 4) give all pairs.

    Returns:
        (...), 0..1; 0 for boxes that are NaN or empty.
    """
    low_2 = np.maximum(a_4[..., :2], b_4[..., :2])
    high_2 = np.minimum(a_4[..., 2:], b_4[..., 2:])
    shared = np.maximum(high_2 - low_2, 0).prod(axis=-1)
    area_a, area_b = (np.maximum(box_4[..., 2:] - box_4[..., :2], 0).prod(axis=-1) for box_4 in (a_4, b_4))
    union = area_a + area_b - shared
    return np.nan_to_num(shared / np.where(union > 0, union, 1))
