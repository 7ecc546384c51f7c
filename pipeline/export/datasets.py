"""The tables as data sets of other tools: COCO-style JSON, WebDataset shards of crops, a Hugging Face folder.

Each goes clip by clip: in memory are the rows of one clip, and of COCO one line of text per face.
"""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import schema
from pipeline.errors import OutputError
from pipeline.export.dataset_card import data_card
from pipeline.report import frames
from pipeline.tables.clip_reader import ClipTables, choose_clips, name_of
from pipeline.tables.parquet import open_output

_CROP_SIDE = 112
#: eye centres, nose tip, mouth corners of an aligned 112-pixel crop (Deng et al., ArcFace, 2019), as in
#: actors/ops/crops.py
_TEMPLATE_K2 = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041)]
)
_LANDMARK_NAMES = [
    f"{part}_{i}" for part, n in (("jaw", 17), ("brow", 10), ("nose", 9), ("eye", 12), ("mouth", 20)) for i in range(n)
]
Progress = Iterator[tuple[str, int]]


def export_coco(out: str, to: str, clips: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Progress:
    """Write boxes and landmarks as COCO JSON: an image per frame with faces, an annotation per face.

    `file_name` is `<clip key>/<frame, six digits>.jpg`: the frames are not written. `bbox` is x, y, width, height in
    pixels of the frame; `keypoints` are the 68 landmarks with visibility 2, or 0 where there are none.
    `attributes` of an annotation hold identity_id, clip_id, frame, face, time.

    Yields:
        (file, annotations so far) after each clip.

    Raises:
        OutputError: `out` holds no tables, or the file cannot be written.
        ConfigError: no such clip.
    """
    tables = ClipTables(open_output(out, options))
    category = {"id": 1, "name": "face", "supercategory": "person", "keypoints": _LANDMARK_NAMES, "skeleton": []}
    images, count = 0, 0
    _make_parent(to)
    annotations = io.StringIO()  # COCO wants all images before or after all annotations, in one object
    with open(to, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(json.dumps({"info": _info(out), "licenses": [], "categories": [category]})[:-1] + ', "images": [')
        for clip in choose_clips(tables.clips(), clips):
            image_of: dict[int, int] = {}
            for face in tables.faces(clip, ("landmarks",)):
                if face["frame"] not in image_of:
                    images += 1
                    image_of[face["frame"]] = images
                    name = f"{name_of(clip)}/{face['frame']:06d}.jpg"
                    image = {"id": images, "file_name": name, "width": clip["width"], "height": clip["height"]}
                    file.write((",\n" if images > 1 else "\n") + json.dumps(image))
                count += 1
                line = _annotation(count, image_of[face["frame"]], face)
                annotations.write((",\n" if count > 1 else "\n") + json.dumps(line))
            yield to, count
        file.write('\n], "annotations": [' + annotations.getvalue() + "\n]}\n")


def _annotation(number: int, image: int, face: Mapping[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(face[f"box_{corner}"]) for corner in ("x1", "y1", "x2", "y2"))
    points = face.get("landmarks")
    keypoints = [0.0] * 204
    if points is not None:
        for i, (x, y) in enumerate(zip(points[::2], points[1::2], strict=True)):
            keypoints[3 * i : 3 * i + 3] = [round(float(x), 2), round(float(y), 2), 2]
    attributes = {name: face[name] for name in ("identity_id", "clip_id", "frame", "face", "time")}
    return {
        "id": number,
        "image_id": image,
        "category_id": 1,
        "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
        "area": round((x2 - x1) * (y2 - y1), 2),
        "iscrowd": 0,
        "score": face["score"],
        "num_keypoints": 68 if points is not None else 0,
        "keypoints": keypoints,
        "attributes": attributes,
    }


def export_webdataset(
    out: str,
    to: str,
    clips: Sequence[str] = (),
    every: int = 1,
    per_shard: int = 10_000,
    options: Mapping[str, Any] | None = None,
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

    Yields:
        (tar, samples in it so far) after each clip.

    Raises:
        OutputError, ConfigError: as `export_coco`.
        ClipError: a video cannot be read.
    """
    tables = ClipTables(open_output(out, options))
    slots = [slot for slot in tables.slots if slot not in ("face", "embeddings")]
    Path(to).mkdir(parents=True, exist_ok=True)
    number, inside = 0, 0
    name = f"{to.rstrip('/')}/faces-{number:05d}.tar"
    tar = tarfile.open(name, "w")  # noqa: SIM115  (shards follow each other)
    try:
        for clip in choose_clips(tables.clips(), clips):
            by_frame: dict[int, list[dict[str, Any]]] = {}
            for face in tables.faces(clip, slots):
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
    if points is not None:  # the reference's five of the 68: eye centres, nose tip, mouth corners
        all_K2 = np.reshape(points, (-1, 2))
        five = [all_K2[36:42].mean(axis=0), all_K2[42:48].mean(axis=0), all_K2[30], all_K2[48], all_K2[54]]
    points_K2 = None if five is None else np.reshape(np.asarray(five, np.float64), (5, 2))
    if points_K2 is None or not np.isfinite(points_K2).all() or np.ptp(points_K2, axis=0).min() <= 0:
        box = tuple(face[f"box_{corner}"] for corner in ("x1", "y1", "x2", "y2"))
        return frames.cut_face(frame_HW3, box, _CROP_SIDE)  # type: ignore[arg-type]
    inverse = np.linalg.inv(np.vstack([_similarity(points_K2, _TEMPLATE_K2), [0, 0, 1]]))
    size = (_CROP_SIDE, _CROP_SIDE)
    affine = Image.Transform.AFFINE
    return Image.fromarray(frame_HW3).transform(size, affine, tuple(inverse[:2].ravel()), Image.Resampling.BILINEAR)


def _similarity(from_K2: np.ndarray, to_K2: np.ndarray) -> np.ndarray:
    """Rotation, scale and shift that bring points to others with the least squared error (Umeyama 1991); (2, 3)."""
    mean_from, mean_to = from_K2.mean(axis=0), to_K2.mean(axis=0)
    centred, target = from_K2 - mean_from, to_K2 - mean_to
    # in complex numbers a similarity is one factor
    a, b = centred[:, 0] + 1j * centred[:, 1], target[:, 0] + 1j * target[:, 1]
    factor = (np.conj(a) @ b) / (np.conj(a) @ a).real
    linear = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.hstack([linear, (mean_to - linear @ mean_from)[:, None]])


def export_hf(out: str, to: str, clips: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Progress:
    """Write a folder that `datasets.load_dataset` opens: a wide row per face as Parquet, and a data card.

    Yields:
        (Parquet file, its rows so far) after each clip.

    Raises:
        OutputError, ConfigError: as `export_coco`.
    """
    tables = ClipTables(open_output(out, options))
    wide = wide_schema(tables.slots)
    folder = Path(to)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    rows, total, found = 0, 0, 0
    shard, writer = None, None
    place = ""
    try:
        for clip in choose_clips(tables.clips(), clips):
            if clip["shard"] != shard:
                if writer is not None:
                    writer.close()
                shard = clip["shard"]
                place = str(folder / "data" / f"train-{found:05d}.parquet")
                writer, found = pq.ParquetWriter(place, wide, compression="zstd"), found + 1
                rows = 0
            table = pa.Table.from_pylist(
                [{**face, "key": clip["key"]} for face in tables.faces(clip, tables.slots[1:])], schema=wide
            )
            assert writer is not None
            writer.write_table(table)
            rows, total = rows + table.num_rows, total + table.num_rows
            yield place, rows
    finally:
        if writer is not None:
            writer.close()
    (folder / "README.md").write_text(data_card(tables, total, wide), encoding="utf-8")


def wide_schema(slots: Sequence[str]) -> pa.Schema:
    """One row per face: its key, the clip's name, the person, and the columns of some slots."""
    first = schema.slot_schema("face")
    names = [
        schema.field("key", pa.string(), "the user's name of the clip"),
        schema.field("identity_id", pa.string(), "the person; null: not clustered"),
    ]
    others = [column for slot in slots if slot != "face" for column in schema.SLOT_COLUMNS[slot]]
    return pa.schema([*first, *names, *others])


# -- shared -----------------------------------------------------------------------------------------------------------


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def _make_parent(to: str) -> None:
    if "://" in to:
        raise OutputError(f"this format is written to a local path, not to {to}")
    Path(to).parent.mkdir(parents=True, exist_ok=True)


def _info(out: str) -> dict[str, str]:
    return {"description": f"faces of the Faceatlas output {out}", "version": "1.0"}
