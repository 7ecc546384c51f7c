"""img2pose (Albiero et al. 2021): a Faster R-CNN that finds faces by their head pose in six degrees of freedom.

Formulas: docs/reference/pyfeat.md sections 2.2 and 9. The module names are those of the published weights.

A region proposal network on a ResNet-18 feature pyramid proposes regions; two heads then predict for each region
whether it is a face, and the pose of the face relative to the region. The box of a face is drawn around the projection
of 68 reference points in that pose.

Shapes: B frames, C H W channels, rows, columns; M proposals or candidates of all frames, N faces, K reference points.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from actors.errors import MissingWeightsError, WeightsError
from actors.models import Detections
from actors.models.constants import IMAGENET_MEAN, IMAGENET_STD, constant
from actors.models.region_proposals import POOLED_SIDE, SIZE_DIVISIBLE, Proposals, pool_regions
from actors.ops.geometry import boxes_around, euler_angles, project, rotation_matrix, to_frame
from actors.ops.nms import by_frame_then_score, suppress
from actors.weights.state_dict import load_strict, read_state_dict

_CANDIDATE_SCORE, _LEAST_CANDIDATE_SIDE = 0.05, 1e-2
_CANDIDATE_NMS_IOU, _MAX_CANDIDATES = 0.5, 1000
_FACE_NMS_IOU = 0.3

#: frames that go through the networks at once; the regions of a frame take 50 MB when pooled
_FRAMES_AT_ONCE = {"cpu": 4, "cuda": 32}


class Img2PoseConfig(BaseModel):
    """The published config.json; entries that are not used are ignored.

    Attributes:
        min_size, max_size: frames are scaled until the short side is the first, unless the long side passes the second.
        pose_mean, pose_stddev: of the training poses relative to their regions.
        threed_points: the reference face, K points.
        rpn_pre_nms_top_n_test, rpn_post_nms_top_n_test: proposals kept per level before, per frame after suppression.
        bbox_x_factor, bbox_y_factor, expand_forehead: see geometry.boxes_around.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    min_size: PositiveInt
    max_size: PositiveInt
    pose_mean: tuple[float, float, float, float, float, float]
    pose_stddev: tuple[float, float, float, float, float, float]
    threed_points: Annotated[tuple[tuple[float, float, float], ...], Field(min_length=1)]
    rpn_pre_nms_top_n_test: PositiveInt
    rpn_post_nms_top_n_test: PositiveInt
    bbox_x_factor: PositiveFloat
    bbox_y_factor: PositiveFloat
    expand_forehead: NonNegativeFloat


@dataclass(frozen=True)
class Candidates:
    """Faces before the last suppression and threshold, by frame and within it by falling score.

    Attributes:
        frame_M: int64.
        boxes_M4: float32 px of the frame.
        scores_M: float32.
        poses_M6: float32 rotation vector and translation in the resized frame's camera (see actors.ops.geometry).
    """

    frame_M: Tensor
    boxes_M4: Tensor
    scores_M: Tensor
    poses_M6: Tensor


class Img2Pose(nn.Module):
    """Backbone, region proposals and the two heads; `detect` is the whole way from frames to faces with poses."""

    def __init__(self, config: Img2PoseConfig, score_threshold: float) -> None:
        """Build the network with random weights.

        Args:
            config: see Img2PoseConfig.
            score_threshold: least score of a face that `detect` returns, 0 to 1.
        """
        super().__init__()
        self.config = config
        self.score_threshold = score_threshold
        self.backbone = resnet_fpn_backbone(backbone_name="resnet18", weights=None)
        self.rpn = Proposals(self.backbone.out_channels)
        self.roi_heads = _RegionHeads(self.backbone.out_channels)

    def detect(self, frames_BCHW: Tensor) -> Detections:
        """Find the faces of a batch of frames, and their head poses.

        What is found in a frame does not depend on the other frames.

        Args:
            frames_BCHW: uint8 RGB on the model's device, B >= 0.

        Returns:
            Detections with score >= the threshold, boxes clipped to the frame, poses in the signs of the tables; x, y,
            z are in the units of the reference face, in the camera of the resized frame.
        """
        found = self.candidates(frames_BCHW, self.score_threshold)
        return faces_of(found, self.score_threshold)

    def candidates(self, frames_BCHW: Tensor, score_threshold: float = 0.0) -> Candidates:
        """Faces of score > 0.05 (and >= the threshold) after one suppression, the output of the reference's network.

        As a box is only ever suppressed by a better one, the threshold may be applied first: the faces above it are
        the same, and the poses of the many regions below it need not be computed.

        Args:
            frames_BCHW: uint8 RGB, B >= 0.
            score_threshold: least score of a candidate, 0 to 1.
        """
        frame_size = frames_BCHW.shape[-2], frames_BCHW.shape[-1]
        size = resized_size(*frame_size, self.config.min_size, self.config.max_size)
        step = _FRAMES_AT_ONCE.get(frames_BCHW.device.type, 4)
        parts = [
            self._judge(frames_BCHW[low : low + step], low, size, score_threshold)
            for low in range(0, len(frames_BCHW), step)
        ]
        if not parts:
            empty = frames_BCHW.new_empty(0, 6, dtype=torch.float32)
            parts = [(empty[:, :5], empty[:, :2], empty)]
        rois_M5, logits_M2, deltas_M6 = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return place_candidates(rois_M5, logits_M2, deltas_M6, size, frame_size, self.config)

    def _judge(
        self, frames_BCHW: Tensor, first: int, size: tuple[int, int], score_threshold: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Regions (frame number, box), logits and poses of the likely faces in frames that begin at `first`."""
        dtype = next(self.parameters()).dtype
        levels = list(self.backbone(normalize(frames_BCHW, size).to(dtype)).values())
        rois_M5 = self.rpn(levels, size, self.config.rpn_pre_nms_top_n_test, self.config.rpn_post_nms_top_n_test)
        pooled_MCHW = pool_regions(levels, rois_M5).to(dtype)
        logits_M2 = self.roi_heads.logits(pooled_MCHW).float()
        likely_M = torch.nonzero(_is_candidate(logits_M2.softmax(1)[:, 1], rois_M5[:, 1:], score_threshold)).squeeze(1)
        deltas_M6 = self.roi_heads.poses(pooled_MCHW[likely_M]).float()
        rois_M5 = rois_M5[likely_M]
        rois_M5[:, 0] += first
        return rois_M5, logits_M2[likely_M], deltas_M6


def resized_size(height: int, width: int, min_size: int, max_size: int) -> tuple[int, int]:
    """Rows and columns of the picture that the network gets.

    Args:
        height: of the frame, px.
        width: likewise.
        min_size: of the short side, px, unless the long side would pass `max_size`.
        max_size: most pixels of the long side.

    Returns:
        Rows and columns, at least one of each; the reference fails where rounding gives none.
    """
    scale = min(min_size / min(height, width), max_size / max(height, width))
    return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))


def normalize(frames_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """The network's input: normalized by ImageNet's mean and deviation, resized, padded.

    Args:
        frames_BCHW: uint8 RGB.
        size: rows and columns to resize to, bilinear without antialiasing.

    Returns:
        float32, (B, 3, H, W), H and W the next multiples of 32; the padding is 0.
    """
    mean_C11, std_C11 = (
        constant(values, frames_BCHW.device)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    images = frames_BCHW.to(torch.float32).div_(255).sub_(mean_C11).div_(std_C11)
    images = F.interpolate(images, size=size, mode="bilinear", align_corners=False)
    rows, columns = (-side % SIZE_DIVISIBLE for side in size)
    return F.pad(images, (0, columns, 0, rows))


def place_regions(
    regions_M4: Tensor, deltas_M6: Tensor, size: tuple[int, int], config: Img2PoseConfig
) -> tuple[Tensor, Tensor]:
    """Poses of faces in the camera of the resized frame, and their boxes.

    Args:
        regions_M4: float32 left, top, right, bottom in pixels of the resized frame.
        deltas_M6: float32 pose relative to the region, in deviations of the training poses.
        size: rows and columns of the resized frame.
        config: see Img2PoseConfig.

    Returns:
        float32 (M, 6) rotation vector and translation, and (M, 4) left, top, right, bottom in pixels of the resized
        frame; not finite where the points of a pose do not project.
    """
    device = regions_M4.device
    poses_M6 = deltas_M6 * constant(config.pose_stddev, device) + constant(config.pose_mean, device)
    poses_M6 = to_frame(poses_M6, regions_M4, *size)
    points_MK2 = project(constant(config.threed_points, device), poses_M6, *size)
    boxes_M4 = boxes_around(
        points_MK2, poses_M6[:, 2], *size, config.bbox_x_factor, config.bbox_y_factor, config.expand_forehead
    )
    return poses_M6, boxes_M4


def place_candidates(
    rois_M5: Tensor,
    logits_M2: Tensor,
    deltas_M6: Tensor,
    size: tuple[int, int],
    frame_size: tuple[int, int],
    config: Img2PoseConfig,
) -> Candidates:
    """Poses in the camera of the frame, boxes, and a first suppression, for all regions of all frames at once.

    Args:
        rois_M5: float32 frame number, then left, top, right, bottom in pixels of the resized frame.
        logits_M2: float32: background, face.
        deltas_M6: float32 pose relative to the region, in deviations of the training poses.
        size: rows and columns of the resized frame.
        frame_size: rows and columns of the frame.
        config: see Img2PoseConfig.
    """
    device = rois_M5.device
    frame_M, regions_M4, scores_M = rois_M5[:, 0].long(), rois_M5[:, 1:], logits_M2.softmax(1)[:, 1]
    poses_M6, boxes_M4 = place_regions(regions_M4, deltas_M6, size, config)
    # a pose whose points do not project has no box: it must not suppress others, and is dropped with the low scores
    sound_M = boxes_M4.isfinite().all(1) & poses_M6.isfinite().all(1)
    boxes_M4 = torch.where(sound_M[:, None], boxes_M4, 0)
    scores_M = torch.where(sound_M & _is_candidate(scores_M, regions_M4), scores_M, -1)

    kept_M = suppress(boxes_M4, scores_M, frame_M, _CANDIDATE_NMS_IOU)
    kept_M = kept_M[scores_M[kept_M] > _CANDIDATE_SCORE]
    kept_M = kept_M[by_frame_then_score(frame_M[kept_M], scores_M[kept_M], _MAX_CANDIDATES)]
    ratio_y, ratio_x = (whole / part for whole, part in zip(frame_size, size, strict=True))
    boxes_M4 = boxes_M4[kept_M] * constant((ratio_x, ratio_y, ratio_x, ratio_y), device)
    return Candidates(frame_M[kept_M], boxes_M4, scores_M[kept_M], poses_M6[kept_M])


def faces_of(found: Candidates, score_threshold: float) -> Detections:
    """The last suppression and the threshold; poses become angles in the signs of the tables.

    Args:
        found: candidates of all frames.
        score_threshold: least score of a face, 0 to 1.

    Returns:
        Detections, at most 1000 per frame; poses are pitch, roll, yaw in rad, then the translation.
    """
    kept_N = suppress(found.boxes_M4, found.scores_M, found.frame_M, _FACE_NMS_IOU)
    kept_N = kept_N[found.scores_M[kept_N] >= score_threshold]
    kept_N = kept_N[by_frame_then_score(found.frame_M[kept_N], found.scores_M[kept_N], _MAX_CANDIDATES)]
    poses_N6 = found.poses_M6[kept_N]
    about_x, about_y, about_z = euler_angles(rotation_matrix(poses_N6[:, :3])).unbind(1)
    angles_N3 = torch.stack([-about_x, -about_z, about_y], dim=1)  # pitch, roll, yaw
    return Detections(
        frame_N=found.frame_M[kept_N],
        boxes_N4=found.boxes_M4[kept_N],
        scores_N=found.scores_M[kept_N],
        points_N52=None,
        poses_N6=torch.cat([angles_N3, poses_N6[:, 3:]], dim=1),
    )


def _is_candidate(scores_M: Tensor, regions_M4: Tensor, score_threshold: float = 0.0) -> Tensor:
    sides_M2 = regions_M4[:, 2:] - regions_M4[:, :2]
    return (scores_M > _CANDIDATE_SCORE) & (scores_M >= score_threshold) & (sides_M2 >= _LEAST_CANDIDATE_SIDE).all(1)


class _RegionHeads(nn.Module):
    """Whether a region holds a face, and the face's pose in the region: two heads without shared weights."""

    def __init__(self, channels: int, width: int = 1024) -> None:
        super().__init__()
        self.box_head = TwoMLPHead(channels * POOLED_SIDE**2, width)
        self.box_predictor = _PosePredictor(width)
        self.class_head = TwoMLPHead(channels * POOLED_SIDE**2, width)
        self.class_predictor = _ClassPredictor(width)

    def logits(self, pooled_MCHW: Tensor) -> Tensor:
        """(M, 2): background, face."""
        return self.class_predictor.cls_score(self.class_head(pooled_MCHW))

    def poses(self, pooled_MCHW: Tensor) -> Tensor:
        """(M, 6) pose of a face relative to its region, in deviations of the training poses."""
        return self.box_predictor.dof_pred(self.box_head(pooled_MCHW))[:, 6:]  # the first six belong to the background


class _PosePredictor(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dof_pred = nn.Sequential(nn.Linear(width, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 2 * 6))


class _ClassPredictor(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, 2)


class PoseFromDetector(nn.Module):
    """Fills the slot `pose` with the poses that the face model gave."""

    def forward(self, poses_N6: Tensor) -> Tensor:
        """The poses, float32 (N, 6), unchanged."""
        return poses_N6


def build_img2pose(files: Mapping[str, Path], score_threshold: float = 0.5) -> Img2Pose:
    """img2pose with ResNet-18, in eval mode, with its weights.

    Args:
        files: `weights` (safetensors) and `config` (json, the entries of Img2PoseConfig).
        score_threshold: least score of a face, 0 to 1; below 0.05 it has no effect.

    Raises:
        WeightsError: a file cannot be read, the configuration lacks an entry, or the weights do not fit.
    """
    net = Img2Pose(read_config(files["config"]), score_threshold)
    load_strict(net, read_state_dict(files["weights"]), "img2pose")
    return net.eval().requires_grad_(False)


def build_pose_from_detector(files: Mapping[str, Path]) -> PoseFromDetector:  # noqa: ARG001 (it has no files)
    """The pose slot's part of img2pose: the face model has the poses already."""
    return PoseFromDetector()


def read_config(path: Path | str) -> Img2PoseConfig:
    """The published config.json.

    Raises:
        MissingWeightsError: there is no such file.
        WeightsError: it is not a JSON object, or entries are missing or malformed; the message names all of them.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingWeightsError(f"no configuration of img2pose at {path}")
    try:
        return Img2PoseConfig.model_validate_json(path.read_text())
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise WeightsError(f"{path}: not a configuration of img2pose: {wrong}") from error
