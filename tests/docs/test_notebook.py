"""The notebook runs, its outputs are those of today's code, and so is what README says of the demo."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
NOTEBOOK = PROJECT / "docs" / "notebook.ipynb"
CODE = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]

#: what a cell of the script may use: `!` lines as a notebook runs them, with the faceatlas of this checkout
HEAD = """
import json, shlex, subprocess, sys

def _shell(line):
    program, *arguments = shlex.split(line)
    assert program == "faceatlas", line
    subprocess.run([sys.executable, "-m", "jobs.cli", *arguments], check=True)

_shown = {}
"""


def as_script():
    """The code cells as one module that prints {number of the cell: text of its last expression}."""
    parts = [HEAD]
    for number, cell in enumerate(CODE):
        lines = [
            f"_shell({line[1:]!r})" if line.startswith("!") else line for line in "".join(cell["source"]).split("\n")
        ]
        body = ast.parse("\n".join(lines)).body
        if isinstance(body[-1], ast.Expr) and cell["outputs"]:
            body[-1] = ast.parse(f"_shown[{number}] = repr({ast.unparse(body[-1].value)})").body[0]
        parts.append(ast.unparse(ast.Module(body, [])))
    parts.append("from jobs.commands.demo import say_what_was_found\nsay_what_was_found(out, report)")
    return "\n".join([*parts, "print('SHOWN ' + json.dumps(_shown))"])


def without_ids(text):
    """Ids of people follow from the folder, and so may their order; columns are as wide as they must be."""
    return sorted(
        re.sub(r"\b[0-9a-f]{16}\b|0x[0-9a-f]+", "ID", re.sub(r"^\d+ +| +", " ", line)) for line in text.split("\n")
    )


def words_and_figures(text):
    """The text with every decimal fraction left out, and these in rising order: processors round them differently."""
    fraction = re.compile(r"-?\b\d+\.\d+\b")
    return without_ids(fraction.sub("FRACTION", text)), sorted(map(float, fraction.findall(text)))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the script prints: of the notebook's corpus, which is the demo's."""
    place = tmp_path_factory.mktemp("notebook")
    (place / "notebook.py").write_text(as_script())
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "notebook.py"], cwd=place, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (place / "report.html").exists()
    return done.stdout


def test_every_output_is_that_of_the_code_of_today(said):
    shown, stored = json.loads(said.rpartition("SHOWN ")[2]), {}
    for number, cell in enumerate(CODE):
        for output in cell["outputs"]:
            if "image/png" not in output["data"]:
                stored[str(number)] = "".join(output["data"]["text/plain"])
    assert len(stored) >= 5
    for number, text in stored.items():
        (words, figures), (stored_words, stored_figures) = words_and_figures(shown[number]), words_and_figures(text)
        assert words == stored_words, "run python docs/site/run_notebook.py"
        assert figures == pytest.approx(stored_figures, abs=0.02), "run python docs/site/run_notebook.py"


def test_the_readme_quotes_what_the_demo_prints(said):
    (quoted,) = re.findall(r"```text\n(found: .*?)```", (PROJECT / "README.md").read_text(), re.DOTALL)
    assert quoted in said


def test_the_notebook_is_small_and_shows_the_two_portraits_alone():
    assert NOTEBOOK.stat().st_size < 300_000
    assert sum("image/png" in output["data"] for cell in CODE for output in cell["outputs"]) == 1
