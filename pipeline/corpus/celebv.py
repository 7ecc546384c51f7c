"""Lists of clips in the JSON of CelebV-HQ and CelebV-Text."""

import json
from collections.abc import Mapping
from typing import Any

from pipeline.config.models import Config
from pipeline.corpus.manifests import SUFFIXES, seconds_of
from pipeline.errors import ConfigError, ManifestError
from pipeline.storage import fs as files


def read_celebv(uri: str, config: Config) -> list[dict[str, Any]]:
    """Read the JSON of CelebV-HQ or CelebV-Text over a folder of videos.

    A video named like the clip is the clip, already cut and cropped (so it has neither a time range nor a box); else
    the clip is a time range of the video named like its `ytb_id`. Where neither is there, the clip keeps its row, with
    a null fingerprint.

    Args:
        uri: full URI of the JSON.
        config: `sources.videos` (default: the JSON's folder), `sources.clips_per_shard`, `storage.options` are used.

    Returns:
        Rows of `schema.CLIP`, in the order of the JSON; the key is the clip's id.

    Raises:
        ManifestError: not such a JSON; the message names the clip and the field.
        ConfigError: the folder of videos does not exist.
    """
    options = config.storage.options
    folder = files.normalise_uri(config.sources.videos) if config.sources.videos else files.parent_uri(uri)
    fs, path = files.open_fs(folder, options)
    if not fs.isdir(path):
        raise ConfigError(f"the folder {folder} of the videos of {uri} does not exist; set sources.videos")
    videos: dict[str, dict[str, Any]] = {}
    for found in files.list_storage(folder, options):
        if files.is_media(found.name):
            videos.setdefault(files.without_suffix(files.base_name(found.name)), {**found.info, "uri": found.uri})
    prefix = files.shard_name(files.without_suffix(files.base_name(uri)), uri)
    clips = []
    for number, (key, entry) in enumerate(_celebv_entries(uri, options).items()):
        ytb_id, start_s, end_s, bbox = _parse_celebv(entry, f"{uri}, clip {key!r}")
        info = videos.get(key)
        if info is not None:
            start_s = end_s = bbox = None
        else:
            info = videos.get(ytb_id)
        video = info["uri"] if info else f"{folder.rstrip('/')}/{ytb_id}.mp4"
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
                "key": key,
                "fingerprint": info and files.fingerprint(info),
                "bbox": bbox,
            }
        )
    return clips


def _celebv_entries(uri: str, storage_options: Mapping[str, Any]) -> dict[str, Any]:
    with files.open_bytes(uri, storage_options) as file:
        try:
            content = json.load(file)
        except ValueError as error:
            raise ManifestError(f"{uri}: not JSON: {error}") from error
    clips = content.get("clips") if isinstance(content, dict) else None
    if not isinstance(clips, dict):
        raise ManifestError(f"{uri}: not a CelebV JSON, it has no object 'clips'; other lists: {', '.join(SUFFIXES)}")
    return clips


def _parse_celebv(entry: Any, place: str) -> tuple[str, float | None, float | None, list[float] | None]:
    """(ytb_id, start_s, end_s, [left, top, right, bottom] in fractions) of one checked clip."""
    if not isinstance(entry, dict) or not isinstance(entry.get("ytb_id"), str) or not entry["ytb_id"]:
        raise ManifestError(f"{place}, column 'ytb_id': missing")
    if "/" in entry["ytb_id"]:  # it becomes the name of a file in the folder of videos
        raise ManifestError(f"{place}, column 'ytb_id': not a name: {entry['ytb_id']!r}")
    duration, box = entry.get("duration"), entry.get("bbox")
    if not isinstance(duration, dict):
        raise ManifestError(f"{place}, column 'duration': must hold start_sec and end_sec")
    start_s, end_s = (seconds_of(duration.get(name), f"duration.{name}", place) for name in ("start_sec", "end_sec"))
    if start_s is None or end_s is None or end_s <= start_s:
        raise ManifestError(f"{place}, column 'duration': end_sec={end_s} is not after start_sec={start_s}")
    try:
        bbox = None if box is None else [float(box[side]) for side in ("left", "top", "right", "bottom")]
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{place}, column 'bbox': must hold left, top, right, bottom; found {box!r}") from error
    return entry["ytb_id"], start_s, end_s, bbox
