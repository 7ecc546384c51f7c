"""The main job as users start it: the installed command, and `ray job submit` to a running cluster."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

import pipeline

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def call(*command, **environment):
    done = subprocess.run(
        [str(part) for part in command],
        cwd=PROJECT,
        env={**os.environ, "RAY_AUTH_MODE": "disabled", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    code, text = call(BIN / "faceatlas", "demo", folder)
    assert code == 0, text
    return folder, text


def test_the_demo_finds_two_people_and_quarantines_the_corrupt_clip(demo):
    folder, text = demo
    clips = pipeline.read_table(str(folder / "tables"), "clips").to_pandas().set_index("key")
    assert clips["status"].value_counts().to_dict() == {"done": 7, "quarantined": 1}
    assert clips.loc["corrupt", "status"] == "quarantined"
    assert clips.loc["nobody", "faces"] == 0
    assert clips.loc[["astronaut_pan", "hopper_zoom", "two_people"], "faces"].min() >= 30
    assert "left out, no model in this bundle: action_units" in text
    assert "2 people" in text
    assert "quarantined corrupt.mp4: " in text


def test_the_demo_knows_both_people_in_all_their_clips(demo):
    out = str(demo[0] / "tables")
    clips = pipeline.read_table(out, "clips").to_pandas().set_index("clip_id")["key"]
    tracks = pipeline.read_table(out, "tracks").to_pandas()
    assert pipeline.read_table(out, "identities").num_rows == 2
    seen = {}
    for clip_id, identity in zip(tracks["clip_id"], tracks["identity_id"], strict=True):
        seen.setdefault(clips[clip_id], set()).add(identity)
    astronaut, hopper = seen["astronaut_pan"], seen["hopper_zoom"]
    assert len(astronaut) == len(hopper) == 1
    assert astronaut != hopper
    assert seen["astronaut_flip_light"] == astronaut
    assert seen["hopper_pan"] == hopper
    assert seen["two_people"] == seen["cut"] == astronaut | hopper


def test_the_three_lines_of_the_demo_run(demo):
    lines = [line.strip() for line in demo[1].splitlines() if line.strip().startswith("python -c")]
    assert len(lines) == 3
    for line in lines:
        done = subprocess.run(line, shell=True, cwd=PROJECT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "clip_id" in done.stdout or "identity_id" in done.stdout or "..." in done.stdout


def test_the_demo_writes_a_report_with_both_faces(demo):
    page = (demo[0] / "report.html").read_text()
    people = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])["people"]
    assert len(people["rows"]) == len(people["faces"]) == 2


def test_the_status_command_prints_the_totals(demo):
    code, text = call(BIN / "faceatlas", "status", demo[0] / "tables", "--json")
    status = json.loads(text)
    assert code == 0
    assert status["clips"] == {"done": 7, "empty": 0, "quarantined": 1}
    assert status["frames"] == 7 * 36
    assert status["faces"] > 0
    assert status["tracks"] >= 6


def test_the_plan_of_a_finished_corpus_is_empty(demo):
    corpus, out = demo[0] / "corpus", demo[0] / "tables"
    code, text = call(BIN / "faceatlas", "plan", corpus, out, "--bundle", "tiny", "--json")
    plan = json.loads(text)
    assert (code, plan["clips"], plan["to_do"]) == (0, 8, 0)
    code, text = call(BIN / "faceatlas", "plan", corpus, demo[0] / "elsewhere", "--bundle", "tiny")
    assert "8 clips: new clip" in text
    assert not (demo[0] / "elsewhere").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["annotate", "no-such-folder", "OUT", "--bundle", "tiny"], "no-such-folder"),
        (["annotate", "tests", "OUT", "--bundle", "tiny", "--set", "decode.evry=2"], "decode.evry"),
        (["annotate", "tests", "OUT", "--bundle", "absent.yaml"], "absent.yaml"),
        (["status", "OUT"], "current.json"),
    ],
)
def test_mistakes_end_with_one_message_and_exit_code_2(arguments, words, tmp_path):
    code, text = call(BIN / "faceatlas", *[str(tmp_path) if part == "OUT" else part for part in arguments])
    assert code == 2
    assert words in text
    assert "Traceback" not in text


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, free_port):
    # ports and a folder of its own, and ended by its own process: other clusters of this machine are left alone
    dashboard = free_port()
    options = {
        "--node-ip-address": "127.0.0.1",
        "--port": free_port(),
        "--dashboard-host": "127.0.0.1",
        "--dashboard-port": dashboard,
        "--dashboard-agent-listen-port": free_port(),
        "--num-cpus": 2,
        "--temp-dir": f"/tmp/{tmp_path_factory.mktemp('ray').parent.name}-ray{os.getpid()}",
    }
    arguments = [f"{name}={value}" for name, value in options.items()]
    head = subprocess.Popen(
        [str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats", *arguments],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 120
    while not answers(f"{address}/api/version"):
        assert head.poll() is None, "ray start ended"
        assert time.monotonic() < deadline, "the dashboard does not answer"
        time.sleep(0.5)
    yield address
    # ended by force: asked politely, `ray start --block` takes half a minute
    processes = [*psutil.Process(head.pid).children(recursive=True), head]
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    head.wait(10)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def test_ray_job_submit_runs_the_same_job(demo, cluster, tmp_path):
    out = tmp_path / "out"
    code, text = call(
        *(BIN / "ray", "job", "submit", "--address", cluster, "--working-dir", ".", "--"),
        *("python", "-m", "jobs.annotate", demo[0] / "corpus", out, "--bundle", "tiny", "--every", 8),
    )
    assert code == 0, text
    assert "8 clips: 7 done, 0 empty, 1 quarantined" in text
    found, of_all = (
        set(zip(*(table[name].to_pylist() for name in ("clip_id", "frame", "face")), strict=True))
        for table in (pipeline.read_table(str(tables), "faces") for tables in (out, demo[0] / "tables"))
    )
    assert found == {key for key in of_all if key[1] % 8 == 0} != set()
