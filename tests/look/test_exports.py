"""COCO, WebDataset, Hugging Face and DuckDB: read back with those tools."""

import io
import json
import tarfile
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import squares
from PIL import Image
from typer.testing import CliRunner

import pipeline
from jobs.cli import app
from pipeline.export.duckdb_views import views_sql
from pipeline.export.webdataset import aligned_crop, export_webdataset
from pipeline.storage.output import open_output


def export(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_coco_has_an_image_per_frame_with_faces_and_an_annotation_per_face(out, tmp_path):
    path = tmp_path / "coco.json"
    done = export(out, "--format", "coco", "--to", path)
    assert done.exit_code == 0, done.output
    coco = json.loads(path.read_text())
    assert (len(coco["images"]), len(coco["annotations"])) == (48, 72)
    assert len({image["id"] for image in coco["images"]}) == 48
    image = {image["file_name"]: image["id"] for image in coco["images"]}["both/000010.jpg"]
    red, green = [a for a in coco["annotations"] if a["image_id"] == image]
    x1, y1, _, _ = squares.box(squares.RED, 10)
    assert red["bbox"] == [x1, y1, squares.SIDE, squares.SIDE]
    assert red["keypoints"][:3] == [x1 + 4, y1 + 4, 2]
    assert len(red["keypoints"]) == 3 * 68 == 3 * len(coco["categories"][0]["keypoints"])
    assert [a["attributes"]["identity_id"] for a in (red, green)] == ["a" * 16, "b" * 16]


def test_webdataset_holds_the_crop_of_each_face_with_its_labels(out, tmp_path):
    done = export(out, "--format", "webdataset", "--to", tmp_path / "crops", "--every", "6")
    assert done.exit_code == 0, done.output
    with tarfile.open(tmp_path / "crops" / "faces-00000.tar") as tar:
        files = {name: tar.extractfile(name).read() for name in tar.getnames()}
    labels = {name[:-5]: json.loads(data) for name, data in files.items() if name.endswith(".json")}
    assert len(labels) == len(files) / 2 == 12
    for name, label in labels.items():
        assert Image.open(io.BytesIO(files[f"{name}.jpg"])).size == (112, 112)
        assert squares.near(squares.mean_colour(files[f"{name}.jpg"]), squares.PEOPLE[label["identity_id"]])
        assert label["frame"] % 6 == 0
        assert label["AU12"] == pytest.approx(label["frame"] / 24)


def test_a_full_tar_is_followed_by_the_next(out, tmp_path):
    list(export_webdataset(out, str(tmp_path), every=6, per_shard=5))
    counts = []
    for path in sorted(tmp_path.glob("*.tar")):
        with tarfile.open(path) as tar:
            counts.append(len(tar.getnames()) // 2)
    assert counts == [5, 5, 2]


def test_an_aligned_crop_has_the_eyes_where_arcface_expects_them():
    turn = 0.6 * np.exp(0.5j)  # the face is smaller than a crop, and tilted
    places = np.array(
        [38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j, 70.7299 + 92.2041j]
    )
    places = places * turn + (70 + 40j)
    landmarks = np.full(68, 90 + 90j)
    for (begin, end), place in zip([(36, 42), (42, 48), (30, 31), (48, 49), (54, 55)], places, strict=True):
        landmarks[begin:end] = place
    frame = np.zeros((200, 200, 3), np.uint8)
    x, y = round(places[0].real), round(places[0].imag)
    frame[y - 1 : y + 2, x - 1 : x + 2] = 255  # the first eye
    points = np.stack([landmarks.real, landmarks.imag], axis=1).ravel().tolist()
    crop = np.asarray(aligned_crop(frame, {"landmarks": points}).convert("L"), np.float64)
    rows, columns = np.mgrid[:112, :112]
    assert np.average(columns, weights=crop) == pytest.approx(38.3, abs=1.5)
    assert np.average(rows, weights=crop) == pytest.approx(51.7, abs=1.5)


def test_the_hugging_face_folder_opens_and_has_a_card(out, tmp_path):
    done = export(out, "--format", "hf", "--to", tmp_path / "set")
    assert done.exit_code == 0, done.output
    faces = datasets.load_dataset(str(tmp_path / "set"), split="train", cache_dir=str(tmp_path / "cache"))
    assert faces.num_rows == 72
    assert {"key", "identity_id", "AU12", "happiness", "landmarks", "embedding"} <= set(faces.column_names)
    assert sum(faces["happiness"]) == pytest.approx(3 * sum(i / 24 for i in range(24)), rel=1e-5)
    card = (tmp_path / "set" / "README.md").read_text()
    assert card.startswith("---\n")
    assert "| face | squares | 1 | Apache-2.0 |" in card
    assert "Known limits" in card
    assert "| box_x1 | float | px |" in card


def test_the_wide_view_has_a_row_per_face_with_everything(out):
    db = duckdb.connect()
    db.execute(views_sql(open_output(out)))
    rows = db.sql("SELECT * FROM atlas").fetch_arrow_table()
    assert rows.num_rows == 72
    assert {"box_x1", "landmarks", "AU12", "happiness", "gaze_yaw", "embedding", "key", "track_id", "name"} <= set(
        rows.column_names
    )
    green = db.sql("SELECT count(*), min(box_x1) FROM atlas WHERE name = '<i>Green</i>'").fetchall()[0]
    assert green == (24, squares.box(squares.GREEN, 23)[0])
    for table in ("clips", "faces", "tracks", "identities", "quarantine"):
        assert db.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0] == pipeline.read_table(out, table).num_rows


def test_a_format_without_a_place_to_go_says_what_is_missing(out):
    done = export(out, "--format", "coco")
    assert done.exit_code == 2


@pytest.mark.parametrize("form", ["coco", "hf", "webdataset", "fex-parquet"])
def test_subject_leaves_the_faces_of_the_clips_subjects(tmp_path, form):
    (tmp_path / "out").mkdir()
    out = squares.write_output(tmp_path / "out")
    (path,) = Path(out).glob("**/tracks/**/*.parquet")
    tracks = pq.read_table(path)
    subject = pa.array([name == "a" * 16 for name in tracks["identity_id"].to_pylist()])
    pq.write_table(
        tracks.set_column(tracks.column_names.index("subject"), tracks.schema.field("subject"), subject), path
    )
    counts = []
    for number, options in enumerate(([], ["--subject"])):
        to = tmp_path / (f"{number}.parquet" if form == "fex-parquet" else f"{number}.json")
        done = export(out, "--format", form, "--to", to, *options, *(["--faces-only"] if form == "fex-parquet" else []))
        assert done.exit_code == 0, done.output
        counts.append(int(done.output.split(" rows in")[0].split()[-1]))
    members = dict(zip(tracks["track_id"].to_pylist(), tracks["frames"].to_pylist(), strict=True))
    of_subject = [
        members[t] for t, is_it in zip(tracks["track_id"].to_pylist(), subject.to_pylist(), strict=True) if is_it
    ]
    assert counts[1] == sum(map(len, of_subject)) < counts[0] == 72


def test_views_show_everybody(out):
    assert export(out, "--format", "views", "--subject").exit_code == 2
