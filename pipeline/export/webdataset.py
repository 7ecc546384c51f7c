"""Tar shards of aligned crops for WebDataset, and the alignment of a crop.

It works clip by clip: in memory are the rows of one clip.
"""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.export.datasets import Progress
from pipeline.geometry import ARCFACE_POINTS
from pipeline.report import frames
from pipeline.storage.output import open_output
from pipeline.tables.clip_reader import ClipReader, choose_clips

_CROP_SIDE = 112


def export_webdataset(
    out: str,
    to: str,
    clips: Sequence[str] = (),
    every: int = 1,
    per_shard: int = 10_000,
    options: Mapping[str, Any] | None = None,
    subject: bool = False,
) -> Progress:
    """Write aligned crops with their labels as WebDataset tar shards.

    A sample is `<clip_id>_<frame>_<face>.jpg`, 112 px, eyes and mouth at ArcFace's places (from the landmarks, else
    from the detector's points, else the box with its surroundings), and `.json` with the numbers of all small slots.

    Args:
        out: output folder, any fsspec URI.
        to: local folder.
        clips: ids, keys or uris; none: all done clips.
        every: only frames 0, k, 2k, ... of each video.
        per_shard: samples of a tar.
        options: for fsspec.
        subject: only faces of the clips' subjects.

    Yields:
        (tar, samples in it so far) after each clip.

    Raises:
        OutputError, ConfigError: as `export_coco`.
        ClipError: a video cannot be read.
    """
    tables = ClipReader(open_output(out, options), subject)
    slots = [slot for slot in tables.slots if slot not in ("face", "embeddings")]
    Path(to).mkdir(parents=True, exist_ok=True)
    number, inside = 0, 0
    name = f"{to.rstrip('/')}/faces-{number:05d}.tar"
    tar = tarfile.open(name, "w")  # noqa: SIM115  (shards follow each other)
    try:
        for clip in choose_clips(tables.clips(), clips):
            by_frame: dict[int, list[dict[str, Any]]] = {}
            for face in tables.faces(clip, slots).drop_columns("track_id").to_pylist():
                if face["frame"] % every == 0:
                    by_frame.setdefault(face["frame"], []).append(face)
            for frame, picture in frames.read_frames(clip, by_frame, options) if by_frame else ():
                for face in by_frame[frame]:
                    crop = aligned_crop(picture, face)
                    if crop is None:
                        continue
                    if inside == per_shard:
                        tar.close()
                        number, inside = number + 1, 0
                        name = f"{to.rstrip('/')}/faces-{number:05d}.tar"
                        tar = tarfile.open(name, "w")  # noqa: SIM115
                    key = f"{face['clip_id']}_{frame:08d}_{face['face']:03d}"
                    _add(tar, f"{key}.jpg", frames.to_jpeg(crop, 92))
                    _add(tar, f"{key}.json", json.dumps({**face, "key": clip["key"]}).encode())
                    inside += 1
            yield name, inside
    finally:
        tar.close()


def aligned_crop(frame_HW3: np.ndarray, face: Mapping[str, Any]) -> Image.Image | None:
    """A face turned and scaled so that eyes, nose and mouth lie at ArcFace's places, 112 px; None without extent."""
    points = face.get("landmarks")
    five = face.get("points5")
    if points is not None:  # the reference's five of the 68: eye centers, nose tip, mouth corners
        all_K2 = np.reshape(points, (-1, 2))
        five = [all_K2[36:42].mean(axis=0), all_K2[42:48].mean(axis=0), all_K2[30], all_K2[48], all_K2[54]]
    points_K2 = None if five is None else np.reshape(np.asarray(five, np.float64), (5, 2))
    if points_K2 is None or not np.isfinite(points_K2).all() or np.ptp(points_K2, axis=0).min() <= 0:
        box = tuple(face[f"box_{corner}"] for corner in ("x1", "y1", "x2", "y2"))
        return frames.cut_face(frame_HW3, box, _CROP_SIDE)  # type: ignore[arg-type]
    inverse = np.linalg.inv(np.vstack([_similarity(points_K2, np.array(ARCFACE_POINTS)), [0, 0, 1]]))
    size = (_CROP_SIDE, _CROP_SIDE)
    affine = Image.Transform.AFFINE
    return Image.fromarray(frame_HW3).transform(size, affine, tuple(inverse[:2].ravel()), Image.Resampling.BILINEAR)


def _similarity(from_K2: np.ndarray, to_K2: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift that bring points to others with the least squared error (Umeyama 1991); (2, 3)."""
    mean_from, mean_to = from_K2.mean(axis=0), to_K2.mean(axis=0)
    centered, target = from_K2 - mean_from, to_K2 - mean_to
    # in complex numbers a similarity is one factor
    a, b = centered[:, 0] + 1j * centered[:, 1], target[:, 0] + 1j * target[:, 1]
    factor = (np.conj(a) @ b) / (np.conj(a) @ a).real
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.hstack([linear, (mean_to - linear @ mean_from)[:, None]])


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
