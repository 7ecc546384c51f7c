"""An S3 server for all storage tests, buckets, and proxies that break what passes through."""

import sys
import uuid
from pathlib import Path

import fsspec
import pytest

from pipeline.storage import fs

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "chaos")]

from corpus import write_clip
from servers import FaultyProxy, S3Server, options_of


@pytest.fixture(scope="session")
def s3_server():
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server):
    """Options of the server, without faults."""
    return options_of(s3_server.endpoint)


@pytest.fixture
def bucket(s3):
    """Name of a new bucket."""
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    fsspec.filesystem("s3", **s3).mkdir(name)
    return name


@pytest.fixture
def faulty(s3_server):
    """faulty(seed, cut=0.2, ...) starts a proxy before the server; it has `options` for the storage."""
    started = []

    def start(seed, **shares):
        proxy = FaultyProxy(s3_server.endpoint, seed, **shares)
        proxy.options = options_of(proxy.endpoint)
        started.append(proxy)
        return proxy

    yield start
    for proxy in started:
        proxy.stop()


@pytest.fixture
def video(tmp_path):
    """A short video on this machine."""
    write_clip(tmp_path / "video.mp4", seed=1)
    return tmp_path / "video.mp4"


@pytest.fixture
def clip_row():
    """clip_row(uri, **columns) is a row of schema.CLIP."""

    def make(uri, **columns):
        row = dict.fromkeys(("member", "offset", "size", "start_s", "end_s", "key", "fingerprint", "bbox"))
        return {**row, "clip_id": "0" * 16, "uri": fs.normalise_uri(str(uri)), "shard": "s", **columns}

    return make
