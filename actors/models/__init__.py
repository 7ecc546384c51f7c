"""The networks, one module per architecture, each with the function that builds it from its weight files.

All models of one slot have one calling convention. The caller sets `torch.inference_mode`; inputs are on their device:

    face         model.detect(frames_BCHW uint8 RGB) -> Detections
    landmarks    model(x) -> (N, 136), x0 y0 x1 y1 ... in fractions of the crop (box grown 1.2 times)
    pose         model(x) -> (N, 6): pitch, roll, yaw (rad), x, y, z
    action_units model(x) -> (N, 20), in the order of schema.AU_NUMBERS
    emotions     model(x) -> (N, 7), in the order of schema.EMOTIONS
    embeddings   model(x) -> (N, 512), not necessarily of unit length
    gaze         model(x) -> (N, 3): pitch, yaw, angle to the camera axis (rad)

where x is the input that the model's card names:

    crops112, crops224, wide224, aligned112   crops_NCHW float32 RGB [0, 1]
    landmarks                                 landmarks_NK2 float32 px of the frame
    hog112                                    actors.ops.hog.HogFeatures: features (N, 5408), aligned landmarks (N, 136)
    detector                                  poses_N6 of the face model, in the signs of the tables

On a CPU several threads may call a model at once; a user's model only if its entry in the bundle says `thread_safe`.
N may be 0. A model does its own input normalization, in float32; a network then runs in the dtype of its weights and
returns float32. A face whose input is not finite gets NaN, and no other face does.
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
        poses_N6: float32: pitch, roll, yaw (rad), x, y, z in the signs of the tables; None from a model without.
    """

    frame_N: Tensor
    boxes_N4: Tensor
    scores_N: Tensor
    points_N52: Tensor | None
    poses_N6: Tensor | None = None

    def __len__(self) -> int:
        return len(self.frame_N)
