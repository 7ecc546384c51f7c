"""Every code block of docs/recipes.md runs as it stands, and gives what its comments say."""

import gc
import re
from pathlib import Path

import pytest
import squares
from typer.testing import CliRunner

from jobs.cli import app

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
BLOCKS = dict(re.findall(r"^## (.+?)\n.*?^```python\n(.*?)^```", RECIPES.read_text(), re.DOTALL | re.MULTILINE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with OUT and what the commands of the recipes write."""
    place = tmp_path_factory.mktemp("recipes")
    Path(squares.write_output(place)).rename(place / "OUT")
    for arguments in (
        ["--format", "views"],
        ["--format", "hf", "--to", str(place / "dataset")],
        ["--format", "webdataset", "--to", str(place / "crops"), "--every", "5"],
        ["--format", "coco", "--to", str(place / "faces.json")],
    ):
        done = CliRunner().invoke(app, ["export", str(place / "OUT"), *arguments])
        assert done.exit_code == 0, done.output
    return place


@pytest.fixture
def run(folder, monkeypatch):
    """run(title): the variables that a recipe leaves."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder / "cache"))

    def block(title):
        variables = {}
        exec(BLOCKS[title], variables)
        return variables

    return block


def test_each_tool_has_a_recipe():
    assert list(BLOCKS) == ["DuckDB", "Polars", "pandas", "Hugging Face `datasets`", "WebDataset", "COCO"]


def test_duckdb_finds_who_smiles_and_who_is_together(run):
    found = run("DuckDB")
    assert len(found["smiles"]) == 3
    assert found["together"].to_dict("records") == [{"one": "a" * 16, "other": "b" * 16, "frames": 24}]


def test_polars_joins_faces_with_pose_and_lists_members(run):
    found = run("Polars")
    assert found["frontal"].height == found["members"].height == 72


def test_pandas_takes_a_mean_per_clip_and_lists_what_failed(run):
    found = run("pandas")
    assert found["smile"].to_dict() == pytest.approx({"red": 11.5 / 24, "both": 11.5 / 24}, rel=1e-5)
    assert found["failed"]["error_class"].tolist() == ["truncated"]


def test_datasets_filters_faces_and_gives_embeddings(run):
    found = run("Hugging Face `datasets`")
    assert found["sure"].num_rows == 72
    assert len(found["embeddings"][0]) == 512


# webdataset leaves shards open until they are collected
@pytest.mark.filterwarnings("ignore:unclosed file <_io.BufferedReader name='crops/faces-:ResourceWarning")
def test_webdataset_gives_crops_and_labels(run):
    found = run("WebDataset")
    assert found["crop"].size == (112, 112)
    assert found["label"]["identity_id"] in squares.PEOPLE
    found.clear()
    gc.collect()


def test_coco_gives_boxes(run):
    assert len(run("COCO")["boxes"]) == 72
