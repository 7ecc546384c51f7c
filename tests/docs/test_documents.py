"""The documents say what is: generated pages are up to date, commands exist with these options, and run."""

import json
import re
import shlex
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pyarrow as pa
import pytest
import squares
import yaml
from documents import COMMANDS, DOCUMENTS, NOT_RUN, PROJECT
from typer.main import get_command
from typer.testing import CliRunner

import pipeline
from actors.weights.bundles import read_bundle
from actors.weights.catalog import BUNDLES
from jobs.cli import app
from jobs.docs import PAGES
from pipeline import schema
from pipeline.config.models import load_config
from pipeline.storage.output import open_output
from pipeline.tables import parquet

INFRA = PROJECT / "infra"


def parse(arguments):
    """Parse as the command line does, down to the last sub-command, without running it."""
    command, name = get_command(app), "faceatlas"
    context = command.make_context(name, list(arguments), resilient_parsing=False)
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context


def run(*words):
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, f"faceatlas {' '.join(words)}\n{done.output}{done.exception or ''}"
    return done.output


def blocks(language):
    """(document, text) of the code blocks in a language."""
    return [
        (str(path.relative_to(PROJECT)), block)
        for path in DOCUMENTS
        for block in re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)
    ]


# -- what is compared and parsed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_follows_from_the_code_is_up_to_date(name):
    assert (PROJECT / "docs" / name).read_text() == PAGES[name](), "run python -m jobs.docs"


def test_links_between_documents_lead_somewhere():
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_pictures_of_the_documents_are_small():
    sizes = {path.name: path.stat().st_size for path in (PROJECT / "docs" / "images").iterdir()}
    assert sizes
    assert max(sizes.values()) < 300_000


@pytest.mark.parametrize("line", ["faceatlas status OUT --jsn", "faceatlas versions show OUT", "faceatlas forgot OUT"])
def test_a_command_that_does_not_exist_would_be_noticed(line):
    with pytest.raises(Exception, match="No such"):
        parse(shlex.split(line)[1:])


# -- which test runs a command ----------------------------------------------------------------------------------------

#: beginnings of what a shell runs in the test below
SHELL = ("export ", "promtool ", "curl ")


def ran_by(command):
    """The test that runs a command, or why none does."""
    if command.reason:
        return command.reason
    if command.line.startswith(SHELL):
        return "shell"
    if command.words[:3] == ("faceatlas", "models", "pull") or any("models.mirror" in word for word in command.words):
        return "tests/end_to_end/test_documented_runs.py, mirror"
    if "--measure" in command.words:
        return "tests/look/test_plan_forecast.py"
    if command.words[:2] == ("faceatlas", "annotate"):
        return "tests/end_to_end/test_documented_runs.py"
    return "session" if command.words[0] == "faceatlas" else None


def test_every_command_is_run_by_a_test_or_has_a_reason_why_not():
    assert len(COMMANDS) > 70
    assert [command for command in COMMANDS if ran_by(command) is None] == []
    assert len([command for command in COMMANDS if not command.reason]) > 50
    unused = [start for start in NOT_RUN if not any(f"{c.line} ".startswith(f"{start} ") for c in COMMANDS)]
    assert not unused


# -- the commands on an output, one document after the other ----------------------------------------------------------


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working folder: CORPUS, its OUT with two versions of `emotions`, and clip.mp4."""
    squares.write_output(tmp_path, ("CORPUS", "OUT"))
    shutil.copy(tmp_path / "CORPUS" / "red.mp4", tmp_path / "clip.mp4")
    output, table = open_output(str(tmp_path / "OUT")), "emotions"
    old = parquet.read_current(output)[table]
    rows = parquet.read_version(output, table, old)
    (shard,) = set(rows["shard"].to_pylist())
    rows = rows.select(schema.slot_schema("emotions").names).cast(schema.slot_schema("emotions"))
    ledger = parquet.read_ledger(output, table, old, shard).select(parquet.LEDGER.names).cast(parquet.LEDGER)
    parquet.write_chunk_file(output, table, "emotions-2", shard, rows, ledger)
    parquet.promote(output, {table: "emotions-2"})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def filled(words):
    """The words of a command with what its capitals stand for, read off the output as it is now."""
    clips = pipeline.read_table("OUT", "clips").to_pylist()
    done = next(clip for clip in clips if clip["status"] == "done")
    names = (
        [done["clip_id"]] if "--clip" in words else pipeline.read_table("OUT", "identities")["identity_id"].to_pylist()
    )
    stand_for = {"URI": done["uri"], "CLIP": done["key"], "OLD": "emotions-1", "NEW": "emotions-2", "/data/out": "OUT"}
    given = iter(names)
    full = [next(given) if word == "ID" else stand_for.get(word, word) for word in words]
    # the default bundle needs weights from the hub; that of the package does not
    return [*full, "--bundle", "tiny"] if words[0] == "plan" and "--bundle" not in words else full


SESSIONS = sorted({command.document for command in COMMANDS if ran_by(command) == "session"})


@pytest.mark.parametrize("document", SESSIONS)
def test_the_commands_of_a_document_run_one_after_the_other(document, place):
    for command in COMMANDS:
        if command.document == document and ran_by(command) == "session":
            words = filled(command.words[1:])
            run(*words)
            written = [words[i + 1] for i, word in enumerate(words) if word in ("-o", "--to")]
            assert all((place / name).exists() for name in written), command.line


@pytest.fixture
def grafana():
    """A server that takes what the API of Grafana takes; its list of (path, token, JSON)."""
    taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            taken.append((self.path, self.headers["Authorization"], body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", taken
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if ran_by(c) == "shell"], ids=lambda command: command.line[:50]
)
def test_a_shell_runs_what_is_no_command_of_ours(command, grafana):
    tool = "openssl" if command.words[0] == "export" else command.words[0]
    if not shutil.which(tool):
        pytest.skip(f"needs {tool}")
    url, taken = grafana
    script = f"GRAFANA={url} GRAFANA_TOKEN=secret\n{command.text}"
    done = subprocess.run(
        ["bash", "-euc", script], cwd=PROJECT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    if tool == "curl":
        ((path, token, body),) = taken
        assert (path, token) == ("/api/dashboards/db", "Bearer secret")
        assert body["dashboard"]["panels"]


def test_the_python_of_the_readme_runs(place):
    reading, analysing = [text for document, text in blocks("python") if document == "README.md"]
    found = {}
    exec(reading, found)
    assert {found[name].num_rows > 0 for name in ("clips", "tracks", "faces")} == {True}
    exec(analysing.replace('"pyfeat"', '"tiny"'), found)  # whose weights need no hub
    assert isinstance(found["table"], pa.Table)


@pytest.mark.parametrize(("document", "text"), blocks("yaml"))
def test_the_settings_and_the_bundle_of_a_document_are_read(document, text, tmp_path):
    file = tmp_path / "file.yaml"
    file.write_text(text)
    if "extends" not in yaml.safe_load(text):
        assert len(load_config(file, [], {}).actors.pools) == 2
        return
    _, entries, _ = read_bundle(str(file))
    assert set(entries) == set(BUNDLES["pyfeat"])


# -- what cannot be run here ------------------------------------------------------------------------------------------

OTHERS = [command for command in COMMANDS if command.reason]


@pytest.mark.parametrize("command", OTHERS, ids=lambda command: command.line[:60])
def test_a_command_that_cannot_run_here_names_files_and_commands_that_there_are(command):
    for word in command.words:
        name = word.split("=")[-1]
        if re.match(r"(infra|tests|docs|jobs|\.ci)/", name):
            assert (PROJECT / name).exists(), name
    scripts = ("infra/aws/annotate.py", "infra/slurm/annotate.sbatch", "jobs.annotate")
    for script in scripts:  # all of them take the arguments of `faceatlas annotate`
        if script in command.words:
            parse(["annotate", *command.words[command.words.index(script) + 1 :]])
    if "faceatlas" in command.words:
        parse(command.words[command.words.index("faceatlas") + 1 :])


@pytest.mark.parametrize("command", [c for c in OTHERS if c.words[0] == "ray"], ids=lambda command: command.line[:40])
def test_ray_knows_its_commands_with_these_options(command):
    from ray.scripts.scripts import cli

    group, words = cli, list(command.words[1:])
    while hasattr(group, "commands"):
        group = group.commands[words.pop(0)]
    group.make_context("ray", words)


def test_docker_is_asked_for_stages_arguments_and_services_that_there_are():
    dockerfile = (INFRA / "docker" / "Dockerfile").read_text()
    stages = set(re.findall(r" AS (\w+)$", dockerfile, re.MULTILINE))
    arguments = set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    services = set(yaml.safe_load((INFRA / "compose" / "compose.yaml").read_text())["services"])
    lines = [command.line for command in OTHERS if command.words[0] == "docker"]
    assert set(re.findall(r"--target (\w+)", " ".join(lines))) <= stages
    assert set(re.findall(r"--build-arg (\w+)", " ".join(lines))) <= arguments
    assert set(re.findall(r"--scale (\w+)|exec (\w+)", " ".join(lines))) <= {("worker", ""), ("", "head")}
    assert {"worker", "head"} <= services


def test_kubectl_is_asked_for_what_the_manifests_name():
    text = "".join(path.read_text() for path in sorted((INFRA / "kuberay").glob("*.yaml")))
    manifests = [d for path in (INFRA / "kuberay").glob("*.yaml") for d in yaml.safe_load_all(path.read_text()) if d]
    names = {d["metadata"].get("name") for d in manifests if d["kind"] == "RayJob"}
    asked = [command.words for command in OTHERS if command.words[0] == "kubectl"]
    assert {words[3] for words in asked if words[1] in ("get", "delete")} <= names
    made = [words for words in asked if words[1] == "create"]
    assert len(made) == 4
    for words in made:  # its name, and its keys: the literal's, or the file's name
        name = words[4] if words[2] == "secret" else words[3]
        assert re.search(rf"name: {name}\b", text), name
        keys = re.findall(r"--from-literal=(\w+)=|--from-file=\S*/(\S+)", " ".join(words))
        assert all(f"key: {literal}" in text if literal else f"/{file}" in text for literal, file in keys)
