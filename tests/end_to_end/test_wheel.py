"""The wheel holds all that an installed Faceatlas needs: the weights of `tiny` too."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "actors", "pipeline", "jobs")
LOOK = """
import json, sys
import actors
from actors import FaceAnalyzer
print(json.dumps({"from": actors.__file__, "faces": FaceAnalyzer("tiny").detect(sys.argv[1]).num_rows}))
"""


@pytest.mark.slow
def test_an_installed_wheel_annotates_with_tiny(tmp_path):
    pytest.importorskip("setuptools", reason="the wheel is built here, without a network")
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
        weights = {name for name in archive.namelist() if name.endswith(".safetensors")}
    assert weights == {f"actors/tiny/{name}.safetensors" for name in ("face", "traits", "gaze", "identity")}

    picture = tmp_path / "astronaut.png"
    look = "from skimage import data, io; import sys; io.imsave(sys.argv[1], data.astronaut())"
    subprocess.run([sys.executable, "-c", look, picture], check=True, capture_output=True)
    # before everything else on the path, so that the sources of this checkout are not what is imported
    environment = {**os.environ, "PYTHONPATH": str(site)}
    found = subprocess.run(
        [sys.executable, "-c", LOOK, picture], check=True, capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    said = json.loads(found.stdout)
    assert Path(said["from"]).is_relative_to(site)
    assert said["faces"] == 1
