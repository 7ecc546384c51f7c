"""The 18 real videos: everything is found, nothing is lost, and who is who is right."""

import json
from collections import Counter, defaultdict
from pathlib import Path

import av
import pandas as pd
import pytest

import pipeline
from pipeline.tables.status import read_status

FACELESS = {"no_face.mp4"}
PARTLY = {"face_noface.mov", "noface_face.mov"}
SAME_PERSON = [{"single_face", "face_noface", "noface_face"}, {"grid_id2_vcd_swwp2s", "grid_pwij3p"}]


EVERY = [pytest.param(6, id="every_6th"), pytest.param(1, id="every_frame", marks=pytest.mark.slow)]


@pytest.fixture(scope="session", params=EVERY)
def every(request):
    return request.param


@pytest.fixture(scope="session")
def videos(annotate, shared_bundle, data, every, tmp_path_factory):
    out = tmp_path_factory.mktemp("videos") / "out"
    report = annotate(data / "videos", out, shared_bundle, f"decode.every={every}")
    assert report.complete
    return str(out)


@pytest.fixture(scope="session")
def clips(videos):
    table = pipeline.read_table(videos, "clips").to_pandas()
    return table.assign(name=[Path(uri).name for uri in table["uri"]]).set_index("name")


@pytest.fixture(scope="session")
def found(videos, clips):
    """Share of each video's annotated frames that show a face."""
    faces = pipeline.read_table(videos, "faces", ["clip_id", "frame"]).to_pandas()
    frames = faces.groupby("clip_id")["frame"].nunique()
    return {name: frames.get(row["clip_id"], 0) / row["sampled"] for name, row in clips.iterrows()}


def test_every_video_has_its_row_and_is_done(clips, data):
    assert sorted(clips.index) == sorted(path.name for path in (data / "videos").iterdir())
    assert set(clips["status"]) == {"done"}


def test_decoded_frames_equal_a_plain_loop(clips, data):
    for name, row in clips.iterrows():
        with av.open(str(data / "videos" / name)) as container:
            assert row["frames"] == sum(1 for _ in container.decode(video=0)), name


def test_faces_are_found_where_there_are_any(found):
    for name, share in found.items():
        if name in FACELESS:
            assert share == 0, name
        elif name in PARTLY:
            assert 0.35 <= share <= 0.5, (name, share)
        else:
            assert share >= 0.95, (name, share)


def test_exactly_the_fourteen_people_are_found(videos, clips):
    tracks = pipeline.read_table(videos, "tracks", ["clip_id", "identity_id"]).to_pandas()
    named = tracks.dropna(subset=["identity_id"])
    stem_of = {row["clip_id"]: Path(name).stem for name, row in clips.iterrows()}
    people = defaultdict(set)
    for clip_id, identity in zip(named["clip_id"], named["identity_id"], strict=True):
        people[identity].add(stem_of[clip_id])
    alone = {Path(name).stem for name in clips.index if name not in FACELESS} - set().union(*SAME_PERSON)
    expected = [*SAME_PERSON, *({name} for name in alone)]
    assert sorted(map(sorted, people.values())) == sorted(map(sorted, expected))
    assert len(people) == 14
    assert pipeline.read_table(videos, "identities").num_rows == 14


def test_all_tables_speak_of_the_same_faces(videos):
    keys = [
        pipeline.read_table(videos, name, ["clip_id", "frame", "face"])
        .to_pandas()
        .sort_values(["clip_id", "frame", "face"])
        for name in ("faces", "landmarks", "embeddings")
    ]
    for other in keys[1:]:
        pd.testing.assert_frame_equal(keys[0].reset_index(drop=True), other.reset_index(drop=True))
    assert not keys[0].duplicated().any()


def test_every_face_is_in_exactly_one_track(videos):
    tracks = pipeline.read_table(videos, "tracks").to_pylist()
    members = Counter((t["clip_id"], f, m) for t in tracks for f, m in zip(t["frames"], t["members"], strict=True))
    faces = pipeline.read_table(videos, "faces", ["clip_id", "frame", "face"]).to_pylist()
    assert members == Counter((face["clip_id"], face["frame"], face["face"]) for face in faces)


def test_the_status_adds_up(videos, clips):
    status = read_status(videos)
    assert status["clips"] == {"done": 18, "empty": 0, "quarantined": 0}
    assert status["frames"] == clips["frames"].sum()
    assert status["sampled"] == clips["sampled"].sum()
    assert status["faces"] == clips["faces"].sum()
    assert status["identities"] == 14


def test_the_run_is_on_record_with_models_and_digests(videos):
    record = json.loads(next((Path(videos) / "runs").iterdir()).read_text())
    assert record["clips"] == {"done": 18, "empty": 0, "quarantined": 0}
    assert len(record["models"]["face"]["files"]["weights"]["sha256"]) == 64
    assert set(record["versions"]) >= {"face", "landmarks", "embeddings"}
    assert set(record["tables"]) >= {"faces", "landmarks", "embeddings", "clips", "tracks", "identities"}


def test_a_second_run_starts_nothing_and_ends_in_seconds(command, videos, shared_bundle, data, every):
    before = {path: path.stat().st_mtime_ns for path in Path(videos).rglob("*.parquet")}
    code, text, seconds = command(
        "annotate", data / "videos", videos, "--bundle", shared_bundle, "--set", f"decode.every={every}"
    )
    print(f"second run of 18 videos: {seconds:.1f} s")
    assert code == 0, text
    assert "this run wrote 0 frames" in text
    assert "of 14 identities" in text
    assert "LOADED []" in text, "without Ray there is no actor"
    assert seconds < 10
    assert {path: path.stat().st_mtime_ns for path in Path(videos).rglob("*.parquet")} == before
