"""Lists of clips in the text files of VoxCeleb and VoxCeleb2: a person's frames in a video, with a box in each."""

from collections.abc import Iterator
from typing import Any

from pipeline.config.models import Config
from pipeline.corpus.celebv import find_videos
from pipeline.errors import ManifestError
from pipeline.storage import fs as files

_FPS = 25  # the frames of both data sets are counted at this rate, whatever the video's own is


def is_voxceleb(uri: str, config: Config) -> bool:
    """Whether a text file begins as those of VoxCeleb do."""
    with files.open_bytes(uri, config.storage.options) as file:
        return file.read(200).lstrip(b"\xef\xbb\xbf\r\n\t ").startswith(b"Identity")


def read_voxceleb(uri: str, config: Config) -> list[dict[str, Any]]:
    """Read a text file of VoxCeleb2 (or several, one after the other) over a folder of videos.

    Each begins with lines `Identity :`, `Reference :` (the video's name) and others, followed by a table of FRAME, X,
    Y, W and H. The clip is the time from the first to behind the last frame; its box is what holds all boxes.

    Args:
        uri: full URI of the text file.
        config: `sources.videos` (default: the file's folder), `sources.clips_per_shard`, `storage.options` are used.

    Returns:
        Rows of `schema.CLIP`; the key is identity, video and place in the file.

    Raises:
        ManifestError: not such a file; the message names the line.
        ConfigError: the folder of videos does not exist.
    """
    folder, videos = find_videos(uri, config)
    prefix = files.shard_name(files.without_suffix(files.base_name(uri)), uri)
    with files.open_bytes(uri, config.storage.options) as file:
        try:
            text = file.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ManifestError(f"{uri}: not UTF-8 text ({error.reason} at byte {error.start})") from error
    clips = []
    for number, (fields, frames, boxes, place) in enumerate(_sections(uri, text)):
        name = fields.get("Reference", "")
        if not name or "/" in name:
            raise ManifestError(f"{place}: 'Reference' must be the name of a video, found {name!r}")
        info = videos.get(name)
        video = info["uri"] if info else f"{folder.rstrip('/')}/{name}.mp4"
        start_s, end_s = min(frames) / _FPS, (max(frames) + 1) / _FPS
        left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
        right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
        clips.append(
            {
                "clip_id": files.clip_id(video, None, start_s, end_s),
                "uri": video,
                "member": None,
                "offset": None,
                "size": info and info.get("size"),
                "start_s": start_s,
                "end_s": end_s,
                "shard": f"{prefix}-{number // config.sources.clips_per_shard:05d}",
                "key": f"{fields.get('Identity', 'unknown')}/{name}/{number:05d}",
                "fingerprint": info and files.fingerprint(info),
                "bbox": [left, top, right, bottom],
            }
        )
    return clips


_Section = tuple[dict[str, str], list[int], list[list[float]], str]


def _sections(uri: str, text: str) -> Iterator[_Section]:
    """Of each clip: its fields, frames, boxes (x, y, width, height), and its place for messages."""
    fields: dict[str, str] = {}
    frames: list[int] = []
    boxes: list[list[float]] = []
    place = f"{uri}, line 1"
    for number, line in enumerate(text.splitlines(), start=1):
        here = f"{uri}, line {number}"
        if ":" in line:
            if frames:
                yield fields, frames, boxes, place
                fields, frames, boxes, place = {}, [], [], here
            name, _, value = line.partition(":")
            fields[name.strip()] = value.strip()
        elif line.strip() and not line.upper().startswith("FRAME"):
            values = line.split()
            try:
                frame, box = int(values[0]), [float(value) for value in values[1:5]]
            except ValueError as error:
                raise ManifestError(f"{here}: must be FRAME X Y W H, found {line.strip()!r}") from error
            if len(box) < 4 or frame < 0:
                raise ManifestError(f"{here}: must be FRAME X Y W H, found {line.strip()!r}")
            frames.append(frame)
            boxes.append(box)
    if not frames:
        raise ManifestError(f"{place}: not a list of VoxCeleb, no line of FRAME X Y W H follows")
    yield fields, frames, boxes, place
