"""Evaluation of `tiny` on held-out material: the figures of docs/tiny.md."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torchvision.ops import box_iou

from actors.models.retinaface import RetinaFace
from actors.ops.crops import align_faces, crop_boxes, crop_faces, five_points, landmarks_to_frame
from jobs.training.faces import Faces
from jobs.training.material import Scene, read_pairs
from jobs.training.teachers import Teachers

LEAST_SIDE = 40  # px, faces that count for recall
PRECISION = 0.98


@dataclass(frozen=True)
class Tiny:
    """The networks of the bundle, as the pipeline builds them."""

    face: RetinaFace
    landmarks: nn.Module
    pose: nn.Module
    emotions: nn.Module
    gaze: nn.Module
    embeddings: nn.Module


@dataclass(frozen=True)
class FoundFaces:
    """Faces that a detector found in one picture, down to very low scores."""

    boxes_N4: Tensor
    scores_N: Tensor
    points_N52: Tensor


def find(net: RetinaFace, rgb_HWC: np.ndarray, threshold: float = 0.02) -> FoundFaces:
    """Run a detector on one picture with another threshold than its own."""
    usual, net.score_threshold = net.score_threshold, threshold
    try:
        faces = net.detect(torch.from_numpy(rgb_HWC.copy()).permute(2, 0, 1)[None])
    finally:
        net.score_threshold = usual
    if faces.points_N52 is None:
        raise ValueError("a detector with five points is needed")
    return FoundFaces(faces.boxes_N4, faces.scores_N, faces.points_N52)


def measure_faces(pairs: Sequence[tuple[FoundFaces, FoundFaces]], threshold: float) -> dict[str, float]:
    """Recall and precision against the teacher at an IoU of 0.5.

    Args:
        pairs: per picture what the teacher found (its own threshold) and what the student found (a low one).
        threshold: the student's own, for the figures `at the default threshold`.

    A face of the teacher counts if its shorter side has LEAST_SIDE pixels; a find on a smaller or doubtful one is
    neither right nor wrong.
    """
    scores, right, count = [], [], 0
    for teacher, student in pairs:
        sure = teacher.scores_N >= 0.5
        side_N = (teacher.boxes_N4[:, 2:] - teacher.boxes_N4[:, :2]).min(1).values if len(sure) else torch.empty(0)
        counts = sure & (side_N >= LEAST_SIDE)
        count += int(counts.sum())
        taken = torch.zeros(len(counts), dtype=torch.bool)
        iou = box_iou(student.boxes_N4, teacher.boxes_N4)
        for row in range(len(student.boxes_N4)):  # in falling score
            if len(counts) and iou[row].max() >= 0.5:
                near = int(iou[row].masked_fill(taken, 0).argmax())
                if not counts[near]:
                    continue
                right.append(bool(iou[row, near] >= 0.5 and not taken[near]))
                taken[near] |= right[-1]
            else:
                side = (student.boxes_N4[row, 2:] - student.boxes_N4[row, :2]).min()
                if side < LEAST_SIDE:
                    continue
                right.append(False)
            scores.append(float(student.scores_N[row]))
    order = np.argsort(-np.array(scores))
    hit = np.array(right)[order].cumsum()
    precision, recall = hit / np.arange(1, len(hit) + 1), hit / count
    good = np.flatnonzero(precision >= PRECISION)
    at = int((np.array(scores) >= threshold).sum()) - 1
    return {
        "faces": count,
        "recall at precision 0.98": float(recall[good[-1]]) if len(good) else 0.0,
        "score there": float(np.array(scores)[order][good[-1]]) if len(good) else 1.0,
        "recall at the default threshold": float(recall[at]) if at >= 0 else 0.0,
        "precision at the default threshold": float(precision[at]) if at >= 0 else 1.0,
    }


def read_dlib(data: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Of each dlib picture: its name, the labelled boxes (N, 4), and 68 points (N, 68, 2); 43 faces in all."""
    folder = data / "images" / "dlib_faces_68gt"
    for part in ("training", "testing"):
        for image in ElementTree.parse(folder / f"{part}_with_face_landmarks.xml").iter("image"):
            boxes, points = [], []
            for box in image.iter("box"):
                left, top, width, height = (float(box.attrib[key]) for key in ("left", "top", "width", "height"))
                boxes.append([left, top, left + width, top + height])
                by_name = {p.attrib["name"]: (float(p.attrib["x"]), float(p.attrib["y"])) for p in box.iter("part")}
                points.append([by_name[f"{i:02d}"] for i in range(68)])
            yield image.attrib["file"], np.array(boxes), np.array(points)


def landmarks_of(net: nn.Module, rgb_HWC: np.ndarray, boxes_N4: Tensor) -> Tensor:
    """68 points (N, 68, 2) in pixels of the picture, as the pipeline finds them."""
    frames = torch.from_numpy(rgb_HWC.copy()).permute(2, 0, 1)[None]
    crops = crop_faces(frames, torch.zeros(len(boxes_N4), dtype=torch.int64), boxes_N4, size=112, expand=1.2)
    return landmarks_to_frame(net(crops), crop_boxes(boxes_N4, 1.2))


def landmark_error(found_NK2: Tensor, truth_NK2: Tensor) -> Tensor:
    """Mean distance of the 68 points, in units of the distance of the eyes' centers: (N,)."""
    five = five_points(truth_NK2)
    return (found_NK2 - truth_NK2).norm(dim=2).mean(1) / (five[:, 1] - five[:, 0]).norm(dim=1)


@torch.inference_mode()
def measure_dlib(tiny: Tiny, teachers: Teachers, data: Path) -> dict[str, float]:
    """Boxes found out of 43, false ones, and the landmark error on those found, ours and the teacher's."""
    from PIL import Image

    found = false = total = 0
    errors, teacher_errors = [], []
    for name, boxes, points in read_dlib(data):
        with Image.open(data / "images" / "dlib_faces_68gt" / name) as image:
            rgb = np.asarray(image.convert("RGB"))
        faces = find(tiny.face, rgb, tiny.face.score_threshold)
        # dlib's boxes are squares from the eyebrows to the chin, RetinaFace's are taller: a lower overlap counts
        iou = box_iou(torch.from_numpy(boxes).float(), faces.boxes_N4)
        total += len(boxes)
        hit = iou.max(1).values >= 0.35 if len(faces.boxes_N4) else torch.zeros(len(boxes), dtype=torch.bool)
        found += int(hit.sum())
        false += int((iou.max(0).values < 0.35).sum()) if len(faces.boxes_N4) else 0
        if hit.any():
            chosen, truth = faces.boxes_N4[iou.argmax(1)[hit]], torch.from_numpy(points).float()[hit]
            errors.append(landmark_error(landmarks_of(tiny.landmarks, rgb, chosen), truth))
            teacher_errors.append(landmark_error(landmarks_of(teachers.landmarks, rgb, chosen), truth))
    return {
        "boxes": total,
        "found": found,
        "others": false,
        "landmark error": float(torch.cat(errors).mean()),
        "the teacher's": float(torch.cat(teacher_errors).mean()),
    }


@torch.inference_mode()
def measure_traits(tiny: Tiny, faces: Faces) -> dict[str, float]:
    """Differences to the teachers on cut-outs that were kept out."""
    rows = np.flatnonzero(faces.held)
    crops = torch.cat(
        [
            crop_faces(faces.crops_NCHW[[row]], torch.zeros(1, dtype=torch.int64), faces.boxes_N4[[row]], 112, 1.2)
            for row in rows
        ]
    )
    pose = (tiny.pose(crops)[:, :3] - faces.pose_N3[rows]).abs().rad2deg()
    gaze = gaze_vector(tiny.gaze(crops))
    angle = F.cosine_similarity(gaze, faces.gaze_N3[rows]).clamp(-1, 1).acos().rad2deg()
    same = tiny.emotions(crops).argmax(1) == faces.emotions_N7[rows].argmax(1)
    pictures = np.array(["#" not in faces.names[row] for row in rows])
    return {
        "faces": len(rows),
        **{name: float(pose[:, i].mean()) for i, name in enumerate(("pitch, deg", "roll, deg", "yaw, deg"))},
        "pose, deg": float(pose.mean()),
        "gaze, deg": float(angle.mean()),
        "same emotion": float(same.float().mean()),
        "same emotion, pictures": float(same[pictures].float().mean()),
        "pose, deg, pictures": float(pose[pictures].mean()),
        "gaze, deg, pictures": float(angle[pictures].mean()),
    }


def gaze_vector(gaze_N3: Tensor) -> Tensor:
    """Unit vectors of pitch and yaw as the table holds them; x to the picture's right, y up, z away from the camera."""
    pitch, yaw = gaze_N3[:, 0], gaze_N3[:, 1]
    return torch.stack([pitch.cos() * yaw.sin(), pitch.sin(), -pitch.cos() * yaw.cos()], 1)


def identity_of_picture(name: str) -> str | None:
    """The person of a picture of `face_recognition_knn`, by its folder; None: not known."""
    parts = name.split("/")
    return parts[3] if "face_recognition_knn" in parts and parts[2] == "train" else None


@torch.inference_mode()
def embed_pictures(net: nn.Module, faces: Faces) -> dict[str, Tensor]:
    """Unit embedding of the largest kept-out face of each picture."""
    best: dict[str, tuple[float, int]] = {}
    for row in np.flatnonzero(faces.held):
        if "#" not in faces.names[row]:
            # every cut-out has the same size, so the face whose box is nearest to the middle of a picture is not known;
            # pictures of the pairs show one person
            best.setdefault(faces.names[row], (0.0, int(row)))
    rows = [row for _, row in best.values()]
    crops = align_faces(faces.crops_NCHW[rows], torch.arange(len(rows)), faces.points_N52[rows])
    return dict(zip(best, F.normalize(net(crops)), strict=True))


def measure_pairs(embeddings: dict[str, Tensor], data: Path) -> dict[str, float]:
    """AUC of same against different person over pairs of pictures that were kept out."""
    by_file = {name.split("/")[-1]: vector for name, vector in embeddings.items() if "deepface_pairs" in name}
    labels, cosines = [], []
    for first, second, same in read_pairs(data):
        if first in by_file and second in by_file:
            labels.append(same)
            cosines.append(float(by_file[first] @ by_file[second]))
    known = [(identity_of_picture(name), vector) for name, vector in embeddings.items() if identity_of_picture(name)]
    for index, (person, vector) in enumerate(known):
        for other, another in known[index + 1 :]:
            labels.append(person == other)
            cosines.append(float(vector @ another))
    same_P, values = np.array(labels), np.array(cosines)
    return {
        "pairs": len(same_P),
        "of one person": int(same_P.sum()),
        "AUC": float(roc_auc_score(same_P, values)),
        "mean cosine, same": float(values[same_P].mean()),
        "lowest cosine, same": float(values[same_P].min()),
        "mean cosine, different": float(values[~same_P].mean()),
        "highest cosine, different": float(values[~same_P].max()),
    }


def scenes_without_faces(pairs: Sequence[tuple[Scene, FoundFaces, FoundFaces]], threshold: float) -> tuple[int, int]:
    """Number of scenes in which the teacher sees nothing, and of those in which the student finds a face."""
    empty = [(student.scores_N >= threshold).any() for _, teacher, student in pairs if len(teacher.scores_N) == 0]
    return len(empty), int(sum(empty))
