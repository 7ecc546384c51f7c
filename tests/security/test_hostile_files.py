"""Video files are hostile input: whatever a file names, nothing but the file itself is opened."""

import contextlib
import io
import struct
import tarfile

import av
import pytest

from pipeline.config.models import Config, DecodeConfig
from pipeline.corpus.discover import read_corpus
from pipeline.decode.decoder import decode_clip

PLAYLISTS = {
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1.0,\n{url}/secret.ts\n#EXT-X-ENDLIST\n",
    "hls with a key": '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF:1.0,\n'
    "{url}/secret.ts\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile {url}/secret.ts\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S" profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}/secret.mov</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\na=control:{url}\n",
    "xml of smooth streaming": '<SmoothStreamingMedia MajorVersion="2" Duration="1"><StreamIndex Type="video" '
    'Url="{url}/secret.ts"/></SmoothStreamingMedia>',
}


def decode(path, **settings):
    """(frames, error of the last row) of a clip."""
    (clip,) = read_corpus(str(path), Config()).clips.to_pylist()
    rows = list(decode_clip(clip, DecodeConfig(**settings)))
    return sum(row["count"] for row in rows), rows[-1]["error"]


@pytest.mark.parametrize("place", ["on a web server", "on this disk"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_list_disguised_as_a_video_is_refused_and_nothing_it_names_is_opened(kind, place, tmp_path, secret, server):
    url = server.url if place == "on a web server" else str(secret)
    path = tmp_path / "holiday.mp4"
    path.write_text(PLAYLISTS[kind].format(url=url))
    frames, error = decode(path)
    assert (frames, error["stage"], error["error_class"]) == (0, "open", "not_a_video")
    assert server.requests == []


@pytest.mark.parametrize("kind", ["hls", "ffconcat"])
def test_those_lists_do_work_against_an_ffmpeg_left_open(kind, tmp_path, server):
    path = tmp_path / ("list.m3u8" if kind == "hls" else "list.txt")
    path.write_text(PLAYLISTS[kind].format(url=server.url))
    with contextlib.suppress(av.FFmpegError):
        av.open(str(path), options={"protocol_whitelist": "file,http,tcp", "safe": "0"}).close()
    assert server.requests


def test_a_list_inside_a_tar_shard_is_refused_too(tmp_path, server):
    text = PLAYLISTS["ffconcat"].format(url=server.url).encode()
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        info = tarfile.TarInfo("a.mp4")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    frames, error = decode(tmp_path / "shard.tar")
    assert (frames, error["error_class"]) == (0, "not_a_video")
    assert "list of other files" in error["message"]
    assert server.requests == []


def test_a_file_named_like_a_pattern_of_pictures_does_not_open_the_pictures(tmp_path, secret):
    (secret / "picture%03d.png").write_bytes(b"\0" * 100)
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text('{"uri": "secret/picture%03d.png"}\n')
    frames, error = decode(manifest)
    assert (frames, error["error_class"]) == (0, "not_a_video")


# -- references inside a QuickTime file -------------------------------------------------------------------------------

_PARENTS = (b"moov", b"trak", b"mdia", b"minf", b"dinf")


def replace_box(data, kind, content):
    """A file of boxes with the content of every box of a kind replaced; the boxes around it grow."""
    out, at = b"", 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        body = data[at + 8 : at + size]
        if name == kind:
            body = content
        elif name in _PARENTS:
            body = replace_box(body, kind, content)
        elif name == b"mdat":
            body = bytes(len(body))  # the pictures are elsewhere
        out += struct.pack(">I4s", len(body) + 8, name) + body
        at += size
    return out


def alias(path):
    """A QuickTime alias record of an absolute path, as FFmpeg's mov_read_dref reads it."""
    name = str(path).encode()
    head = bytes(10) + bytes([6]) + b"volume".ljust(27, b"\0") + bytes(12)
    head += bytes([10]) + b"secret.mov".ljust(63, b"\0") + bytes(16) + struct.pack(">hh", 0, 0) + bytes(16)
    return (
        head
        + struct.pack(">hH", 2, len(name))
        + name.ljust(len(name) + len(name) % 2, b"\0")
        + struct.pack(">hH", -1, 0)
    )


@pytest.mark.parametrize("kind", [b"alis", b"url "])
def test_a_reference_to_another_file_in_a_quicktime_movie_is_not_followed(kind, tmp_path, secret, server):
    place = alias(secret / "secret.mov") if kind == b"alis" else f"{server.url}/secret.mov\0".encode()
    entry = struct.pack(">I4sI", len(place) + 12, kind, 0) + place
    dref = struct.pack(">II", 0, 1) + entry
    path = tmp_path / "movie.mov"
    path.write_bytes(replace_box((secret / "secret.mov").read_bytes(), b"dref", dref))
    if kind == b"alis":  # it is a working attack where references are allowed
        with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as container:
            assert sum(1 for _ in container.decode(video=0)) == 5
    frames, error = decode(path)
    assert frames == 0
    assert error["error_class"] in ("corrupt", "no_frames", "not_a_video")
    assert server.requests == []


# -- limits -----------------------------------------------------------------------------------------------------------


def test_a_video_of_too_many_frames_ends_in_quarantine_with_those_before(tmp_path, write_video):
    frames, error = decode(write_video(tmp_path / "a.mkv", frames=9), max_frames=6)
    assert (frames, error["error_class"]) == (6, "too_long")
    assert "decode.max_frames" in error["message"]
    assert decode(tmp_path / "a.mkv", max_frames=9) == (9, None)


def test_a_video_that_goes_on_for_years_ends_in_quarantine(tmp_path, write_video):
    times = [0, 40, 80, 3_600_000, 3_600_040]
    path = write_video(tmp_path / "a.mkv", frames=5, times=times)
    frames, error = decode(path, max_hours=0.5)
    assert (frames, error["error_class"]) == (3, "too_long")
    assert decode(path, max_hours=2) == (5, None)


def test_a_video_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, write_video):
    frames, error = decode(write_video(tmp_path / "a.mkv", size=128), max_pixels=100 * 100)
    assert (frames, error["stage"], error["error_class"]) == (0, "open", "too_large")
