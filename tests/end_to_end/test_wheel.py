"""The wheel holds all that an installed Faceatlas needs, the weights of `tiny` too, and nothing else."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "faceatlas", "actors", "pipeline", "jobs")
_MOST_BYTES = 10_000_000  # nine tenths are the weights of `tiny`
LOOK = """
import importlib, json, pkgutil, sys
import actors, faceatlas, jobs, pipeline
packages = (actors, faceatlas, jobs, pipeline)
for package in packages:
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
faces = faceatlas.FaceAnalyzer("tiny").detect(sys.argv[1]).num_rows
print(json.dumps({"from": [package.__file__ for package in packages], "faces": faces}))
"""


@pytest.mark.slow
def test_an_installed_wheel_annotates_with_tiny(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path / "made", source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = (tmp_path / "made").glob("faceatlas-*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = set(archive.namelist())
    data = {name for name in names if not name.endswith(".py") and ".dist-info/" not in name}
    weights = {f"actors/tiny/{name}.safetensors" for name in ("face", "traits", "gaze", "identity")}
    page = {f"jobs/page/{path.name}" for path in (ROOT / "jobs" / "page").iterdir()}
    assert data == weights | page
    assert {name.split("/")[0] for name in names if name.endswith(".py")} == {"faceatlas", "actors", "pipeline", "jobs"}
    # for those who work on the project
    assert not {name for name in names if name.startswith(("jobs/bench", "jobs/training"))}
    assert wheel.stat().st_size < _MOST_BYTES

    picture = tmp_path / "astronaut.png"
    look = "from skimage import data, io; import sys; io.imsave(sys.argv[1], data.astronaut())"
    subprocess.run([sys.executable, "-c", look, picture], check=True, capture_output=True)
    # before everything else on the path, so that the sources of this checkout are not what is imported
    environment = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run(
        [sys.executable, "-c", LOOK, picture], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    said = json.loads(found.stdout)
    assert all(Path(file).is_relative_to(site) for file in said["from"])
    assert said["faces"] == 1
