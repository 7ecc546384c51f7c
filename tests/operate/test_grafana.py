"""The dashboard and the alerts speak of metrics that a run does export, under these names and labels."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

import pipeline

PROJECT = Path(__file__).resolve().parents[2]
GRAFANA = PROJECT / "infra" / "grafana"
TARGETS = [
    (panel["title"], target["expr"])
    for panel in json.loads((GRAFANA / "dashboard.json").read_text())["panels"]
    for target in panel["targets"]
]
ALERTS = [rule for group in yaml.safe_load((GRAFANA / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]

with_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus") or not shutil.which("promtool"),
    reason="needs prometheus and promtool (Debian's package)",
)


def get(url):
    with urllib.request.urlopen(url, timeout=30) as reply:
        return reply.read().decode()


@pytest.fixture(scope="module")
def run(tmp_path_factory, free_port):
    """A run under the eyes of Prometheus, if there is one: (scrape, Prometheus' address, logs, tables)."""
    folder = tmp_path_factory.mktemp("metered")
    command = [sys.executable, str(Path(__file__).with_name("metered_run.py")), str(folder)]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(PROJECT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": PROJECT, "env": environment}
    prometheus = None
    with subprocess.Popen(command, **pipes) as job:
        try:
            port = next(int(line) for line in job.stdout if line.strip().isdigit())
            address, prometheus = start_prometheus(folder, port, free_port())
            say(job)
            session = next(line.split()[1] for line in job.stdout if line.startswith("done "))
            scrape = settled(f"http://127.0.0.1:{port}/metrics")
            logs = [path.read_text() for path in Path("/tmp/ray", session, "logs").glob("worker-*.err")]
            yield scrape, address, "".join(logs), folder / "tables"
            say(job)
        finally:
            if prometheus is not None:
                prometheus.terminate()
                prometheus.wait(30)
            if job.poll() is None:
                try:
                    job.wait(30)
                except subprocess.TimeoutExpired:
                    job.kill()


def settled(url):
    """A scrape that has the last report of the driver and of the workers: reports come every half second, or late."""
    deadline, scrape, before = time.monotonic() + 60, "", None
    while time.monotonic() < deadline:
        scrape = get(url)
        recorded = sorted(line for line in scrape.splitlines() if line.startswith("ray_faceatlas"))
        if recorded == before and re.search(r"^ray_faceatlas_clips_left\{.*\} 0(\.0)?$", scrape, re.MULTILINE):
            return scrape
        before = recorded
        time.sleep(2)
    return scrape


def say(job):
    job.stdin.write("\n")
    job.stdin.flush()


def start_prometheus(folder, scraped, port):
    if not shutil.which("prometheus"):
        return None, None
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(GRAFANA / "alerts.yaml")],
        "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = {"--config.file": folder / "prometheus.yml", "--storage.tsdb.path": folder / "tsdb"}
    options["--web.listen-address"] = f"127.0.0.1:{port}"
    command = ["prometheus", "--log.level=error", *(f"{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            get(f"{address}/-/ready")
            return address, process
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("prometheus does not become ready")


def series(scrape):
    """Metric name -> label sets of its series in a scrape."""
    found = {}
    for line in scrape.splitlines():
        if match := re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? \S+", line):
            found.setdefault(match[1], []).append(dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or "")))
    return found


@pytest.mark.parametrize("query", [*TARGETS, *((rule["alert"], rule["expr"]) for rule in ALERTS)], ids=lambda q: q[0])
def test_the_metrics_and_labels_of_a_query_are_exported(query, run):
    exported = series(run[0])
    names = re.findall(r"ray_\w+", query[1])
    assert names
    for name in names:
        assert name in exported, f"{name} is not exported"
    labels = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query[1]) for label in group.split(",")}
    for label in labels:
        assert any(label in labels_of for name in names for labels_of in exported[name]), f"no label {label}"


@with_prometheus
@pytest.mark.parametrize(("title", "expression"), TARGETS, ids=[f"{t} {i}" for i, (t, _) in enumerate(TARGETS)])
def test_prometheus_answers_every_query_of_the_dashboard_with_numbers(title, expression, run):
    query = urllib.parse.urlencode({"query": expression.replace("$__rate_interval", "5m")})
    deadline, values = time.monotonic() + 20, []
    while not values and time.monotonic() < deadline:  # on a busy machine a scrape may fail, and the next brings it
        answer = json.loads(get(f"{run[1]}/api/v1/query?{query}"))
        values = [float(sample["value"][1]) for sample in answer["data"]["result"]]
        time.sleep(0 if values else 0.5)
    assert values
    numbers = [value for value in values if value == value]  # NaN: nothing happened between two scrapes
    assert numbers
    assert all(value >= 0 for value in numbers), f"{title}: {values}"


@with_prometheus
def test_prometheus_reports_no_broken_alert_and_fires_none_in_a_run_that_is_in_order(run):
    groups = json.loads(get(f"{run[1]}/api/v1/rules"))["data"]["groups"]
    states = {rule["name"]: (rule["health"], rule["state"]) for group in groups for rule in group["rules"]}
    assert states == {rule["alert"]: ("ok", "inactive") for rule in ALERTS}


@with_prometheus
def test_each_alert_fires_when_it_should_and_not_before():
    command = ["promtool", "test", "rules", "alerts_test.yaml"]
    done = subprocess.run(command, cwd=GRAFANA, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = yaml.safe_load((GRAFANA / "alerts_test.yaml").read_text())["tests"]
    fired = {case["alertname"] for test in tested for case in test["alert_rule_test"] if case["exp_alerts"]}
    assert fired == {rule["alert"] for rule in ALERTS}


def test_the_counts_are_those_of_the_corpus(run):
    clips = pipeline.read_table(str(run[3]), "clips", ["sampled", "status"]).to_pylist()
    sampled = sum(clip["sampled"] for clip in clips if clip["status"] == "done")
    counts = {}
    for line in run[0].splitlines():
        if match := re.match(r"(ray_faceatlas_\w+)\{(.*)\} (\S+)", line):
            label = re.search(r'(outcome|error_class|stage)="([^"]*)"', match[2])
            key = (match[1], label and label[2])
            counts[key] = counts.get(key, 0.0) + float(match[3])
    assert counts["ray_faceatlas_clips_total", "done"] == 7
    assert counts["ray_faceatlas_clips_total", "quarantined"] == 1
    assert counts["ray_faceatlas_quarantined_total", "truncated"] == 1
    assert counts["ray_faceatlas_frames_total", None] == sampled > 0
    assert counts["ray_faceatlas_clips_left", None] == 0
    assert counts["ray_faceatlas_retries_total", "decode"] == 1


def test_the_logs_are_json_with_run_shard_clip_and_chunk(run):
    lines = [json.loads(line) for line in run[2].splitlines() if line.startswith('{"time"')]
    events = {line["event"] for line in lines}
    assert events == {"decoded", "clip_decoded", "committed", "clip_failed"}
    assert all({"time", "level", "run", "shard", "clip", "chunk"} <= set(line) for line in lines)
    assert len({line["run"] for line in lines}) == 1
    (failed,) = (line for line in lines if line["event"] == "clip_failed")
    assert (failed["level"], failed["error_class"]) == ("warning", "truncated")
