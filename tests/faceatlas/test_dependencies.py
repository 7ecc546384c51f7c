"""The dependencies of pyproject.toml are those that the installed packages import, and constraints.txt pins each."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"faceatlas", "pipeline", "actors", "jobs"}
#: used without an import of our own
INDIRECT = {"pandas", "s3fs"}  # `.to_pandas()` of Arrow; s3:// of fsspec
#: of the extra `demo`
DEMO = {"matplotlib", "scikit-image"}


def distribution(requirement):
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!; ]", requirement)[0]).lower()


def imported():
    """Names of the distributions that the files of the wheel import."""
    modules = set()
    for package in OWN:
        for path in (ROOT / package).rglob("*.py"):
            if path.relative_to(ROOT).parts[:2] in {("jobs", "bench"), ("jobs", "training")}:
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module:
                    modules.add(node.module.split(".")[0])
    found = metadata.packages_distributions()
    return {distribution(name) for module in modules - OWN - sys.stdlib_module_names for name in found[module]}


def test_the_dependencies_are_what_the_wheel_imports():
    declared = {distribution(requirement) for requirement in PROJECT["dependencies"]}
    assert imported() - DEMO == declared - INDIRECT


def test_every_dependency_is_pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {distribution(line) for line in lines if "==" in line}
    extras = [name for group in PROJECT["optional-dependencies"].values() for name in group]
    assert {distribution(name) for name in [*PROJECT["dependencies"], *extras]} - pinned == {"faceatlas"}
