"""A clip's video with its annotations drawn on it."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pipeline.decode.clock import RAW_FPS
from pipeline.errors import ConfigError, OutputError
from pipeline.report.draw import draw_faces
from pipeline.report.frames import read_frames
from pipeline.storage.output import open_output
from pipeline.tables.clip_reader import ClipReader, choose_clips

_DRAWN = ("landmarks", "pose", "gaze")


def render_clip(
    out: str, clip: str, to: str, codec: str = "libx264", options: Mapping[str, Any] | None = None
) -> Iterator[int]:
    """Write a clip's frames with boxes, landmarks, pose axes, gaze and names.

    Frames that were not annotated (`--every`) show the faces of the annotated frame before them, up to the next one.
    The video plays at the clip's average rate; sound is left out.

    Args:
        out: output folder, any fsspec URI.
        clip: id, key or uri.
        to: a local .mp4 or .mkv file.
        codec: FFmpeg's name of an encoder.
        options: for fsspec.

    Yields:
        Frames written so far, after each.

    Raises:
        OutputError: `out` holds no tables, or `to` cannot be written.
        ConfigError: there is no such clip, or more than one.
        ClipError: the video cannot be read.
    """
    tables = ClipReader(open_output(out, options))
    found = choose_clips(tables.clips(), [clip])
    if len(found) > 1:
        ids = ", ".join(row["clip_id"] for row in found)
        raise ConfigError(f"{len(found)} clips are called {clip}; name one by its id: {ids}")
    row = found[0]
    faces_of = _faces_by_frame(tables, row)
    names = _names(tables, faces_of)
    step = _step(row, sorted(faces_of))
    shown, age = [], 0
    Path(to).parent.mkdir(parents=True, exist_ok=True)
    try:
        with av.open(to, "w") as container:
            stream: Any = None
            for written, (index, frame) in enumerate(read_frames(row, None, options), 1):
                age += 1
                if index in faces_of:
                    shown, age = faces_of[index], 0
                picture = draw_faces(frame, shown if age < step else [], names)
                if stream is None:
                    stream = _add_stream(container, codec, row["fps"], picture)
                container.mux(stream.encode(_even(picture, stream.width, stream.height)))
                yield written
            if stream is not None:
                container.mux(stream.encode(None))
    except (av.FFmpegError, OSError) as error:
        raise OutputError(f"cannot write {to}: {error}") from error


def _faces_by_frame(tables: ClipReader, clip: Mapping[str, Any]) -> dict[int, list[dict[str, Any]]]:
    """Frame -> its faces, with the columns of all drawn slots and `identity_id`."""
    by_frame: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for face in tables.faces(clip, _DRAWN).to_pylist():
        by_frame[face["frame"]].append(face)
    return dict(by_frame)


def _names(tables: ClipReader, faces_of: Mapping[int, Sequence[Mapping[str, Any]]]) -> dict[str | None, str]:
    """identity_id -> its name, or the first 8 digits of its id; in the order in which they appear."""
    known = tables.whole("identities", ["identity_id", "name"])
    given = dict(zip(known["identity_id"].to_pylist(), known["name"].to_pylist(), strict=True))
    seen = dict.fromkeys(face["identity_id"] for frame in sorted(faces_of) for face in faces_of[frame])
    return {identity: given.get(identity) or identity[:8] for identity in seen if identity is not None}


def _step(clip: Mapping[str, Any], frames: Sequence[int]) -> int:
    """Frames for which the faces of an annotated frame are shown: the distance to the next annotated one."""
    if clip["frames"] and clip["sampled"]:
        return max(1, -(-clip["frames"] // clip["sampled"]))
    return int(np.diff(frames).min()) if len(frames) > 1 else 1


def _add_stream(container: Any, codec: str, fps: float | None, picture: np.ndarray) -> Any:
    stream = container.add_stream(codec, rate=Fraction(fps or RAW_FPS).limit_denominator(1001))
    height, width = picture.shape[:2]
    stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
    return stream


def _even(picture: np.ndarray, width: int, height: int) -> av.VideoFrame:
    """A frame for the encoder, which wants even sides; one of another size is scaled."""
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    if (frame.width // 2 * 2, frame.height // 2 * 2) == (width, height):
        return av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[:height, :width]), format="rgb24")
    return frame.reformat(width=width, height=height, format="rgb24")
