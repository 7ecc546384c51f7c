"""Tables in py-feat's layout, and faces without Ray: the same numbers as in the tables of the flow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

import pipeline
from actors import FaceAnalyzer
from jobs.cli import app
from jobs.commands.demo import portraits
from pipeline.errors import ClipError
from pipeline.export.fex import FEX
from pipeline.export.pyfeat_identities import cluster_identities

NAMES = ["hopper_pan.mp4", "nobody.mp4", "comes_and_goes.mov"]


@pytest.fixture(scope="module")
def corpus(known_clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "clips"
    folder.mkdir()
    for name in NAMES:
        (folder / name).symlink_to(known_clips / name)
    return folder


@pytest.fixture(scope="module")
def out(annotate, corpus, tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("exported") / "out")
    assert annotate(corpus, folder, "tiny", "decode.every=3").complete
    return folder


@pytest.fixture(scope="module")
def analyzer():
    return FaceAnalyzer("tiny", device="cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two pictures: of one face, and of five in a row."""
    folder = tmp_path_factory.mktemp("pictures")
    one, other = (Image.fromarray(portrait) for portrait in portraits())
    one.save(folder / "one.png")
    heads = [one.crop((90, 0, 346, 256)), other.crop((100, 40, 400, 340)).resize((256, 256))]
    row = np.concatenate([np.asarray(heads[i % 2]) for i in range(5)], axis=1)
    Image.fromarray(row).save(folder / "five.jpg")
    return [folder / "one.png", folder / "five.jpg"]


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
        ours = analyzer.detect(corpus / name, every=3).to_pandas()
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


def test_pictures_are_read_too_and_several_files_give_one_table(analyzer, pictures):
    faces = analyzer.detect(pictures).to_pandas()
    assert faces.groupby("path", sort=False).size().tolist() == [1, 5]
    assert faces["frame"].tolist() == [0] * 6


def test_a_file_that_is_no_video_is_named(analyzer, tmp_path):
    (tmp_path / "text.mp4").write_text("not a video")
    with pytest.raises(ClipError, match=r"text\.mp4"):
        analyzer.detect(tmp_path / "text.mp4")


def test_it_runs_without_ray_being_imported(pictures):
    program = (
        "import sys, actors; assert 'torch' not in sys.modules\n"
        "faces = actors.FaceAnalyzer(sys.argv[1]).detect(sys.argv[2])\n"
        "print(faces.num_rows, 'ray' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "tiny", str(pictures[0])],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.split() == ["1", "False"]


# -- export -----------------------------------------------------------------------------------------------------------


def test_every_annotated_frame_has_a_row(csv, out, known_faces):
    table = pd.read_csv(csv)
    assert list(table.columns) == FEX.names
    clips = pipeline.read_table(out, "clips").to_pandas().set_index("key")
    faces = {Path(name).stem: sum(known_faces[name][::3]) for name in NAMES}
    assert clips["faces"].to_dict() == faces
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
    assert [file.name for file in files] == ["comes_and_goes.parquet", "hopper_pan.parquet", "nobody.parquet"]
    tables = {file: pd.read_parquet(file) for file in files}
    text = pd.read_csv(csv)
    for table in tables.values():
        rows = text[text["input"] == table["input"].iloc[0]].reset_index(drop=True)
        for column in ("FaceRectX", "x_30", "Identity_512", "approx_time", "frame"):
            pd.testing.assert_series_equal(table[column], rows[column], check_dtype=False, rtol=1e-6)


def test_only_the_clip_that_is_named_and_only_frames_with_faces(out, tmp_path):
    path = tmp_path / "one.csv"
    assert export(out, "--to", path, "--clip", "comes_and_goes", "--faces-only")[0] == 0
    table = pd.read_csv(path)
    assert table["FaceRectX"].notna().all()
    assert table["input"].nunique() == 1
    assert table["frame"].tolist() == list(range(0, 24, 3))
    code, said = export(out, "--to", path, "--clip", "absent")
    assert (code, "absent" in said) == (2, True)


def test_frames_that_cannot_be_known_are_an_error_that_says_what_to_do(annotate, corpus, tmp_path):
    out = str(tmp_path / "out")
    assert annotate(corpus / "comes_and_goes.mov", out, "tiny", "decode.fps=4").complete
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
