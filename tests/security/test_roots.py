"""With `sources.allow`, the lines of a manifest cannot lead a run elsewhere."""

import json

import pytest

from pipeline.config.models import Config, load_config
from pipeline.corpus.allowlist import is_allowed
from pipeline.corpus.discover import read_corpus
from pipeline.errors import ConfigError, ManifestError
from pipeline.isolation.registry import AttemptRegistry, RegistryClient
from pipeline.stages.decode import decode_isolated


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/corpus-of-others/a.mp4",
        "s3://bucket/a.mp4",
        "s3://bucket/corpus/../a.mp4",
        "s3://bucket/corpus/x/%2e%2e/%2E%2E/a.mp4",
        "s3://bucket/corpus/%252e%252e/a.mp4",
        "s3://bucket/corpus/..\\a.mp4",
        "gs://bucket/corpus/a.mp4",
        "http://127.0.0.1/bucket/corpus/a.mp4",
        "https://good.example@evil.example/corpus/a.mp4",
        "https://evil.example/corpus/a.mp4",
        "simplecache::s3://bucket/corpus/a.mp4",
        "zip://a.mp4::s3://bucket/corpus/a.zip",
        "file:///etc/passwd",
    ],
)
def test_what_is_not_below_a_root_is_outside(uri):
    assert not is_allowed(uri, ["s3://bucket/corpus", "https://good.example"])
    assert is_allowed(uri, None)


@pytest.mark.parametrize("root", ["s3://bucket/corpus", "s3://bucket/corpus/", "s3://bucket"])
def test_what_is_below_a_root_is_inside(root):
    assert is_allowed("s3://bucket/corpus/deep/a..b.mp4", ["/elsewhere", root])


@pytest.fixture
def corpus(tmp_path, write_video):
    """Two folders: one is open to manifests, the other is not; a link leads from one to the other."""
    for name in ("open", "closed"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "a.mkv")
    (tmp_path / "open" / "link.mkv").symlink_to(tmp_path / "closed" / "a.mkv")
    (tmp_path / "open" / "folder").symlink_to(tmp_path / "closed")
    return tmp_path


def allowing(folder):
    return load_config(None, [f"sources.allow=[{folder}]"], {})


@pytest.mark.parametrize("uri", ["../closed/a.mkv", "link.mkv", "folder/a.mkv", "sub/../../closed/a.mkv", "CLOSED"])
def test_a_line_of_a_manifest_that_leads_out_stops_the_run_before_anything_is_opened(corpus, uri):
    manifest = corpus / "open" / "clips.jsonl"
    uri = str(corpus / "closed" / "a.mkv") if uri == "CLOSED" else uri
    manifest.write_text(f'{{"uri": "a.mkv"}}\n{json.dumps({"uri": uri})}\n')
    with pytest.raises(ManifestError, match=r"line 2, column 'uri'.*sources\.allow"):
        read_corpus(str(manifest), allowing(corpus / "open"))
    manifest.write_text('{"uri": "a.mkv"}\n')
    assert read_corpus(str(manifest), allowing(corpus / "open")).clips.num_rows == 1


def test_a_web_server_outside_the_roots_is_not_contacted(corpus, server):
    manifest = corpus / "open" / "clips.jsonl"
    manifest.write_text(json.dumps({"uri": f"{server.url}/secret.mov"}) + "\n")
    with pytest.raises(ManifestError, match="outside"):
        read_corpus(str(manifest), allowing(corpus / "open"))
    assert server.requests == []
    read_corpus(str(manifest), Config())
    assert server.requests  # without the setting it is asked for the file's size


def test_links_in_a_folder_that_lead_out_are_ignored_and_said(corpus):
    read = read_corpus(str(corpus / "open"), allowing(corpus / "open"))
    assert [clip["key"] for clip in read.clips.to_pylist()] == ["a"]
    assert f"file://{corpus}/open/link.mkv" in read.ignored
    with pytest.raises(ConfigError, match=r"sources\.allow"):
        read_corpus(str(corpus / "closed"), allowing(corpus / "open"))


def test_the_worker_asks_again_before_it_opens_a_file(corpus):
    (clip,) = (row for row in read_corpus(str(corpus / "open"), Config()).clips.to_pylist() if row["key"] == "a")
    (corpus / "open" / "a.mkv").unlink()
    (corpus / "open" / "a.mkv").symlink_to(corpus / "closed" / "a.mkv")
    marks = RegistryClient(AttemptRegistry(str(corpus / "out"), snapshot_s=0))
    ((_, row),) = decode_isolated([{**clip, "slots": ["face"], "have": []}], allowing(corpus / "open"), marks)
    assert (row["count"], row["error"]["error_class"]) == (0, "forbidden")


def test_a_celebv_id_is_a_name_and_no_way(corpus):
    entry = {"ytb_id": "../closed/a", "duration": {"start_sec": 0, "end_sec": 1}}
    (corpus / "open" / "list.json").write_text(json.dumps({"clips": {"x": entry}}))
    with pytest.raises(ManifestError, match="not a name"):
        read_corpus(str(corpus / "open" / "list.json"), Config())
