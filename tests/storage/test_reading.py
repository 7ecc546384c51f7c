"""Videos, tar shards and listings on S3: read by ranges, and whole or not at all, whatever the connection does."""

import io
import os
import tarfile

import fsspec
import pytest

from pipeline.config.models import Config, DecodeConfig
from pipeline.corpus import tar_index
from pipeline.corpus.discover import read_corpus
from pipeline.decode.decoder import decode_clip
from pipeline.errors import RETRYABLE, ClipError
from pipeline.storage import fs as files
from pipeline.storage.output import open_output, write_bytes
from pipeline.tables import parquet

FAULTS = {"unavailable": 0.08, "cut": 0.12, "reset": 0.08, "slow": 0.05, "delay_s": 0.2}


@pytest.fixture
def put(s3, bucket):
    """put(name, bytes) stores an object and returns its URI."""

    def put_object(name, data):
        fsspec.filesystem("s3", **s3).pipe_file(f"{bucket}/{name}", data)
        return f"s3://{bucket}/{name}"

    return put_object


def test_a_file_is_read_by_ranges_and_its_buffer_is_bounded(put, faulty):
    data = os.urandom(6 << 20)
    uri = put("big.mp4", data)
    proxy = faulty(0)
    with files.open_bytes(uri, proxy.options, block_bytes=256 << 10, blocks=4) as file:
        file.seek(3 << 20)
        assert file.read(1000) == data[3 << 20 : (3 << 20) + 1000]
        assert proxy.done["fine"] <= 3  # size, and one or two blocks: not the file
        file.seek(0)
        assert file.read() == data
        held = file.cache._fetch_block_cached.cache_info()
        assert held.currsize <= 4


@pytest.mark.parametrize("seed", [1, 2])
def test_broken_connections_are_survived(put, faulty, seed):
    data = os.urandom(3 << 20)
    uri = put("video.mp4", data)
    proxy = faulty(seed, **FAULTS)
    with files.open_bytes(uri, proxy.options, block_bytes=64 << 10) as file:
        assert file.read() == data
    assert proxy.done["cut"] > 0
    assert proxy.done["unavailable"] > 0
    assert proxy.done["reset"] > 0


def test_a_video_is_decoded_through_a_faulty_connection(put, faulty, video, clip_row):
    uri = put("video.mp4", video.read_bytes())
    rows = list(decode_clip(clip_row(uri), DecodeConfig(), faulty(3, **FAULTS).options))
    plain = list(decode_clip(clip_row(video), DecodeConfig()))
    assert [row["frames"] for row in rows] == [row["frames"] for row in plain]
    assert all((one["planes"] == other["planes"]).all() for one, other in zip(rows, plain, strict=True))
    assert rows[-1]["error"] is None


def test_members_of_a_tar_are_windows_over_it(put, faulty, video, clip_row):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for i in range(5):
            tar.add(video, f"clip{i}.mp4")
    uri = put("shard.tar", buffer.getvalue())
    options = faulty(4, **FAULTS).options
    listing = tar_index.list_members(uri, options)
    assert listing.problem is None
    assert [member.name for member in listing.members] == [f"clip{i}.mp4" for i in range(5)]
    member = listing.members[3]
    row = clip_row(uri, member=member.name, offset=member.offset, size=member.size)
    with files.open_clip(row, options) as file:
        assert file.read() == video.read_bytes()


def test_a_storage_that_does_not_answer_is_not_the_clips_fault(clip_row):
    options = {"endpoint_url": "http://127.0.0.1:9", "anon": True, "config_kwargs": {"retries": {"max_attempts": 0}}}
    with pytest.raises(ClipError) as error:
        files.open_clip(clip_row("s3://bucket/video.mp4"), options)
    assert error.value.error_class == "unreachable"


def test_an_object_that_may_not_be_read_is_tried_again(put, s3, clip_row):
    uri = put("private.mp4", b"bytes")
    with pytest.raises(ClipError, match=f"no permission to read {uri}") as error:
        files.open_clip(clip_row(uri), {"endpoint_url": s3["endpoint_url"], "anon": True})
    assert error.value.error_class in RETRYABLE


@pytest.mark.parametrize("when", ["never", "later"])
@pytest.mark.parametrize("corpus", ["shards", "list.csv"], ids=["folder", "manifest"])
def test_a_tar_that_may_not_be_read_is_no_damaged_tar_and_is_tried_again(put, s3, bucket, video, corpus, when):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.add(video, "clip.mp4")
    uri = put("shards/shard.tar", buffer.getvalue())
    fs = fsspec.filesystem("s3", **s3)
    fs.chmod(f"s3://{bucket}", "public-read")  # to list, not to read
    fs.chmod(put("list.csv", b"uri,member\nshards/shard.tar,clip.mp4\n"), "public-read")
    stranger = {"endpoint_url": s3["endpoint_url"], "anon": True}

    def read(options):
        config = Config.model_validate({"storage": {"options": options}})
        (clip,) = read_corpus(f"s3://{bucket}/{corpus}", config).clips.to_pylist()
        return clip

    refused = read(stranger)
    assert (refused["uri"], refused["offset"]) == (uri, None)
    last = list(decode_clip(refused, DecodeConfig(), stranger if when == "never" else s3))[-1]
    assert last["error"]["error_class"] == "no_access"
    assert "no_access" in RETRYABLE
    found = read(s3)
    assert found["member"] == "clip.mp4"
    assert list(decode_clip(found, DecodeConfig(), s3))[-1]["error"] is None


def test_a_damaged_tar_on_s3_is_the_clips_fault(put, s3, bucket):
    put("shards/damaged.tar", b"no tar" * 1000)
    config = Config.model_validate({"storage": {"options": s3}})
    (clip,) = read_corpus(f"s3://{bucket}/shards", config).clips.to_pylist()
    assert list(decode_clip(clip, DecodeConfig(), s3))[-1]["error"]["error_class"] == "truncated"


def test_an_object_that_is_not_there_is_the_clips_fault(s3, bucket, clip_row):
    with pytest.raises(ClipError) as error:
        files.open_clip(clip_row(f"s3://{bucket}/absent.mp4"), s3)
    assert error.value.error_class == "missing_file"


def test_ten_thousand_objects_are_listed(s3, bucket, faulty):
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # 10,000 requests would take long
    for i in range(10_000):
        backend.put_object(bucket, f"corpus/{i // 100:03d}/{i:05d}.mp4", b"x")
    proxy = faulty(5, **FAULTS)
    config = Config.model_validate({"storage": {"options": proxy.options}})
    corpus = read_corpus(f"s3://{bucket}/corpus", config)
    assert corpus.clips.num_rows == 10_000
    assert len(set(corpus.clips["shard"].to_pylist())) == 100
    assert corpus.clips["fingerprint"].null_count == 0
    assert sum(proxy.done.values()) < 100  # pages of 1,000, with their retries; not a request per object


def test_a_large_file_is_written_in_parts_and_whole(bucket, faulty):
    data = os.urandom(60 << 20)  # above s3fs's limit for one request
    proxy = faulty(6, unavailable=0.05, slow=0.05)
    output = open_output(f"s3://{bucket}/out", proxy.options)
    write_bytes(output, "faces/part.parquet", data)
    assert output.fs.cat_file(output.path("faces/part.parquet")) == data
    assert parquet.list_parquet(output, "faces") == ["faces/part.parquet"]


def test_of_many_conditional_puts_one_wins(s3, bucket):
    from concurrent.futures import ThreadPoolExecutor

    fs = fsspec.filesystem("s3", **s3)

    def create(i):
        try:
            fs.pipe_file(f"{bucket}/lease", str(i).encode(), mode="create")
        except FileExistsError:
            return None
        return i

    with ThreadPoolExecutor(8) as pool:
        winners = [i for i in pool.map(create, range(16)) if i is not None]
    assert len(winners) == 1
    assert fs.cat_file(f"{bucket}/lease") == str(winners[0]).encode()


@pytest.mark.parametrize("options", [{"anon": True}, {"profile": "tests"}], ids=["anonymous", "profile"])
def test_options_of_the_configuration_reach_the_storage(put, s3, options, monkeypatch, tmp_path, clip_row):
    (tmp_path / "config").write_text(
        f"[profile tests]\naws_access_key_id = {s3['key']}\naws_secret_access_key = {s3['secret']}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    uri = put("some.mp4", b"bytes")
    fsspec.filesystem("s3", **s3).chmod(uri, "public-read")  # others are refused to who has no name
    with files.open_clip(clip_row(uri), {"endpoint_url": s3["endpoint_url"], **options}) as file:
        assert file.read() == b"bytes"
