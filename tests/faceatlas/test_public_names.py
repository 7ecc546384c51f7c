"""`import faceatlas`: the public names, and what importing them costs."""

import ast
import collections
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import actors
import actors.errors
import faceatlas
import pipeline
import pipeline.errors

ROOT = Path(__file__).resolve().parents[2]
LOADED = "import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
ERRORS = [getattr(faceatlas, name) for name in faceatlas.__all__ if name.endswith("Error")]


def loaded_by(module):
    program = LOADED.format(module=module)
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=ROOT)
    return set(json.loads(done.stdout))


def test_importing_faceatlas_loads_no_heavy_library():
    heavy = {"torch", "ray", "pyarrow", "numpy", "av", "typer", "rich"}
    assert not heavy & loaded_by("faceatlas")


def test_the_functions_of_runs_load_neither_torch_nor_ray():
    assert not {"torch", "ray"} & loaded_by("faceatlas.runs")


def test_every_public_name_is_that_of_its_package():
    assert faceatlas.read_table is pipeline.read_table
    assert faceatlas.FaceAnalyzer is actors.FaceAnalyzer
    assert faceatlas.ConfigError is pipeline.errors.ConfigError
    assert faceatlas.WeightsError is actors.errors.WeightsError
    assert all(callable(getattr(faceatlas, name)) for name in faceatlas.__all__)
    assert set(faceatlas.__all__) <= set(dir(faceatlas))


def test_all_errors_of_pipeline_and_actors_are_public_and_have_one_root():
    defined = {
        value
        for module in (pipeline.errors, actors.errors)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    assert defined == set(ERRORS)
    assert all(issubclass(error, faceatlas.FaceatlasError) for error in ERRORS)


@pytest.mark.parametrize("error", ERRORS)
def test_errors_survive_the_way_between_workers(error):
    copy = pickle.loads(pickle.dumps(error("what happened")))
    assert (type(copy), str(copy)) == (error, "what happened")


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'annotte'"):
        _ = faceatlas.annotte


def test_no_two_public_functions_have_one_name():
    """A search for a name ends at one place. `annotate` and `plan` are commands and functions of Python as well."""
    places = collections.defaultdict(set)
    for package in ("faceatlas", "pipeline", "actors", "jobs"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    places[node.name].add(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1 and name != "main"} == {
        "annotate": {"faceatlas/runs.py", "jobs/annotate.py"},
        "plan": {"faceatlas/runs.py", "jobs/commands/plan.py"},
    }
