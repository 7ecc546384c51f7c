"""The documents say what is: generated pages are up to date, commands exist with these options, and run."""

import importlib.util
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import pipeline
from jobs.cli import app
from jobs.docs import PAGES

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([PROJECT / "README.md", *(PROJECT / "docs").glob("*.md"), *(PROJECT / "infra").rglob("*.md")])
#: commands that run here, on a small output; the others need a network, a cluster or Ray (CI runs the demo)
RUN = ("status", "versions list", "quarantine list", "quarantine retry", "forget", "config", "identities name")


def commands():
    """(document, words of the command) of every faceatlas command in the code blocks, comments left out."""
    found = {}
    for path in DOCUMENTS:
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", path.read_text(), re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                while "faceatlas" in words:
                    words = words[words.index("faceatlas") + 1 :]
                    end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
                    found[path.name, " ".join(words[:end])] = words[:end]
    return [(name, words) for (name, _), words in sorted(found.items())]


COMMANDS = commands()


def parse(arguments):
    """Parse as the command line does, down to the last sub-command, without running it."""
    command, name = get_command(app), "faceatlas"
    context = command.make_context(name, list(arguments), resilient_parsing=False)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_follows_from_the_code_is_up_to_date(name):
    assert (PROJECT / "docs" / name).read_text() == PAGES[name](), "run python -m jobs.docs"


def test_the_documents_have_commands():
    assert len(COMMANDS) > 30


def names(pairs):
    return [f"{document}: {' '.join(words)[:70]}" for document, words in pairs]


@pytest.mark.parametrize(("document", "words"), COMMANDS, ids=names(COMMANDS))
def test_a_command_in_a_document_exists_with_these_options(document, words):
    parse(words)


@pytest.mark.parametrize("line", ["faceatlas status OUT --jsn", "faceatlas versions show OUT", "faceatlas forgot OUT"])
def test_a_command_that_does_not_exist_would_be_noticed(line):
    with pytest.raises(Exception, match="No such"):
        parse(shlex.split(line)[1:])


RUNNABLE = [
    (document, words)
    for document, words in COMMANDS
    if " ".join(words).startswith(RUN) and ("OUT" in words or words[0] == "config")
]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("squares", PROJECT / "tests" / "look" / "squares.py")
    squares = sys.modules.setdefault("squares", importlib.util.module_from_spec(spec))
    if not hasattr(squares, "write_output"):
        spec.loader.exec_module(squares)
    return Path(squares.write_output(tmp_path_factory.mktemp("documents")))


@pytest.mark.parametrize(("document", "words"), RUNNABLE, ids=names(RUNNABLE))
def test_a_command_in_a_document_runs_on_a_real_output(document, words, output, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(output, out)
    clip = pipeline.read_table(str(out), "clips").to_pylist()[0]
    identity = pipeline.read_table(str(out), "identities").to_pylist()[0]["identity_id"]
    ids = {"OUT": str(out), "URI": clip["uri"], "ID": clip["clip_id"] if "--clip" in words else identity}
    done = CliRunner().invoke(app, [ids.get(word, word) for word in words])
    assert done.exit_code == 0, done.output


def test_links_between_documents_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"
