"""An output without Ray or models: videos of coloured squares, whose boxes, tracks and people are known exactly."""

import io
import json

import av
import numpy as np
import pyarrow as pa
from PIL import Image

from pipeline import schema
from pipeline.config.models import DecodeConfig, TracksConfig
from pipeline.planning.versions import clips_version
from pipeline.storage.fs import clip_id, normalise_uri
from pipeline.storage.output import open_output, write_bytes
from pipeline.tables import parquet
from pipeline.tables.shard_file import write_shard
from pipeline.tracking.link import link_shard

FRAMES, WIDTH, HEIGHT, SIDE = 24, 160, 120, 40
RED, GREEN = (220, 30, 30), (30, 180, 40)
PEOPLE = {"a" * 16: RED, "b" * 16: GREEN}
CLIPS = {"red": [RED], "both": [RED, GREEN], "nobody": []}
VERSIONS = {slot: f"{slot}-1" for slot in schema.SLOTS}
CLIPS_VERSION = clips_version(DecodeConfig())


def box(colour, i):
    """Left, top, right, bottom of the square of a colour in frame i."""
    x, y = (10 + i, 20) if colour == RED else (100 - i // 2, 60)
    return x, y, x + SIDE, y + SIDE


def write_video(path, colours):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=24, options={"crf": "12", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(FRAMES):
            frame = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
            for colour in colours:
                x1, y1, x2, y2 = box(colour, i)
                frame[y1:y2, x1:x2] = colour
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))


def _value(column, i, colour):
    """Of a slot's column for a face; a table of the recipes must be able to tell faces apart."""
    if column.name == "landmarks":
        x1, y1, _, _ = box(colour, i)
        return [float(v) for k in range(68) for v in (x1 + 4 + k % 8 * 4, y1 + 4 + k // 8 * 4)]
    if column.name == "embedding":
        return [1.0 if k == (0 if colour == RED else 1) else 0.0 for k in range(512)]
    if column.name in ("happiness", "AU12"):
        return i / FRAMES
    return 0.1


def _face_rows(key, identity):
    rows = {slot: [] for slot in schema.SLOTS}
    for i in range(FRAMES):
        for number, colour in enumerate(CLIPS[key]):
            face = {"clip_id": identity, "frame": i, "face": number}
            x1, y1, x2, y2 = box(colour, i)
            edges = {"box_x1": x1, "box_y1": y1, "box_x2": x2, "box_y2": y2}
            rows["face"].append(
                {**face, "time": i / 24, **edges, "score": 0.99 - 0.01 * number, "points5": None, "sharpness": 90.0}
            )
            for slot in schema.SLOTS[1:]:
                rows[slot].append({**face, **{c.name: _value(c, i, colour) for c in schema.SLOT_COLUMNS[slot]}})
    return rows


def write_output(folder, names=("videos", "out")):
    """Videos and tables in two folders of `folder`; returns the path of the tables."""
    videos, out = (folder / name for name in names)
    videos.mkdir()
    output = open_output(str(out))
    clips, faces = [], {slot: [] for slot in schema.SLOTS}
    ledger = []
    video = {"frames": FRAMES, "sampled": FRAMES, "fps": 24.0, "width": WIDTH, "height": HEIGHT, "codec": "h264"}
    for key in [*CLIPS, "</script>broken"]:
        uri = normalise_uri(str(videos / f"{key.strip('</>')}.mp4"))
        identity = clip_id(uri, None, None, None)
        clip = {"clip_id": identity, "uri": uri, "shard": "s0", "key": key, "fingerprint": "1"}
        if key not in CLIPS:
            reason = "it is cut off: <b>not</b> bold"
            clips.append({**clip, "status": "quarantined", "reason": reason, "error_class": "truncated", "faces": 0})
            continue
        write_video(videos / f"{key}.mp4", CLIPS[key])
        count = FRAMES * len(CLIPS[key])
        clips.append(
            {**clip, **video, "status": "done", "faces": count, "start_time": 0.0, "end_time": (FRAMES - 1) / 24}
        )
        chunk = {"clip_id": identity, "fingerprint": "1", "first": 0, "count": FRAMES, "faces": count, "last": True}
        ledger.append({**chunk, "video": video})
        for slot, rows in _face_rows(key, identity).items():
            faces[slot] += rows
    chunks = pa.Table.from_pylist(ledger, schema=parquet.LEDGER)
    tables = {slot: pa.Table.from_pylist(faces[slot], schema=schema.slot_schema(slot)) for slot in schema.SLOTS}
    for slot, table in tables.items():
        parquet.write_chunk_file(output, schema.TABLE_OF_SLOT[slot], VERSIONS[slot], "s0", table, chunks)
    write_shard(output, "clips", CLIPS_VERSION, "s0", pa.Table.from_pylist(clips, schema=schema.CLIPS))
    broken = clips[-1]
    bad = {name: broken[name] for name in ("clip_id", "uri", "shard", "fingerprint")}
    bad |= {"stage": "decode", "error_class": "truncated", "message": broken["reason"], "attempts": 1}
    write_shard(output, "quarantine", CLIPS_VERSION, "s0", pa.Table.from_pylist([bad], schema=schema.QUARANTINE))
    parquet.promote(output, {"faces": VERSIONS["face"], "clips": CLIPS_VERSION})
    _write_people(output, tables)
    _write_run(output)
    return str(out)


def _write_people(output, tables):
    tracks = link_shard(tables["face"], tables["embeddings"], "s0", TracksConfig()).to_pylist()
    for track in tracks:
        track["identity_id"] = "a" * 16 if track["embedding"][0] > 0.5 else "b" * 16
    rows = []
    red = next(row["clip_id"] for row in parquet.read_table(output.root, "clips").to_pylist() if row["key"] == "red")
    for identity, name in zip(PEOPLE, (None, "<i>Green</i>"), strict=True):
        mine = [track for track in tracks if track["identity_id"] == identity]
        mine.sort(key=lambda track: track["clip_id"] != red)  # the red person is shown as in the clip `red`
        rows.append(
            {
                "identity_id": identity,
                "tracks": len(mine),
                "clips": len({t["clip_id"] for t in mine}),
                "faces": sum(t["faces"] for t in mine),
                "cohesion": 0.9,
                "margin": 0.2,
                "name": name,
                "members": [t["track_id"] for t in mine],
                "representative_clip_id": mine[0]["clip_id"],
                "representative_frame": mine[0]["representative_frame"],
                "representative_face": mine[0]["representative_face"],
            }
        )
    pair = {"identity_a": "a" * 16, "identity_b": "b" * 16, "score": 0.28, "threshold": 0.3, "seen_together": 1}
    pair |= {"reason": "close", "tracks_a": 2, "tracks_b": 1}
    write_snapshot(output, tracks, rows, [pair])


def write_snapshot(output, tracks, people, pairs):
    table = pa.Table.from_pylist(tracks, schema=schema.TRACKS)
    write_shard(output, "tracks", "snap", "s0", table)
    for name, rows in (("identities", people), ("ambiguous_pairs", pairs), ("lineage", [])):
        parquet.write_parquet(
            output, f"{name}/version=snap/{name}.parquet", pa.Table.from_pylist(rows, schema=schema.table_schema(name))
        )
    current = {schema.TABLE_OF_SLOT[slot]: version for slot, version in VERSIONS.items()}
    current |= dict.fromkeys(("tracks", "identities", "ambiguous_pairs", "lineage"), "snap")
    parquet.promote(output, current | {"clips": CLIPS_VERSION, "quarantine": CLIPS_VERSION})


def _write_run(output):
    model = {"model": "squares", "version": "1", "license": "Apache-2.0", "research_only": False, "files": {}}
    record = {
        "run": "20260101T000000.000000Z",
        "bundle": "squares",
        "models": dict.fromkeys(schema.SLOTS, model),
        "versions": {**VERSIONS, "clips": CLIPS_VERSION},
        "clips": {"done": 3, "empty": 0, "quarantined": 1},
        "wanted": 4,
        "frames": 72,
        "faces": 72,
        "seconds": {"plan": 0.1, "annotate": 9.0, "total": 10.0},
        "cluster": {"cpus": 4, "gpus": 1, "nodes": 1, "pools": [{"slots": [], "actors": 1, "gpus": 1, "cpus": 1}]},
        "forecast": {"against": [{"quantity": "frames", "forecast": 80.0, "actual": 72.0}]},
        "config": {"decode": DecodeConfig().model_dump()},
    }
    write_bytes(output, f"runs/{record['run']}.json", json.dumps(record).encode())


def mean_colour(data):
    """Mean RGB of the middle of a JPEG's bytes."""
    picture = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float64)
    height, width = picture.shape[:2]
    return picture[height // 3 : -height // 3, width // 3 : -width // 3].mean(axis=(0, 1))


def near(colour, other, tolerance=25):
    return np.abs(np.asarray(colour) - np.asarray(other)).max() < tolerance
