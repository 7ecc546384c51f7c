"""Forty short clips of a moving square, six of them poison, and the manifest that names them."""

import json
from pathlib import Path

import av
import numpy as np

FRAMES, CHUNK = 40, 16
CORNERS = {"abort": (220, 0, 0), "hang": (0, 220, 0), "raise": (0, 0, 220)}

#: name of the clip -> words of the reason that quarantine must give
POISON = {
    "decoder_segfault": ("died", "killed by signal 11 (SIGSEGV) while decoding"),
    "decoder_hang": ("hung", "while decoding"),
    "actor_abort": ("died", "killed by signal 6 (SIGABRT) while annotating"),
    "actor_hang": ("hung", "while annotating"),
    "actor_raise": ("unexpected", "blue in the corner"),
    "corrupt": ("not_a_video", "cannot be opened"),
}
CLIPS = 40


def write_clip(path: Path, seed: int, corner: tuple[int, int, int] | None = None) -> None:
    """A clip of a bright square on grey that moves by the seed; the corner's colour begins in the second chunk."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.thread_count = 1
        for i in range(FRAMES):
            picture = np.full((48, 64, 3), 60, np.uint8)
            x, y = 12 + (i + 3 * seed) % 30, 10 + (2 * i + seed) % 20
            picture[y : y + 16, x : x + 16] = 235
            if corner is not None and CHUNK <= i < 2 * CHUNK:
                picture[:8, :8] = corner
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode(None))


def write_corpus(folder: Path, prefix: str = "") -> Path:
    """Write the clips and a manifest that names them; returns the manifest.

    Args:
        folder: where.
        prefix: what the manifest's URIs begin with instead of the folder, such as `s3://bucket/corpus/`. Clips that
            harm their reader stay local.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, name in enumerate([*POISON, *(f"clip_{i:02d}" for i in range(CLIPS - len(POISON)))]):
        path = folder / f"{name}.mp4"
        write_clip(path, i, CORNERS.get(name.removeprefix("actor_")) if name.startswith("actor_") else None)
        if name == "corrupt":
            path.write_bytes(path.read_bytes()[200:700])
        hostile = name.startswith("decoder_")
        uri = f"hostile://{path}" if hostile else f"{prefix}{path.name}" if prefix else str(path)
        lines.append({"uri": uri, "key": name, "shard": f"shard{i % 3}"})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return manifest
