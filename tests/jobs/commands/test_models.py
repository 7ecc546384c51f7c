"""`faceatlas models`: the real command line, and a hub on this machine."""

import hashlib
import json

import pytest
from typer.testing import CliRunner

from actors.weights.catalog import BUNDLES, MODELS
from jobs import annotate
from jobs.cli import app
from pipeline.config.models import load_config
from pipeline.corpus.discover import Corpus
from pipeline.schema import CLIP


@pytest.fixture
def pyfeat(hub_server):
    for slot, model in BUNDLES["pyfeat"].items():
        for file in MODELS[slot][model].files.values():
            hub_server.files[f"{file.repo}/{file.names[0]}"] = file.repo.encode()
    return hub_server


def models(*command):
    done = CliRunner().invoke(app, ["models", *map(str, command)])
    return done.exit_code, done.output


def test_list_names_every_model_with_its_license():
    code, said = models("list", "--json")
    rows = json.loads(said)
    assert code == 0
    assert {(row["slot"], row["model"]) for row in rows} == {(slot, m) for slot in MODELS for m in MODELS[slot]}
    arcface = next(row for row in rows if row["model"] == "arcface_r50")
    assert (arcface["research_only"], arcface["default_of"]) == (True, ["pyfeat"])
    assert arcface["license"] == "non-commercial research only"
    said = models("list")[1]
    assert said.split("\n")[0].split()[-1] == "LICENSE"
    assert "RESEARCH ONLY: non-commercial research only" in said


def test_pull_verify_and_list_a_mirror(pyfeat, tmp_path):
    mirror = tmp_path / "mirror"
    code, said = models("pull", "--to", mirror, "--bundle", "pyfeat")
    assert code == 0, said
    assert "research only: the weights of embeddings arcface_r50" in said
    assert models("verify", "--mirror", mirror, "--bundle", "pyfeat")[0] == 0
    rows = json.loads(models("list", "--json", "--bundle", "pyfeat", "--set", f"models.mirror={mirror}")[1])
    assert {row["known_from"] for row in rows} == {"mirror"}

    (mirror / "py-feat/arcface_r50/arcface_r50.safetensors").write_bytes(b"damaged")
    code, said = models("verify", "--set", f"models.mirror={mirror}")
    assert code == 1
    assert "differs    py-feat/arcface_r50/arcface_r50.safetensors" in said
    assert "7 of 8 files" in said


def test_pull_says_what_the_hub_lacks_and_does_the_rest(pyfeat, tmp_path):
    del pyfeat.files["py-feat/arcface_r50/arcface_r50.safetensors"]
    code, said = models("pull", "--to", tmp_path / "mirror", "--bundle", "pyfeat")
    assert code == 1
    assert "failed     py-feat/arcface_r50/arcface_r50.safetensors" in said
    assert "7 of 8 files" in said


@pytest.mark.parametrize("command", [("pull", "--to", "x"), ("verify", "--bundle", "tiny")])
def test_a_command_that_would_do_nothing_says_so(command):
    code, said = models(*command)
    assert code == 2
    assert "which models" in said or "nothing to verify" in said


def test_a_run_says_and_records_licenses_and_commits(pyfeat, capsys):
    bundle = annotate.resolve("pyfeat", load_config(None, [], {}))
    annotate.say_inputs(Corpus(CLIP.empty_table(), []), bundle, annotate.console)
    assert (
        "research only: the weights of embeddings arcface_r50 (non-commercial research only)" in capsys.readouterr().out
    )
    recorded = annotate.wanted_of(bundle).models["embeddings"]
    assert (recorded["research_only"], recorded["license"]) == (True, "non-commercial research only")
    file = recorded["files"]["weights"]
    assert (file["repo"], file["revision"]) == ("py-feat/arcface_r50", pyfeat.commit)
    assert file["sha256"] == hashlib.sha256(b"py-feat/arcface_r50").hexdigest()
