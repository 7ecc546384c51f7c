"""Time ranges in long videos: seconds, decoded frames and bytes read, of this build and of another one in turn."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer

from jobs.bench.check import BenchError
from jobs.bench.result import JsonOption, setting
from jobs.options import exit_on_error

_FPS = 25
#: what moves here passes for new scenes, in which x264 writes no B-frames
_OPTIONS = {"preset": "medium", "crf": "23", "x264-params": "scenecut=0"}
_GROUP_S = 30  # encoded once, repeated without encoding again
#: decodes the clips of a JSON list one video after the other; runs in builds before and after decode_video came
_DECODE = """
import json, sys, time
from itertools import groupby
work = json.load(open(sys.argv[1]))
effort = None
try:
    from pipeline.config.models import DecodeConfig
except ImportError:
    from pipeline.config import DecodeConfig
try:
    from pipeline.decode.chunking import Request
    from pipeline.decode.decoder import Effort, decode_video
    effort = Effort()
    def rows(clips, config):
        items = decode_video([Request(clip) for clip in clips], config, effort=effort)
        return (item[1] for item in items if type(item) is tuple)
except ImportError:
    try:
        from pipeline.decode.decoder import decode_clip
    except ImportError:
        from pipeline.decode import decode_clip
    def rows(clips, config):
        return (row for clip in clips for row in decode_clip(clip, config))
config = DecodeConfig(**work["decode"])
cpu, wall = time.process_time(), time.monotonic()
frames = inside = 0
for _, clips in groupby(work["clips"], key=lambda clip: clip["uri"]):
    for row in rows(list(clips), config):
        frames += len(row["frames"])
        inside += row["video"]["frames"] if row["last"] and row["video"] else 0
print(json.dumps({"frames": frames, "inside": inside, "cpu_s": time.process_time() - cpu,
                  "wall_s": time.monotonic() - wall, **(vars(effort) if effort else {})}))
"""


def make_video(path: Path, width: int, height: int, minutes: float, options: dict[str, str] | None = None) -> Path:
    """Write an H.264 video of a moving picture with some noise, 25 frames/s, a keyframe every 10 s at most."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    noise = rng.integers(0, 12, (8, height, width), dtype=np.int16)
    group = path.with_suffix(".group.mp4")
    with av.open(str(group), "w") as out:
        stream = out.add_stream("libx264", rate=_FPS, options={**_OPTIONS, **(options or {})})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for i in range(_GROUP_S * _FPS):
            waves = 80 * (np.sin((x + 4 * i) / 37) + np.cos((y - 3 * i) / 23)) + 128
            grey = np.clip(waves + noise[i % 8], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.repeat(grey[..., None], 3, axis=2), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with av.open(str(group)) as source, av.open(str(path), "w") as out:
        stream = source.streams.video[0]
        target = out.add_stream_from_template(stream)
        packets = [(packet, packet.pts, packet.dts) for packet in source.demux(stream) if packet.size]
        base = Fraction(stream.time_base or 1)
        length = round(_GROUP_S / base)
        for repeat in range(max(1, round(minutes * 60 / _GROUP_S))):
            for packet, pts, dts in packets:
                assert pts is not None
                assert dts is not None
                packet.pts, packet.dts = pts + repeat * length, dts + repeat * length
                packet.time_base, packet.stream = base, target
                out.mux(packet)
    group.unlink()
    return path


def clips_of(video: Path, ranges: list[tuple[float | None, float | None]]) -> list[dict[str, Any]]:
    """Rows of `schema.CLIP` as far as the decoder reads them."""
    row = {"uri": video.as_uri(), "member": None, "offset": None, "shard": "s"}
    return [{**row, "clip_id": f"{i:016x}", "start_s": low, "end_s": high} for i, (low, high) in enumerate(ranges)]


def decode_in(checkout: Path, clips: list[dict[str, Any]], decode: dict[str, Any]) -> dict[str, float]:
    """Decode clips with the build of a checkout, in a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as work:
        json.dump({"clips": clips, "decode": decode}, work)
        work.flush()
        return json.loads(_run(checkout, [sys.executable, "-c", _DECODE, work.name]).splitlines()[-1])


def annotate_in(checkout: Path, video: Path, ranges: list[tuple[float, float]], every: int, folder: Path) -> float:
    """Seconds of the whole command `annotate` with bundle tiny over ranges of a video."""
    manifest = folder / "ranges.csv"
    lines = [f"{video},{low},{high}" for low, high in ranges]
    manifest.write_text("\n".join(["uri,start_s,end_s", *lines, ""]))
    out = folder / f"out-{time.monotonic_ns()}"
    begun = time.monotonic()
    _run(
        checkout,
        [sys.executable, "-m", "jobs.annotate", str(manifest), str(out), "--bundle", "tiny", "--every", str(every)],
    )
    return time.monotonic() - begun


def _run(checkout: Path, command: list[str]) -> str:
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{checkout}: {done.stderr[-2000:]}")
    return done.stdout


def plain_loop_cpu_s(video: Path) -> float:
    """CPU seconds of decoding everything with nothing but PyAV, on one thread."""
    begun = time.process_time()
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass
    return time.process_time() - begun


def torchcodec_cpu_s(video: Path) -> float | None:
    """CPU seconds of decoding everything with torchcodec, on one thread, to RGB; None: it is not installed."""
    try:
        decoders = importlib.import_module("torchcodec.decoders")
    except (ImportError, RuntimeError, OSError):  # it is there, but not its FFmpeg
        return None
    begun = time.process_time()
    for _ in decoders.VideoDecoder(str(video), num_ffmpeg_threads=1, seek_mode="approximate"):
        pass
    return time.process_time() - begun


def measure_ranges(folder: Path, here: Path, against: Path | None, minutes: float, whole: bool) -> dict[str, Any]:
    """20 ranges of 2 s over a 640x360 video; a late one; its first and last minute; every 30th frame; everything."""
    video = make_video(folder / "long.mp4", 640, 360, minutes)
    builds = {"this": here, **({"other": against} if against else {})}
    last = minutes * 60 - 62
    spread = [(i * last / 20 + 1, i * last / 20 + 3) for i in range(20)]
    cases: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
        "20 ranges": (clips_of(video, list(spread)), {"every": 12}),
        "one late range": (clips_of(video, [(last, last + 2)]), {}),
        "first minute": (clips_of(video, [(3.0 * i, 3.0 * i + 2) for i in range(20)]), {"every": 12}),
        "last minute": (clips_of(video, [(last + 3.0 * i, last + 3.0 * i + 2) for i in range(20)]), {"every": 12}),
        "every 30th": (clips_of(video, [(None, None)]), {"every": 30}),
        "everything": (clips_of(video, [(None, None)]), {}),
    }
    result: dict[str, Any] = {"video_mb": round(video.stat().st_size / 1e6, 1), "plain_cpu_s": plain_loop_cpu_s(video)}
    result["torchcodec_cpu_s"] = torchcodec_cpu_s(video)
    for case, (clips, decode) in cases.items():
        result[case] = {name: decode_in(checkout, clips, decode) for name, checkout in builds.items()}
        for spent in result[case].values():
            if "bytes_read" in spent:
                spent["read_share"] = round(spent["bytes_read"] / video.stat().st_size, 4)
    if whole:
        result["annotate 20 ranges, s"] = {
            name: annotate_in(checkout, video, spread, 12, folder) for name, checkout in builds.items()
        }
    return result


def measure_corpus(folder: Path, here: Path, videos: int, clips: int, minutes: float) -> dict[str, Any]:
    """A corpus like CelebV-HQ: ranges of 3 to 20 s in 1080p videos; decoded frames against those inside the ranges."""
    video = make_video(folder / "full_hd.mp4", 1920, 1080, minutes, {"preset": "veryfast", "crf": "28"})
    rng = np.random.default_rng(0)
    rows = []
    for number in range(videos):
        link = folder / f"video_{number:03d}.mp4"
        link.hardlink_to(video)
        starts = np.sort(rng.uniform(0, minutes * 60 - 20, -(-clips // videos)))
        rows += clips_of(link, [(float(s), float(s + rng.uniform(3, 20))) for s in starts])
    spent = decode_in(here, rows, {})
    groups = spent["jumps"] * 10 * _FPS
    allowed = 1.3 * spent["inside"] + groups
    return {**spent, "decoded_per_inside": spent["decoded"] / max(spent["inside"], 1), "allowed": allowed}


def ranges(
    against: Annotated[Path | None, typer.Option(help="Another checkout, measured in turn.")] = None,
    minutes: Annotated[float, typer.Option(min=2, help="Length of the video.")] = 20,
    whole: Annotated[bool, typer.Option(help="The whole command `annotate`, too.")] = False,
    corpus: Annotated[int, typer.Option(min=0, help="Ranges of a corpus like CelebV-HQ; 0: none.")] = 0,
    videos: Annotated[int, typer.Option(min=1, help="Videos of that corpus.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Measure time ranges in long videos.

    Example: python -m jobs.bench ranges --against ../before --whole
    """
    here = Path(__file__).resolve().parents[2]
    with exit_on_error(), tempfile.TemporaryDirectory() as folder:
        result = measure_ranges(Path(folder), here, against and against.resolve(), minutes, whole)
        if corpus:
            result["corpus"] = measure_corpus(Path(folder), here, videos, corpus, 10)
    result["setting"] = setting()
    if as_json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name}: {value}")
