"""Lists of clips in the JSON of CelebV-HQ and CelebV-Text."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.config.models import Config
from pipeline.corpus.manifests import SUFFIXES, read_seconds
from pipeline.errors import ConfigError, ManifestError
from pipeline.storage import fs as files


def read_celebv(uri: str, config: Config) -> list[dict[str, Any]]:
    """Read the JSON of CelebV-HQ or CelebV-Text over a folder of videos.

    A video named like the clip is the clip, already cut and cropped (so it has neither a time range nor a box); else
    the clip is a time range of the video named like its `ytb_id`. Where neither is there, the clip keeps its row, with
    a null fingerprint. A clip whose range or box cannot be read keeps its row too, with a `problem` that names file and
    line: it alone is quarantined.

    Args:
        uri: full URI of the JSON.
        config: `sources.videos` (default: the JSON's folder), `sources.clips_per_shard`, `storage.options` are used.

    Returns:
        Rows of `schema.CLIP`, in the order of the JSON; the key is the clip's id.

    Raises:
        ManifestError: not such a JSON, or a clip without the name of its video.
        ConfigError: the folder of videos does not exist.
    """
    options = config.storage.options
    folder, videos = find_videos(uri, config)
    prefix = files.shard_name(files.without_suffix(files.base_name(uri)), uri)
    text, entries = _celebv_entries(uri, options)
    clips = []
    for number, (key, entry) in enumerate(entries.items()):
        ytb_id = _ytb_id(entry, f"{uri}, clip {key!r}")
        cut, full = videos.get(key), videos.get(ytb_id)
        info = cut if cut and not (cut["sound"] and full and not full["sound"]) else full
        video = info["uri"] if info else f"{folder.rstrip('/')}/{ytb_id}.mp4"
        given: dict[str, Any] = {}
        if info is None or info is not cut:
            try:
                given = _parse_celebv(entry, f"clip {key!r}")
            except ManifestError as error:
                given = {"problem": f"{uri}, line {_line_of(text, key)}, {error}"}
        named = [key] if "problem" in given else [given[name] for name in ("start_frame", "end_frame") if name in given]
        clips.append(
            {
                "clip_id": files.clip_id(video, None, given.get("start_s"), given.get("end_s"), *named),
                "uri": video,
                "member": None,
                "offset": None,
                "size": info and info.get("size"),
                "start_s": None,
                "end_s": None,
                "shard": f"{prefix}-{number // config.sources.clips_per_shard:05d}",
                "key": key,
                "fingerprint": info and files.fingerprint(info),
                "bbox": None,
                **given,
            }
        )
    return clips


def find_videos(uri: str, config: Config) -> tuple[str, dict[str, dict[str, Any]]]:
    """The folder of the videos that a list names, and name without suffix -> fsspec's info, `uri` and `sound`.

    Raises:
        ConfigError: the folder does not exist.
    """
    options = config.storage.options
    folder = files.normalise_uri(config.sources.videos) if config.sources.videos else files.parent_uri(uri)
    fs, path = files.open_fs(folder, options)
    if not fs.isdir(path):
        raise ConfigError(f"the folder {folder} of the videos of {uri} does not exist; set sources.videos")
    videos: dict[str, dict[str, Any]] = {}
    for found in files.list_storage(folder, options):
        name = files.without_suffix(files.base_name(found.name))
        sound = files.suffix(found.name) in files.AUDIO_SUFFIXES
        # sound of the same name may lie beside a video
        if files.is_media(found.name) and (name not in videos or (videos[name]["sound"] and not sound)):
            videos[name] = {**found.info, "uri": found.uri, "sound": sound}
    return folder, videos


def _line_of(text: str, key: str) -> int:
    """Line of a clip in the JSON's text, from 1."""
    found = re.search(re.escape(json.dumps(key)) + r"\s*:", text) or re.search(re.escape(key), text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def _celebv_entries(uri: str, storage_options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The JSON's text and its clips."""
    with files.open_bytes(uri, storage_options) as file:
        try:
            text = file.read().decode("utf-8-sig")
            content = json.loads(text)
        except ValueError as error:
            raise ManifestError(f"{uri}: not JSON: {error}") from error
    clips = content.get("clips") if isinstance(content, dict) else None
    if not isinstance(clips, dict):
        raise ManifestError(f"{uri}: not a CelebV JSON, it has no object 'clips'; other lists: {', '.join(SUFFIXES)}")
    return text, clips


def _ytb_id(entry: Any, place: str) -> str:
    """The name of a clip's video; without one the clip cannot be told from others, which stops the run."""
    if not isinstance(entry, dict) or not isinstance(entry.get("ytb_id"), str) or not entry["ytb_id"]:
        raise ManifestError(f"{place}, column 'ytb_id': missing")
    if "/" in entry["ytb_id"]:  # it becomes the name of a file in the folder of videos
        raise ManifestError(f"{place}, column 'ytb_id': not a name: {entry['ytb_id']!r}")
    return entry["ytb_id"]


def _parse_celebv(entry: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Range and box of a clip as columns of `schema.CLIP`; the box is left, top, right, bottom as it is given.

    The keys of `duration` are start_sec and end_sec, or start_frame and end_frame, whose values CelebV-Text gives in
    seconds: they are frame numbers where both are whole numbers.
    """
    duration, box = entry.get("duration"), entry.get("bbox")
    if not isinstance(duration, dict):
        raise ManifestError(f"{place}, column 'duration': must hold start_sec and end_sec")
    unit = "sec" if "start_sec" in duration or "end_sec" in duration else "frame"
    keys = [f"start_{unit}", f"end_{unit}"]
    start, end = (read_seconds(duration.get(name), f"duration.{name}", place) for name in keys)
    if start is None or end is None or end <= start:
        raise ManifestError(f"{place}, column 'duration': {keys[1]}={end} is not after {keys[0]}={start}")
    try:
        bbox = None if box is None else [float(box[side]) for side in ("left", "top", "right", "bottom")]
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"{place}, column 'bbox': must hold left, top, right, bottom; found {box!r}") from error
    if unit == "frame" and all(isinstance(duration[name], int) for name in keys):
        return {"start_frame": int(start), "end_frame": int(end), "bbox": bbox}
    return {"start_s": start, "end_s": end, "bbox": bbox}
