"""Weight files from the hub: real processes, the real huggingface_hub, and a server that speaks the hub's protocol."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from actors.errors import DigestError, MissingWeightsError
from actors.weights import cache as weight_cache
from actors.weights.bundles import build_model, resolve_bundle
from actors.weights.cache import noted_digest

REPO = "someone/weights"
DATA = bytes(range(256)) * 40_000  # 10 MB: large enough that its digest is noted


@pytest.fixture
def served(hub_server):
    hub_server.files[f"{REPO}/model.safetensors"] = DATA
    return hub_server


EIGHT = """
import sys, time
from actors.weights.cache import noted_digest
from actors.weights.cache import fetch_hub
time.sleep(max(0.0, float(sys.argv[1]) - time.time()))
path, name, commit = fetch_hub("someone/weights", ("model.safetensors",), None, sys.argv[2])
print(noted_digest(path, sys.argv[2]), commit)
"""


def test_eight_processes_that_start_at_once_download_once(served, tmp_path):
    begin = str(time.time() + 4)
    command = [sys.executable, "-c", EIGHT, begin, str(tmp_path / "cache")]
    root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": root}
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(8)]
    said = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert said == {f"{hashlib.sha256(DATA).hexdigest()} {served.commit}"}
    assert len([1 for method, _ in served.requests if method == "HEAD"]) == 8  # all of them asked
    assert served.downloads() == [f"{REPO}/model.safetensors"]


def test_older_file_names_serve_where_the_new_one_is_missing(served):
    path, name, commit = weight_cache.fetch_hub(REPO, ("renamed.safetensors", "model.safetensors"), None)
    assert (path.read_bytes(), name, commit) == (DATA, "model.safetensors", served.commit)


def test_a_file_that_is_under_no_name_is_named(served):
    with pytest.raises(MissingWeightsError, match=r"no file a\.bin or b\.bin"):
        weight_cache.fetch_hub(REPO, ("a.bin", "b.bin"), None)


def test_a_busy_hub_is_asked_again(served, monkeypatch):
    monkeypatch.setattr(weight_cache, "RETRY_WAITS_S", (0.01, 0.01, 0.01))
    served.failures = [503, 503]
    assert weight_cache.fetch_hub(REPO, ("model.safetensors",), None)[0].read_bytes() == DATA
    assert len(served.downloads()) == 3


def test_what_is_here_at_its_commit_needs_no_hub(served):
    _, _, commit = weight_cache.fetch_hub(REPO, ("model.safetensors",), None)
    asked = len(served.requests)
    assert weight_cache.fetch_hub(REPO, ("model.safetensors",), commit)[0].read_bytes() == DATA
    assert len(served.requests) == asked


def test_a_run_can_be_held_to_the_commit_of_the_run_before(hub_server, tmp_path):
    for path in ("py-feat/retinaface_r34/model.safetensors",):
        hub_server.files[path] = b"first"
    bundle = tmp_path / "one.yaml"
    bundle.write_text("models: {face: retinaface_r34}")
    first = resolve_bundle(str(bundle)).slot("face").files["weights"]
    assert (first.repo, first.revision) == ("py-feat/retinaface_r34", hub_server.commit)

    hub_server.commit, hub_server.files = "f" * 40, {"py-feat/retinaface_r34/model.safetensors": b"second"}
    kept = resolve_bundle(str(bundle), revisions={first.repo: first.revision}).slot("face").files["weights"]
    followed = resolve_bundle(str(bundle)).slot("face").files["weights"]
    assert (kept, followed.revision) == (first, "f" * 40)
    assert followed.digest != first.digest


# -- files of any URI -------------------------------------------------------------------------------------------------


def test_a_remote_file_is_copied_once_and_anew_when_it_changes(memory, tmp_path):
    cache = str(tmp_path)
    memory.pipe_file("/w/a.bin", b"one")
    first = weight_cache.fetch_uri("memory://w/a.bin", cache)
    stamp = first.stat().st_mtime_ns
    assert (weight_cache.fetch_uri("memory://w/a.bin", cache), first.stat().st_mtime_ns) == (first, stamp)
    memory.pipe_file("/w/a.bin", b"other")
    assert weight_cache.fetch_uri("memory://w/a.bin", cache).read_bytes() == b"other"


def test_a_copy_with_the_expected_digest_needs_no_storage(memory, tmp_path):
    memory.pipe_file("/w/a.bin", b"one")
    expected = hashlib.sha256(b"one").hexdigest()
    weight_cache.fetch_uri("memory://w/a.bin", str(tmp_path), expected=expected)
    memory.rm_file("/w/a.bin")
    assert weight_cache.fetch_uri("memory://w/a.bin", str(tmp_path), expected=expected).read_bytes() == b"one"
    with pytest.raises(FileNotFoundError, match=r"memory://w/a\.bin"):
        weight_cache.fetch_uri("memory://w/a.bin", str(tmp_path))


def test_a_copy_with_other_bytes_than_expected_is_refused(memory, tmp_path):
    memory.pipe_file("/w/a.bin", b"one")
    with pytest.raises(DigestError, match=r"checksum mismatch of memory://w/a\.bin"):
        weight_cache.fetch_uri("memory://w/a.bin", str(tmp_path), expected="0" * 64)


@pytest.mark.parametrize(("error", "calls"), [(ConnectionResetError, 4), (PermissionError, 1)])
def test_only_errors_that_may_pass_are_tried_again(error, calls):
    made = []

    def call():
        made.append(1)
        raise error

    with pytest.raises(error):
        weight_cache.retrying(call, (0.0, 0.0, 0.0))
    assert len(made) == calls


# -- digests ----------------------------------------------------------------------------------------------------------


def test_a_large_file_is_read_for_its_digest_once_until_it_changes(tmp_path):
    path, cache = tmp_path / "large.bin", tmp_path / "cache"
    path.write_bytes(DATA)
    os.utime(path, (time.time() - 60,) * 2)
    assert noted_digest(path, str(cache)) == hashlib.sha256(DATA).hexdigest()
    [note] = cache.glob("digests/*.json")
    note.write_text(json.dumps({**json.loads(note.read_text()), "sha256": "noted"}))
    assert noted_digest(path, str(cache)) == "noted"
    path.write_bytes(DATA[::-1])
    assert noted_digest(path, str(cache)) == hashlib.sha256(DATA[::-1]).hexdigest()


def test_a_file_that_has_just_been_written_gets_no_note(tmp_path):
    path = tmp_path / "large.bin"
    path.write_bytes(DATA)
    noted_digest(path, str(tmp_path / "cache"))
    assert not list(tmp_path.glob("cache/digests/*"))


def test_an_actor_loads_what_the_driver_found(memory, tmp_path):
    memory.pipe_file("/w/a.bin", b"one")
    (tmp_path / "my_loader.py").write_text("def load(weights):\n    return weights.read_bytes()\n")
    bundle = tmp_path / "b.yaml"
    bundle.write_text(
        "extends: tiny\nmodels: {gaze: {factory: 'my_loader:load', weights: 'memory://w/a.bin', input: crops112}}"
    )
    model = resolve_bundle(str(bundle), cache=str(tmp_path / "driver")).slot("gaze")
    assert build_model(model, str(tmp_path / "actor")) == b"one"
    memory.pipe_file("/w/a.bin", b"two")
    with pytest.raises(DigestError, match=r"memory://w/a\.bin"):
        build_model(model, str(tmp_path / "another machine"))
