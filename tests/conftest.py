"""Where the material of the tests lies: beside the checkout, or where the environment says."""

import os
from pathlib import Path

# before torch is imported: on a busy machine spinning OpenMP threads made these tests nine times slower
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable, default):
    folder = Path(os.environ.get(variable, default))
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder} (or {variable}), which is not part of the project")
    return folder


@pytest.fixture(scope="session")
def data():
    """Folder with `videos`, `odd` and `images`."""
    return _folder("FACEATLAS_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def weights():
    """Folder with small published weights."""
    return _folder("FACEATLAS_MODELS", SHARED / "models")
