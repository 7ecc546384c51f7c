"""What the headers of some clips say, for forecasts: nothing is decoded."""

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import av
import pyarrow as pa

from pipeline import schema
from pipeline.config.models import Config, DecodeConfig
from pipeline.decode.clock import RAW_FPS
from pipeline.decode.open import SharedFile, open_video
from pipeline.errors import ClipError

PROBED_CLIPS = 64
_GROUP_S = 5.0  # between keyframes where the container does not tell
_READERS = 8  # opening a file on remote storage is waiting


@dataclass(frozen=True)
class Probed:
    """What the headers of some of the clips say.

    Attributes:
        clips: with work to do.
        shards: that they lie in.
        probed: of them, whose headers were read.
        unreadable: of those, that will end in quarantine.
        frames, seconds, megapixels: means of a probed clip, unreadable ones as 0; megapixels of all its frames.
        frame_mb: largest frame as it travels (planar YUV 4:2:0), MB.
        lead_megapixels: mean of the frames that are decoded before a clip, from the keyframe on.
    """

    clips: int
    shards: int
    probed: int
    unreadable: int
    frames: float
    seconds: float
    megapixels: float
    frame_mb: float
    lead_megapixels: float = 0.0


def probe_clip(
    clip: Mapping[str, Any], config: DecodeConfig, storage_options: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """What a clip's header says of its length, without decoding: an estimate, as headers may be wrong.

    Returns:
        `frames` and `seconds` inside the clip's range, `decoded` frames with those from the keyframe before it on,
        `width` and `height` in pixels.

    Raises:
        ClipError: it cannot be opened, or its header states no length.
    """
    with ExitStack() as stack:
        video = open_video(clip, config, stack.enter_context(closing(SharedFile(clip, storage_options))), stack)
        stream, codec = video.stream, video.stream.codec_context
        rate = float(stream.average_rate or RAW_FPS)
        begin, length = 0.0, stream.frames / rate
        if stream.duration and stream.time_base:
            begin, length = (
                float((stream.start_time or 0) * stream.time_base),
                float(stream.duration * stream.time_base),
            )
        elif video.container.duration:
            length = video.container.duration / av.time_base
        if not length:
            raise ClipError(f"{clip['uri']}: its header states no length", "no_length")
        begin = 0.0 if config.clock == "start" else begin
        low = begin if clip.get("start_s") is None else max(begin, clip["start_s"])
        high = begin + length if clip.get("end_s") is None else min(begin + length, clip["end_s"])
        seconds = max(high - low, 0.0)
        if (first := clip.get("start_frame")) is not None:
            end = clip.get("end_frame")
            low, high = max(low, begin + first / rate), high if end is None else min(high, begin + end / rate)
            seconds = max(high - low, 0.0)
        whole = low == begin and high == begin + length
        frames = stream.frames if whole and stream.frames else seconds * rate
        lead = min(_group_frames(stream, rate) / 2, (low - begin) * rate)
        size = {"width": codec.width, "height": codec.height}
        return {"frames": float(frames), "decoded": frames + lead, "seconds": seconds, **size}


def _group_frames(stream: Any, rate: float) -> float:
    """Frames from one keyframe to the next, off the container's index where it has all of them."""
    entries = stream.index_entries
    if not stream.frames or len(entries) < stream.frames:
        return _GROUP_S * rate
    return len(entries) / max(1, sum(bool(entry.is_keyframe) for entry in entries))


def probe_work(work: pa.Table, config: Config, seed: int = 0) -> tuple[Probed, list[dict[str, Any]]]:
    """Read the headers of some clips with work; returns what they say, and the readable ones."""
    clips = list({row["clip_id"]: row for row in work.select(schema.CLIP.names).to_pylist()}.values())
    chosen = random.Random(seed).sample(clips, min(PROBED_CLIPS, len(clips)))
    with ThreadPoolExecutor(_READERS) as pool:
        found = list(pool.map(lambda clip: _header(clip, config), chosen))
    said = [header for header in found if header is not None]
    count = max(len(chosen), 1)
    pixels = [header["width"] * header["height"] for header in said]
    probed = Probed(
        clips=len(clips),
        shards=len({clip["shard"] for clip in clips}),
        probed=len(chosen),
        unreadable=len(chosen) - len(said),
        frames=sum(header["frames"] for header in said) / count,
        seconds=sum(header["seconds"] for header in said) / count,
        megapixels=sum(h["frames"] * p for h, p in zip(said, pixels, strict=True)) / 1e6 / count,
        frame_mb=1.5 * max(pixels, default=0) / 1e6,
        lead_megapixels=sum((h["decoded"] - h["frames"]) * p for h, p in zip(said, pixels, strict=True)) / 1e6 / count,
    )
    return probed, [clip for clip, header in zip(chosen, found, strict=True) if header is not None]


def _header(clip: Mapping[str, Any], config: Config) -> dict[str, float] | None:
    try:
        return probe_clip(clip, config.decode, config.storage.options)
    except ClipError:
        return None
