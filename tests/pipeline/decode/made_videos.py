"""Videos of all codecs and containers that FFmpeg writes here, each picture another one."""

from fractions import Fraction

import av
import numpy as np

WIDTH, HEIGHT, FRAMES = 96, 64, 90

#: name: (codec, container's suffix, pixel format, options of the codec, whether the packet index may be used)
KINDS = {
    "h264": ("libx264", "mp4", "yuv420p", {"g": "20", "bf": "3"}, True),
    "h264_open_gop": ("libx264", "mkv", "yuv420p", {"g": "20", "bf": "3", "x264-params": "open-gop=1"}, True),
    "h264_intra_refresh": ("libx264", "mp4", "yuv420p", {"g": "20", "x264-params": "intra-refresh=1"}, True),
    "h264_one_key": ("libx264", "mov", "yuv420p", {"g": "1000", "bf": "2"}, True),
    "h264_baseline": ("libx264", "flv", "yuv420p", {"g": "15", "profile": "baseline"}, True),
    "h264_ts": ("libx264", "ts", "yuv420p", {"g": "20", "bf": "2"}, True),
    "h264_avi": ("libx264", "avi", "yuv420p", {"g": "20", "bf": "2"}, False),
    "h264_raw": ("libx264", "h264", "yuv420p", {"g": "20", "bf": "2"}, False),
    "h264_vfr": ("libx264", "mp4", "yuv420p", {"g": "20", "bf": "2"}, True),
    "hevc": ("libx265", "mp4", "yuv420p", {"x265-params": "keyint=20:bframes=3:log-level=none"}, True),
    "hevc_open_gop": ("libx265", "ts", "yuv420p", {"x265-params": "keyint=20:open-gop=1:log-level=none"}, True),
    "vp8": ("libvpx", "webm", "yuv420p", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "12"}, True),
    "vp9": ("libvpx-vp9", "webm", "yuv420p", {"g": "20", "lag-in-frames": "12"}, True),
    "av1": ("libsvtav1", "mkv", "yuv420p", {"g": "20", "preset": "10"}, True),
    "mpeg1": ("mpeg1video", "mpg", "yuv420p", {"g": "12", "bf": "2"}, True),
    "mpeg2": ("mpeg2video", "mpg", "yuv420p", {"g": "12", "bf": "2"}, True),
    "mpeg2_ts": ("mpeg2video", "ts", "yuv420p", {"g": "12", "bf": "2"}, True),
    "mpeg2_mxf": ("mpeg2video", "mxf", "yuv420p", {"g": "12", "bf": "2"}, True),
    "mpeg4": ("mpeg4", "mp4", "yuv420p", {"g": "15", "bf": "2"}, True),
    "mpeg4_avi": ("mpeg4", "avi", "yuv420p", {"g": "15", "bf": "2"}, False),
    "mjpeg": ("mjpeg", "mov", "yuvj420p", {}, True),
    "mjpeg_avi": ("mjpeg", "avi", "yuvj420p", {}, True),
    "ffv1": ("ffv1", "mkv", "yuv420p", {}, True),
    "prores": ("prores_ks", "mov", "yuv422p10le", {}, True),
}


def picture(index):
    """A moving picture that codecs must predict, with noise that differs in each."""
    noise = np.random.default_rng(index // 3).integers(0, 60, (HEIGHT, WIDTH, 3))
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    waves = 90 * (np.sin((x + 3 * index) / 9) + np.cos((y - 2 * index) / 7))
    return np.clip(noise + 100 + waves[..., None] * [1, 0.7, -0.5], 0, 255).astype(np.uint8)


def encode(path, kind, frames=FRAMES):
    """Write the video of a kind into a path that has no suffix yet; None where this FFmpeg has no such encoder."""
    codec, suffix, pix_fmt, options, _ = KINDS[kind]
    if codec not in av.codecs_available:
        return None
    path = path.with_suffix(f".{suffix}")
    base = Fraction(1, 1000) if kind.endswith("vfr") else Fraction(1, 25)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=25, options={"threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        if base != Fraction(1, 25):
            stream.codec_context.time_base = base
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = (index * 40 + (index * 7919) % 31 if base.denominator == 1000 else index), base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
