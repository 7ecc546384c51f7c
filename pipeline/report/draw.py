"""Boxes, landmarks, head pose, gaze and names, drawn on frames for people to look at."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_COLORS = ("#4fa3ff", "#ff9d2e", "#4cd06a", "#ff5f5f", "#b98cff", "#d9a679", "#ff7fd0", "#e8e84a")
_NOBODY = "#c8c8c8"  # of a face whose track is in no identity
_AXES = ("#ff4040", "#40d040", "#4080ff")  # the subject's x, y and z
_GAZE = "#ffff40"


def draw_faces(
    frame_HW3: np.ndarray, faces: Sequence[Mapping[str, Any]], names: Mapping[str | None, str]
) -> np.ndarray:
    """Draw the faces of a frame.

    Args:
        frame_HW3: uint8 RGB.
        faces: per face the columns of its slots and `identity_id`; slots that are missing, null or NaN are not drawn.
        names: identity_id -> what is written above the box.

    Returns:
        uint8 RGB (H, W, 3), a copy.
    """
    image = Image.fromarray(frame_HW3)
    pen = ImageDraw.Draw(image)
    order = {identity: i for i, identity in enumerate(names)}
    for face in faces:
        box = [face[f"box_{corner}"] for corner in ("x1", "y1", "x2", "y2")]
        if not _known(*box) or box[2] < box[0] or box[3] < box[1]:
            continue
        identity = face.get("identity_id")
        color = _NOBODY if identity is None else _COLORS[order.get(identity, 0) % len(_COLORS)]
        side = max(box[2] - box[0], box[3] - box[1])
        line = max(1, round(side / 80))
        pen.rectangle(box, outline=color, width=line)
        _draw_landmarks(pen, face.get("landmarks"), max(1.0, side / 120), color)
        _draw_pose(pen, face, box, side / 2, line)
        _draw_gaze(pen, face, box, side / 2, line)
        _write_name(pen, names.get(identity, "?") if identity else "?", box, side, color)
    return np.asarray(image)


def pose_axes(pitch: float, roll: float, yaw: float) -> np.ndarray:
    """The head's axes in the picture: to the subject's left, down the face, and out of it.

    The signs are those of `pipeline/schema.py`: pitch + up, yaw + to the subject's right, roll + tilt to the subject's
    right; rotations about the picture's x, y and z axes, applied in the order roll, pitch, yaw.

    Returns:
        float64 (3, 2): x to the right and y down of the picture, of unit vectors; a frontal head gives
        (1, 0), (0, 1), (0, 0).
    """
    # the subject's right is the picture's left: the axis out of the face goes to -x with yaw, and to -y with pitch
    sin, cos = np.sin([pitch, roll, yaw]), np.cos([pitch, roll, yaw])
    # in x right, y down, z away from the camera; out of the face is -z
    about_z = np.array([[cos[1], sin[1], 0], [-sin[1], cos[1], 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, cos[0], sin[0]], [0, -sin[0], cos[0]]])
    about_y = np.array([[cos[2], 0, sin[2]], [0, 1, 0], [-sin[2], 0, cos[2]]])
    rotation = about_y @ about_x @ about_z
    return (rotation @ np.diag([1.0, 1.0, -1.0])).T[:, :2]


def gaze_direction(pitch: float, yaw: float) -> tuple[float, float]:
    """Where a line of sight points in the picture, as a part of its length: x to the right, y down.

    pitch + up, yaw + to the subject's left, which is the picture's right.
    """
    return math.cos(pitch) * math.sin(yaw), -math.sin(pitch)


def _known(*values: float | None) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def _draw_landmarks(pen: ImageDraw.ImageDraw, points: Sequence[float] | None, radius: float, color: str) -> None:
    if points is None or not _known(*points):
        return
    for x, y in zip(points[::2], points[1::2], strict=True):
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=color)


def _draw_pose(
    pen: ImageDraw.ImageDraw, face: Mapping[str, Any], box: Sequence[float], length: float, line: int
) -> None:
    angles = [face.get(f"pose_{name}") for name in ("pitch", "roll", "yaw")]
    if not _known(*angles):
        return
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    for (dx, dy), color in zip(pose_axes(*angles), _AXES, strict=True):  # type: ignore[arg-type]
        pen.line([x, y, x + length * dx, y + length * dy], fill=color, width=line)


def _draw_gaze(
    pen: ImageDraw.ImageDraw, face: Mapping[str, Any], box: Sequence[float], length: float, line: int
) -> None:
    pitch, yaw = face.get("gaze_pitch"), face.get("gaze_yaw")
    if pitch is None or yaw is None or not _known(pitch, yaw):
        return
    dx, dy = gaze_direction(pitch, yaw)
    points = face.get("landmarks")
    starts = [((box[0] + box[2]) / 2, box[1] + 0.4 * (box[3] - box[1]))]
    if points is not None and _known(*points):  # the eyes are points 36 to 41 and 42 to 47
        eyes = np.reshape(points, (-1, 2))
        starts = [tuple(eyes[36:42].mean(axis=0)), tuple(eyes[42:48].mean(axis=0))]
    for x, y in starts:
        pen.line([x, y, x + length * dx, y + length * dy], fill=_GAZE, width=line)


def _write_name(pen: ImageDraw.ImageDraw, name: str, box: Sequence[float], side: float, color: str) -> None:
    font = ImageFont.load_default(size=min(max(side / 7, 10), 40))
    left, top, right, bottom = pen.textbbox((0, 0), name, font=font)
    y = max(0.0, box[1] - (bottom - top) - 4)
    pen.rectangle([box[0], y, box[0] + right - left + 4, y + bottom - top + 4], fill="black")
    pen.text((box[0] + 2 - left, y + 2 - top), name, fill=color, font=font)
