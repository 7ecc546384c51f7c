"""A mirror of the hub: what `pull` makes, what a run reads from it, and what is found when its bytes change."""

import functools
import http.server
import json
import threading
from dataclasses import replace

import pytest

from actors.errors import DigestError, MissingWeightsError, WeightsError
from actors.weights import cache as weight_cache
from actors.weights.bundles import resolve_bundle
from actors.weights.catalog import BUNDLES, MODELS
from actors.weights.mirror import MANIFEST, open_mirror
from actors.weights.registry import local_copy, pull, registry_entries
from actors.weights.verify import verify_cache, verify_mirror

ARCFACE = "py-feat/arcface_r50/arcface_r50.safetensors"


@pytest.fixture
def pyfeat(hub_server):
    """A hub with the files of the bundle pyfeat; their bytes are their names."""
    for slot, model in BUNDLES["pyfeat"].items():
        for file in MODELS[slot][model].files.values():
            for name in file.names[:1]:
                hub_server.files[f"{file.repo}/{name}"] = f"{file.repo}/{name}".encode()
    return hub_server


@pytest.fixture(params=["folder", "memory"])
def mirror(request, pyfeat, memory, tmp_path):
    """A pulled mirror of the bundle, in a folder and in remote storage: (uri, function that replaces a file)."""
    uri = str(tmp_path / "mirror") if request.param == "folder" else "memory://mirror"

    def put(name, data):
        if request.param == "folder":
            (tmp_path / "mirror" / name).write_bytes(data)
        else:
            memory.pipe_file(f"/mirror/{name}", data)

    assert {outcome.state for outcome in pull(registry_entries("pyfeat"), uri)} == {"pulled"}
    return uri, put


def test_a_mirror_holds_the_bundle_with_digests_commits_and_licenses(mirror, pyfeat):
    records = open_mirror(mirror[0]).records
    assert set(records) == set(pyfeat.files)
    assert (records[ARCFACE].revision, records[ARCFACE].research_only) == (pyfeat.commit, True)
    assert "research" in records[ARCFACE].license


def test_a_mirror_of_version_0_1_is_read(mirror):
    before = open_mirror(mirror[0])
    fs, path = weight_cache.open_storage(before.file(MANIFEST))
    text = fs.cat_file(path)
    assert b'"license"' in text
    fs.pipe_file(path, text.replace(b'"license"', b'"licence"'))
    assert open_mirror(mirror[0]) == before


def test_pulling_again_copies_nothing(mirror):
    assert {outcome.state for outcome in pull(registry_entries("pyfeat"), mirror[0])} == {"unchanged"}


def test_a_bundle_is_the_same_from_the_hub_and_from_its_mirror(mirror, tmp_path):
    asked_hub = resolve_bundle("pyfeat")
    asked_mirror = resolve_bundle("pyfeat", mirror=mirror[0], cache=str(tmp_path / "cache"))
    assert asked_mirror.versions == asked_hub.versions
    for model in asked_mirror.models:
        for role, ref in model.files.items():
            at_hub = asked_hub.slot(model.slot).files[role]
            assert ref.uri.startswith(mirror[0])
            assert replace(ref, uri=None) == at_hub  # digest, repository, name and commit


def test_other_bytes_than_recorded_are_refused_and_the_file_is_named(mirror, tmp_path):
    mirror[1](ARCFACE, b"damaged")
    with pytest.raises(DigestError) as caught:
        resolve_bundle("pyfeat", mirror=mirror[0], cache=str(tmp_path / "cache"))
    for words in ("arcface_r50", ARCFACE, "models verify"):
        assert words in str(caught.value)


def test_verify_names_what_differs_and_what_is_gone(mirror):
    assert {outcome.state for outcome in verify_mirror(open_mirror(mirror[0]))} == {"ok"}
    mirror[1](ARCFACE, b"damaged")
    found = {outcome.path: outcome.state for outcome in verify_mirror(open_mirror(mirror[0]))}
    assert [path for path, state in found.items() if state != "ok"] == [ARCFACE]
    assert found[ARCFACE] == "differs"


def test_verify_asks_for_all_files_of_a_bundle(mirror):
    everything = verify_mirror(open_mirror(mirror[0]), registry_entries())
    missing = {outcome.path for outcome in everything if outcome.state == "missing"}
    assert "py-feat/retinaface_mnet025/model.safetensors" in missing
    assert ARCFACE not in missing


def test_a_mirror_of_another_commit_than_the_run_asks_for_is_refused(mirror, pyfeat):
    revisions = {"py-feat/arcface_r50": "a" * 40}
    with pytest.raises(MissingWeightsError, match=f"holds commit {pyfeat.commit}.*asks for {'a' * 40}"):
        resolve_bundle("pyfeat", mirror=mirror[0], revisions=revisions)
    same = {"py-feat/arcface_r50": pyfeat.commit}
    assert resolve_bundle("pyfeat", mirror=mirror[0], revisions=same).slot("embeddings") is not None


def test_one_file_that_the_hub_lacks_does_not_keep_the_others_back(pyfeat, tmp_path):
    del pyfeat.files[ARCFACE]
    pyfeat.files["py-feat/arcface_r50/readme"] = b""
    outcomes = {outcome.path: outcome for outcome in pull(registry_entries("pyfeat"), str(tmp_path / "mirror"))}
    assert {path for path, outcome in outcomes.items() if not outcome.ok} == {ARCFACE}
    assert "arcface_r50.safetensors" in outcomes[ARCFACE].message


def test_a_manifest_that_is_none_is_named(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps(["no", "mirror"]))
    with pytest.raises(WeightsError, match=r"mirror\.json is not a list of a mirror's files"):
        open_mirror(str(tmp_path))


def test_the_cache_of_this_machine_is_verified_against_the_digests_of_the_hub(pyfeat, tmp_path):
    cache = str(tmp_path / "cache")
    resolve_bundle("pyfeat", cache=cache)
    assert {outcome.state for outcome in verify_cache(cache, registry_entries("pyfeat"))} == {"ok"}
    [arcface] = [local_copy(item, cache) for item in registry_entries("pyfeat") if item.paths[0] == ARCFACE]
    arcface.resolve().write_bytes(b"damaged")
    found = [outcome for outcome in verify_cache(cache) if outcome.state != "ok"]
    assert [(outcome.path, outcome.state) for outcome in found] == [(str(arcface), "differs")]
    assert [o.state for o in verify_cache(str(tmp_path / "empty"), registry_entries("pyfeat"))] == ["missing"] * len(
        registry_entries("pyfeat")
    )


def test_copies_of_a_mirrors_files_are_verified_too(pyfeat, memory, tmp_path):
    cache = tmp_path / "cache"
    list(pull(registry_entries("pyfeat"), "memory://mirror"))
    resolve_bundle("pyfeat", mirror="memory://mirror", cache=str(cache))
    assert [outcome.state for outcome in verify_cache(str(cache))] == ["ok"] * len(registry_entries("pyfeat"))
    next(cache.glob("*/arcface_r50.safetensors")).write_bytes(b"damaged")
    whole = ["ok"] * (len(registry_entries("pyfeat")) - 1)
    assert sorted(outcome.state for outcome in verify_cache(str(cache))) == ["differs", *whole]


@pytest.fixture
def guarded(pyfeat, tmp_path):
    """A pulled mirror behind a web server that wants a token, and is busy at first."""
    list(pull(registry_entries("pyfeat"), str(tmp_path / "mirror")))
    busy = [1, 1]

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self):
            if self.headers["Authorization"] != "Bearer secret":
                return self.send_error(401)
            if "arcface" in self.path and busy:
                busy.pop()
                return self.send_error(503)
            return super().send_head()

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "mirror"))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_storage_options_reach_the_mirror_and_a_busy_server_is_asked_again(guarded, pyfeat, tmp_path, monkeypatch):
    monkeypatch.setattr(weight_cache, "RETRY_WAITS_S", (0.01, 0.01, 0.01))
    options = {"client_kwargs": {"headers": {"Authorization": "Bearer secret"}}}
    bundle = resolve_bundle("pyfeat", mirror=guarded, cache=str(tmp_path / "driver"), storage_options=options)
    assert bundle.slot("embeddings").files["weights"].revision == pyfeat.commit
    ref = bundle.slot("embeddings").files["weights"]
    assert weight_cache.fetch(ref, str(tmp_path / "actor"), options).read_bytes() == ARCFACE.encode()
    with pytest.raises(WeightsError, match="401"):
        resolve_bundle("pyfeat", mirror=guarded, cache=str(tmp_path / "other"))
    with pytest.raises(MissingWeightsError, match="401"):
        weight_cache.fetch(ref, str(tmp_path / "other"))
