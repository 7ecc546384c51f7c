"""One small output for all that looks at outputs."""

import importlib.util
import sys
from pathlib import Path

import pytest

# test modules are no package; this makes the module importable by its name
_spec = importlib.util.spec_from_file_location("squares", Path(__file__).with_name("squares.py"))
squares = importlib.util.module_from_spec(_spec)
sys.modules["squares"] = squares
_spec.loader.exec_module(squares)
sys.path.append(str(Path(__file__).parents[1] / "docs"))


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    """An output of three done clips of coloured squares and a quarantined one; nobody changes it."""
    return squares.write_output(tmp_path_factory.mktemp("squares"))
