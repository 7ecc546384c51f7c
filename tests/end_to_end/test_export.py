"""Tables in py-feat's layout, and faces without Ray: the same numbers as in the tables of the flow."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import pipeline
from actors import FaceAnalyzer
from jobs.cli import app
from pipeline.errors import ClipError
from pipeline.export.fex import FEX
from pipeline.export.pyfeat_identities import cluster_identities

NAMES = ["single_face.mp4", "no_face.mp4", "face_noface.mov"]


@pytest.fixture(scope="module")
def corpus(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "clips"
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to(data / "videos" / name)
    return folder


@pytest.fixture(scope="module")
def out(annotate, shared_bundle, corpus, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("exported") / "out")
    assert annotate(corpus, folder, shared_bundle, "decode.every=9").complete
    return folder


@pytest.fixture(scope="module")
def analyzer(shared_bundle):
    return FaceAnalyzer(shared_bundle, device="cpu")


def export(*arguments):
    done = CliRunner().invoke(app, ["export", *map(str, arguments)])
    return done.exit_code, done.output


@pytest.fixture(scope="module")
def csv(out, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "fex.csv"
    code, said = export(out, "--to", path)
    assert code == 0, said
    return path


# -- FaceAnalyzer -----------------------------------------------------------------------------------------------------


def test_faces_without_ray_are_those_of_the_flow(out, analyzer, corpus):
    clips = pipeline.read_table(out, "clips").to_pandas().set_index("clip_id")["key"]
    for name in NAMES:
        ours = analyzer.detect(corpus / name, every=9).to_pandas()
        for table, columns in (
            ("faces", ["time", "box_x1", "box_y1", "box_x2", "box_y2", "score", "points5"]),
            ("landmarks", ["landmarks"]),
            ("embeddings", ["embedding"]),
        ):
            rows = pipeline.read_table(out, table).to_pandas()
            rows = rows[rows["clip_id"].map(clips) == name.split(".")[0]].sort_values(["frame", "face"])
            assert rows[["frame", "face"]].to_numpy().tolist() == ours[["frame", "face"]].to_numpy().tolist()
            for column in columns if len(rows) else []:
                mine, theirs = (np.stack(frame[column].to_numpy()) for frame in (ours, rows))
                np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-3, err_msg=f"{name} {column}")
        assert ours["AU01"].isna().all()


def test_pictures_are_read_too_and_several_files_give_one_table(analyzer, data):
    folder = data / "images" / "pyfeat"
    faces = analyzer.detect([folder / "single_face.jpg", folder / "multi_face.jpg"]).to_pandas()
    assert faces.groupby("path", sort=False).size().tolist() == [1, 5]
    assert faces["frame"].tolist() == [0] * 6


def test_a_file_that_is_no_video_is_named(analyzer, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ClipError, match=r"text\.mp4"):
        analyzer.detect(tmp_path / "text.mp4")


def test_it_runs_without_ray_being_imported(shared_bundle, data):
    program = (
        "import sys, actors; assert 'torch' not in sys.modules\n"
        "faces = actors.FaceAnalyzer(sys.argv[1]).detect(sys.argv[2])\n"
        "print(faces.num_rows, 'ray' in sys.modules)"
    )
    picture = data / "images" / "pyfeat" / "single_face.jpg"
    done = subprocess.run(
        [sys.executable, "-c", program, shared_bundle, str(picture)],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.split() == ["1", "False"]


# -- export -----------------------------------------------------------------------------------------------------------


def test_every_annotated_frame_has_a_row(csv, out):
    table = pd.read_csv(csv)
    assert list(table.columns) == FEX.names
    clips = pipeline.read_table(out, "clips").to_pandas().set_index("key")
    for key, clip in clips.iterrows():
        rows = table[table["input"].str.contains(f"/{key}.", regex=False)]
        assert rows["frame"].nunique() == clip["sampled"]
        assert rows["FaceRectX"].notna().sum() == clip["faces"]
        assert (rows.loc[rows["FaceRectX"].isna(), "FaceScore"] == 0).all()
        assert rows["FrameWidth"].eq(clip["width"]).all()
    assert table["FaceRectX"].isna().any()


def test_identities_of_the_corpus_are_the_labels(csv, out):
    table = pd.read_csv(csv)
    known = set(pipeline.read_table(out, "identities")["identity_id"].to_pylist())
    labels = set(table["Identity"].dropna())
    assert labels
    assert labels <= known


@pytest.mark.parametrize("method", ["gallery", "connected", "hdbscan"])
def test_the_references_clustering_labels_the_faces_of_each_clip(method, csv, out, tmp_path):
    path = tmp_path / "fex.parquet"
    options = ("--format", "fex-parquet", "--to", path, "--identities", method)
    code, said = export(out, *options)
    assert code == 0, said
    table = pd.read_parquet(path)
    assert set(table.loc[table["FaceRectX"].isna(), "Identity"].dropna()) == set()
    for _, rows in table[table["FaceRectX"].notna()].groupby("input"):
        embeddings = rows[[f"Identity_{i}" for i in range(1, 513)]].to_numpy()
        assert rows["Identity"].tolist() == [str(label) for label in cluster_identities(embeddings, 0.8, method)]
        assert rows["Identity"].iloc[0] in ("Person_0", "Unknown")  # the second is hdbscan's noise


def test_parquet_holds_the_same_rows_one_file_per_clip(csv, out, tmp_path):
    assert export(out, "--format", "fex-parquet", "--to", tmp_path / "fex")[0] == 0
    files = sorted((tmp_path / "fex").iterdir())
    assert [file.name for file in files] == ["face_noface.parquet", "no_face.parquet", "single_face.parquet"]
    tables = {file: pd.read_parquet(file) for file in files}
    text = pd.read_csv(csv)
    for table in tables.values():
        rows = text[text["input"] == table["input"].iloc[0]].reset_index(drop=True)
        for column in ("FaceRectX", "x_30", "Identity_512", "approx_time", "frame"):
            pd.testing.assert_series_equal(table[column], rows[column], check_dtype=False, rtol=1e-6)


def test_only_the_clip_that_is_named_and_only_frames_with_faces(out, tmp_path):
    path = tmp_path / "one.csv"
    assert export(out, "--to", path, "--clip", "face_noface", "--faces-only")[0] == 0
    table = pd.read_csv(path)
    assert table["FaceRectX"].notna().all()
    assert table["input"].nunique() == 1
    code, said = export(out, "--to", path, "--clip", "nobody")
    assert (code, "nobody" in said) == (2, True)


def test_frames_that_cannot_be_known_are_an_error_that_says_what_to_do(annotate, shared_bundle, corpus, tmp_path):
    out = str(tmp_path / "out")
    assert annotate(corpus / "face_noface.mov", out, shared_bundle, "decode.fps=4").complete
    code, said = export(out, "--to", tmp_path / "fex.csv")
    assert code == 2
    assert "decode.fps" in said
    assert "--faces-only" in said
    assert export(out, "--to", tmp_path / "fex.csv", "--faces-only")[0] == 0


def test_py_feat_opens_the_csv(csv):
    python = os.environ.get("FACEATLAS_PEER_PYTHON")
    if python is None:
        pytest.skip("needs FACEATLAS_PEER_PYTHON, an interpreter with py-feat 2.0.3")
    program = (
        "import sys, json; from feat.utils.io import read_feat\n"
        "fex = read_feat(sys.argv[1])\n"
        "print(json.dumps([type(fex).__name__, len(fex), list(fex.landmarks.shape), list(fex.poses.shape),\n"
        "    list(fex.aus.shape), list(fex.emotions.shape), list(fex.faceboxes.columns), fex.identities.nunique()]))"
    )
    done = subprocess.run([python, "-c", program, str(csv)], capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(csv)
    count = len(table)
    boxes = ["FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "FaceScore"]
    expected = ["Fex", count, [count, 136], [count, 6], [count, 20], [count, 7], boxes, table["Identity"].nunique()]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == expected
