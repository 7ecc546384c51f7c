"""Files that code and documents name are there, on a plain clone."""

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
#: a path from the project's root, or a document without one
POINTER = re.compile(
    r"(?<![\w/.-])((?:docs|tests|infra|actors|pipeline|jobs)/[\w/.-]*\.(?:md|py|json|yaml|toml)|\w+_\w+\.md)\b"
)


def missing(text):
    """Of the files that a text names, those that are not there."""
    named = POINTER.findall(text)
    return {name for name in named if not any((PROJECT / folder / name).exists() for folder in (".", "docs"))}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("see docs/parity.md, tests/conftest.py and parity_precision.md", set()),
        ("see docs/no_such_page.md and pipeline/none.py", {"docs/no_such_page.md", "pipeline/none.py"}),
        ("Formulas: pyfeat_detector.md section 2", {"pyfeat_detector.md"}),
        ("in /tmp/tests/x.py", set()),
    ],
)
def test_a_file_that_is_not_there_is_noticed(text, found):
    assert missing(text) == found


def test_every_file_that_code_and_documents_name_is_there():
    listed = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    paths = [path for path in listed.stdout.split() if not path.startswith("tests/docs/")]  # these hold wrong samples
    found = {path: missing((PROJECT / path).read_text()) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}
