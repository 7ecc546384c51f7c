"""docs/architecture.md lists a frame's way and a track's: each file once, each function where the list says."""

import ast
import re

import pytest
from documents import PROJECT

TEXT = (PROJECT / "docs" / "architecture.md").read_text()
WAYS = {
    title: re.findall(r"^\d+\. `([\w/.]+)`: `([\w.]+)`", TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0], re.M)
    for title in ("A frame's way", "A track's way")
}


def names_of(path):
    """Functions and classes of a module, and `Class.method`."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("title", WAYS)
def test_a_way_names_each_file_once_and_functions_that_exist(title):
    steps = WAYS[title]
    files = [file for file, _ in steps]
    assert len(steps) >= 5
    assert len(files) == len(set(files))
    missing = [f"{file}: {name}" for file, name in steps if name not in names_of(PROJECT / file)]
    assert not missing


def test_the_table_of_folders_has_every_folder():
    listed = set(re.findall(r"`((?:pipeline|actors)/\w+)/`", TEXT.partition("## Folders")[2].partition("\n## ")[0]))
    there = {
        f"{p.parent.relative_to(PROJECT)}"
        for name in ("pipeline", "actors")
        for p in (PROJECT / name).glob("*/__init__.py")
    }
    assert listed == there
