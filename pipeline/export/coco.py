"""Annotations in the form of COCO: one JSON file for boxes and key points.

It works clip by clip: in memory are the rows of one clip, and one line of text per face.
"""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import OutputError
from pipeline.export.datasets import Progress
from pipeline.storage.output import open_output
from pipeline.tables.clip_reader import ClipReader, choose_clips, name_of

_LANDMARK_NAMES = [
    f"{part}_{i}" for part, n in (("jaw", 17), ("brow", 10), ("nose", 9), ("eye", 12), ("mouth", 20)) for i in range(n)
]


def export_coco(
    out: str, to: str, clips: Sequence[str] = (), options: Mapping[str, Any] | None = None, subject: bool = False
) -> Progress:
    """Write boxes and landmarks as COCO JSON: an image per frame with faces, an annotation per face.

    `file_name` is `<clip key>/<frame, six digits>.jpg`: the frames are not written. `bbox` is x, y, width, height in
    pixels of the frame; `keypoints` are the 68 landmarks with visibility 2, or 0 where there are none.
    `attributes` of an annotation hold identity_id, clip_id, frame, face, time.

    With `subject`, only faces of the clips' subjects.

    Yields:
        (file, annotations so far) after each clip.

    Raises:
        OutputError: `out` holds no tables, or the file cannot be written.
        ConfigError: no such clip.
    """
    tables = ClipReader(open_output(out, options), subject)
    category = {"id": 1, "name": "face", "supercategory": "person", "keypoints": _LANDMARK_NAMES, "skeleton": []}
    images, count = 0, 0
    _make_parent(to)
    annotations = io.StringIO()  # COCO wants all images before or after all annotations, in one object
    with open(to, "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write(json.dumps({"info": _info(out), "licenses": [], "categories": [category]})[:-1] + ', "images": [')
        for clip in choose_clips(tables.clips(), clips):
            image_of: dict[int, int] = {}
            for face in tables.faces(clip, ("landmarks",)).to_pylist():
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


def _make_parent(to: str) -> None:
    if "://" in to:
        raise OutputError(f"this format is written to a local path, not to {to}")
    Path(to).parent.mkdir(parents=True, exist_ok=True)


def _info(out: str) -> dict[str, str]:
    return {"description": f"faces of the Faceatlas output {out}", "version": "1.0"}
