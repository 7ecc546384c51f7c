"""A frontal-face detector without weights to download: the LBP cascade that ships inside scikit-image.

It serves the first look at Faceatlas where no hub can be reached. It finds upright frontal faces, gives no score and
no points, and runs on the CPU frame by frame; nothing else in Faceatlas should rest on it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from actors.errors import BundleError
from actors.models import Detections

_LONG_SIDE = 320  # faces are searched for on frames shrunk to this length: the cascade's cost grows with the area


class LbpCascade(nn.Module):
    """Multi-block LBP cascade (Liao et al. 2007) of scikit-image."""

    def __init__(self, min_size: int = 32) -> None:
        super().__init__()
        try:
            from skimage.data import lbp_frontal_face_cascade_filename
            from skimage.feature import Cascade
        except ImportError as error:
            raise BundleError("the model lbp_cascade needs scikit-image: pip install 'faceatlas[demo]'") from error
        self.cascade = Cascade(lbp_frontal_face_cascade_filename())
        self.min_size = min_size

    def detect(self, frames_BCHW: Tensor) -> Detections:
        """Find upright frontal faces.

        Args:
            frames_BCHW: uint8 RGB.

        Returns:
            Boxes in pixels of the frames, the largest first; scores are NaN, there are no points.
        """
        frame_N, boxes_N4 = [], []
        shrink = max(1, round(max(frames_BCHW.shape[-2:]) / _LONG_SIDE))
        for b, frame_CHW in enumerate(frames_BCHW.cpu().numpy()):
            small_HWC = np.ascontiguousarray(frame_CHW[:, ::shrink, ::shrink].transpose(1, 2, 0))
            least = max(24, self.min_size // shrink)
            if min(small_HWC.shape[:2]) <= least:
                continue
            found = self.cascade.detect_multi_scale(
                small_HWC, scale_factor=1.2, step_ratio=1, min_size=(least, least), max_size=small_HWC.shape[:2]
            )
            for box in sorted(found, key=lambda d: -d["width"] * d["height"]):
                corner = np.array([box["c"], box["r"], box["c"] + box["width"], box["r"] + box["height"]])
                frame_N.append(b)
                boxes_N4.append(corner * shrink)
        device = frames_BCHW.device
        boxes = torch.tensor(np.array(boxes_N4, np.float32).reshape(-1, 4), device=device)
        return Detections(
            frame_N=torch.tensor(frame_N, dtype=torch.int64, device=device),
            boxes_N4=boxes,
            scores_N=torch.full((len(boxes),), float("nan"), device=device),
            points_N52=None,
        )


def build_lbp_cascade(files: Mapping[str, Path], min_size: int = 32) -> LbpCascade:  # noqa: ARG001 (it has no files)
    """Build the cascade; `min_size` is the least face side in pixels.

    Raises:
        BundleError: scikit-image is not installed.
    """
    return LbpCascade(min_size)
