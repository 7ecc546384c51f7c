"""A clip's faces come with all their slots, tracks and identities, out of files that other clips share."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.errors import ConfigError, OutputError
from pipeline.storage.output import open_output
from pipeline.tables import parquet
from pipeline.tables.clip_reader import ClipReader, choose_clips, track_members
from pipeline.tables.shard_file import write_shard

SLOTS = ("face", "pose", "embeddings")
CLIPS = ("a", "b")
FRAMES = 6


def slot_rows(slot, clip, frames):
    dtype = "float16" if slot == "embeddings" else "float32"
    columns = schema.SLOT_COLUMNS[slot]
    rows = []
    for frame in frames:
        values = {c.name: [float(frame)] * 512 if c.name == "embedding" else None for c in columns}
        values |= {name: float(frame) for name in ("score", "pose_yaw") if name in values}
        rows.append({"clip_id": clip, "frame": frame, "face": 0, **values})
    return pa.Table.from_pylist(rows, schema=schema.slot_schema(slot, dtype))


@pytest.fixture
def output(tmp_path):
    """Two clips in the same two files of each slot, the later frames first; poses of even frames only."""
    output = open_output(str(tmp_path))
    for first in (3, 0):
        frames = range(first, first + 3)
        ledger = [
            {"clip_id": c, "fingerprint": "x", "first": first, "count": 3, "faces": 3, "last": False} for c in CLIPS
        ]
        chunks = pa.Table.from_pylist(ledger, schema=parquet.LEDGER)
        for slot in SLOTS:
            mine = [frame for frame in frames if slot != "pose" or frame % 2 == 0]
            rows = pa.concat_tables([slot_rows(slot, clip, mine) for clip in CLIPS])
            parquet.write_chunk_file(output, schema.TABLE_OF_SLOT[slot], "1", "s", rows, chunks)
    common = {"shard": "s", "first_frame": 0, "last_frame": 5, "faces": 5}
    tracks = [
        {"track_id": f"t{clip}", "clip_id": clip, "identity_id": name, "frames": [1, 2, 3, 4, 5], "members": [0] * 5}
        for clip, name in (("a", "x"), ("b", None))
    ]
    tracks[0]["subject"] = True
    rows = [{**dict.fromkeys(schema.TRACKS.names), **common, **track} for track in tracks]
    write_shard(output, "tracks", "1", "s", pa.Table.from_pylist(rows, schema=schema.TRACKS))
    current = {schema.TABLE_OF_SLOT[slot]: "1" for slot in SLOTS}
    parquet.promote(output, current | {"clips": "1", "tracks": "1"})
    return output


@pytest.mark.parametrize("clip", CLIPS)
def test_the_faces_of_a_clip_have_the_columns_of_the_slots_and_who_they_are(output, clip):
    faces = ClipReader(output).faces({"clip_id": clip, "shard": "s"}, ["pose", "embeddings"])
    assert faces["frame"].to_pylist() == list(range(FRAMES))
    assert set(faces["clip_id"].to_pylist()) == {clip}
    assert faces["score"].to_pylist() == [float(frame) for frame in range(FRAMES)]
    assert faces["pose_yaw"].to_pylist() == [0.0, None, 2.0, None, 4.0, None]
    assert faces.schema.field("embedding").type == pa.list_(pa.float32(), 512)  # stored in half the space
    assert [row[0] for row in faces["embedding"].to_pylist()] == [float(frame) for frame in range(FRAMES)]
    assert faces["track_id"].to_pylist() == [None, *[f"t{clip}"] * 5]
    assert faces["identity_id"].to_pylist() == [None, *["x" if clip == "a" else None] * 5]


def test_faces_of_subjects_alone_have_the_same_columns(output):
    reader = ClipReader(output, subject=True)
    subject = reader.faces({"clip_id": "a", "shard": "s"}, ["pose"])
    everyone = ClipReader(output).faces({"clip_id": "a", "shard": "s"}, ["pose"])
    assert subject.schema == everyone.schema
    assert subject["frame"].to_pylist() == [1, 2, 3, 4, 5]  # frame 0 is in no track
    assert reader.faces({"clip_id": "b", "shard": "s"}).num_rows == 0  # its corpus gives no box


def test_a_slot_without_a_table_and_a_clip_without_faces_have_their_columns(output):
    reader = ClipReader(output)
    assert reader.faces({"clip_id": "a", "shard": "s"}, ["gaze"])["gaze_yaw"].null_count == FRAMES
    nobody = reader.faces({"clip_id": "c", "shard": "other"}, ["pose"])
    assert nobody.num_rows == 0
    assert {"box_x1", "pose_yaw", "track_id", "identity_id"} <= set(nobody.column_names)


def test_only_files_whose_ledger_names_the_clip_are_read(output):
    chunks = [{"clip_id": "c", "fingerprint": "x", "first": 0, "count": 1, "faces": 1, "last": False}]
    ledger = pa.Table.from_pylist(chunks, schema=parquet.LEDGER)
    other = parquet.write_chunk_file(output, "faces", "1", "s", slot_rows("face", "c", [0]), ledger)
    path = Path(output.path(other))
    path.write_bytes(path.read_bytes()[:4] + bytes(64) + path.read_bytes()[68:])  # the footer stays readable
    with pytest.raises((OSError, pa.ArrowException)):
        ClipReader(output).faces({"clip_id": "c", "shard": "s"})
    assert ClipReader(output).faces({"clip_id": "a", "shard": "s"}).num_rows == FRAMES


def test_members_of_tracks_are_one_row_each():
    tracks = pa.table({"track_id": ["t", "u"], "frames": [[1, 2], [5]], "members": [[0, 1], [3]]})
    assert track_members(tracks).to_pydict() == {"track_id": ["t", "t", "u"], "frame": [1, 2, 5], "face": [0, 1, 3]}
    assert track_members(tracks.slice(0, 0)).num_rows == 0


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(OutputError, match="no Faceatlas tables"):
        ClipReader(open_output(str(tmp_path)))


def test_every_reader_says_the_same_of_a_folder_without_tables(tmp_path):
    said = set()
    for read in (lambda: ClipReader(open_output(str(tmp_path))), lambda: parquet.read_table(str(tmp_path), "clips")):
        with pytest.raises(OutputError) as refused:
            read()
        said.add(str(refused.value))
    assert said == {f"{tmp_path} holds no Faceatlas tables (there is no current.json); give the OUT of an annotate run"}


def test_an_output_whose_faces_are_not_current_yet_is_refused_with_the_remedy(tmp_path):
    output = open_output(str(tmp_path))
    parquet.promote(output, {"clips": "1"})
    with pytest.raises(OutputError, match="no table faces or clips yet; run `faceatlas annotate`"):
        ClipReader(output)


def test_a_clip_that_was_closed_early_is_not_done():
    whole = {"clip_id": "a", "shard": "s", "status": "done", "frames": FRAMES, "sampled": FRAMES}
    early = {"clip_id": "b", "shard": "s", "status": "done"}
    clips = pa.Table.from_pylist([whole, early], schema=schema.CLIPS)
    assert [clip["clip_id"] for clip in choose_clips(clips)] == ["a"]
    with pytest.raises(ConfigError, match=r"clip b has no faces to show: it is closed early \(annotate again"):
        choose_clips(clips, ["b"])


def test_clips_are_named_by_id_key_or_path_and_a_wrong_name_gets_a_hint(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rows = [
        {**dict.fromkeys(schema.CLIPS.names), "clip_id": c, "key": f"film_{c}", "shard": "s", "status": "done"}
        | {"uri": f"file://{tmp_path}/{c}.mp4", "fingerprint": "x", "faces": 1, "frames": 2}
        for c in CLIPS
    ]
    clips = pa.Table.from_pylist(rows, schema=schema.CLIPS)
    found = choose_clips(clips, ["b.mp4", "film_a"])
    assert [row["clip_id"] for row in found] == ["b", "a"]
    assert [row["clip_id"] for row in choose_clips(clips, [f"file://{tmp_path}/a.mp4", "b"])] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"uri c\.mp4; there is, for example: film_a, film_b"):
        choose_clips(clips, ["a", "c.mp4"])
