"""The networks, one module per architecture, each with the function that builds it from its weight files.

Models of one slot are called alike, whoever wrote them, under `torch.inference_mode` by the caller, on their device:

    face         model.detect(frames_BCHW uint8 RGB) -> Detections
    landmarks    model(crops_NCHW float32 RGB [0, 1]) -> (N, 136), x0 y0 x1 y1 ... in fractions of the crop
    pose         model(landmarks_NK2 float32 px) -> (N, 6): pitch, roll, yaw (rad), x, y, z
    embeddings   model(crops_NCHW float32 RGB [0, 1]) -> (N, D), not normalised

N may be 0. A model does its own input normalisation.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Detections:
    """Faces found in a batch of frames, ordered by frame and within it by falling score.

    Attributes:
        frame_N: int64, which frame of the batch.
        boxes_N4: float32 px of the frame: left, top, right, bottom, pixel edges at integers; not clipped to the frame.
        scores_N: float32, 0 to 1; NaN from a model that has none.
        points_N52: float32 px: eyes, nose tip, mouth corners, left in the picture first; None from a model without.
    """

    frame_N: Tensor
    boxes_N4: Tensor
    scores_N: Tensor
    points_N52: Tensor | None

    def __len__(self) -> int:
        return len(self.frame_N)
