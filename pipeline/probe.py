"""What the header of a clip says, for forecasts: nothing is decoded."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import av

from pipeline.config import DecodeConfig
from pipeline.decode import RAW_FPS, open_video
from pipeline.errors import ClipError


def probe_clip(
    clip: Mapping[str, Any], config: DecodeConfig, storage_options: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """What a clip's header says of its length, without decoding: an estimate, as headers may be wrong.

    Returns:
        `frames` and `seconds` inside the clip's range, `width` and `height` in pixels.

    Raises:
        ClipError: it cannot be opened, or its header states no length.
    """
    with ExitStack() as stack:
        video = open_video(clip, config, storage_options, stack)
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
        low = begin if clip.get("start_s") is None else max(begin, clip["start_s"])
        high = begin + length if clip.get("end_s") is None else min(begin + length, clip["end_s"])
        seconds = max(high - low, 0.0)
        whole = clip.get("start_s") is None and clip.get("end_s") is None
        frames = stream.frames if whole and stream.frames else seconds * rate
        return {"frames": float(frames), "seconds": seconds, "width": codec.width, "height": codec.height}
