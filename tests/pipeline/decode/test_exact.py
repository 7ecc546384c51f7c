"""Ranges and samples are the slice of decoding from the start: index, time and every pixel, of whatever file."""

import hashlib
import random
import sys
from pathlib import Path

import pytest

from pipeline.config.models import DecodeConfig
from pipeline.decode import decoder
from pipeline.decode.chunking import Request
from pipeline.decode.decoder import Opened, decode_clip, decode_video
from pipeline.intervals import END

sys.path.append(str(Path(__file__).parent))
from made_videos import KINDS, encode

SHARED = {"videos": "*.m*", "odd": "*.*", "reports/video": "[vkrogx]/*.*"}
NO_VIDEO = ("zero_length", "afconvert", "opus", ".mp3", "chunk_out_of_range")


def _frames(rows):
    """(index, time, digest of the planes) of each frame of a clip's rows."""
    found = []
    for row in rows:
        planes = row["planes"].reshape(len(row["frames"]), -1) if row["frames"] else ()
        digests = [hashlib.blake2b(plane.tobytes(), digest_size=8).digest() for plane in planes]
        found += list(zip(row["frames"], row["times"], digests, strict=True))
    return found


class Whole:
    """A video decoded from its start, and what any range of it must be."""

    def __init__(self, path, clip_row):
        self.clip = clip_row(path)
        rows = list(decode_clip(self.clip, DecodeConfig()))
        self.frames, self.error = _frames(rows), rows[-1]["error"]
        self.rate = 25.0
        self.clock = [time if time is not None else i / self.rate for i, (_, time, _) in enumerate(self.frames)]

    def random_range(self, rng):
        """Bounds halfway between frames, so that no tolerance decides."""
        steps = sorted({*self.clock})
        low = rng.randrange(len(steps))
        high = min(len(steps), low + rng.choice([1, 2, 5, 20, 50]))
        start = (steps[low - 1] + steps[low]) / 2 if low else 0.0
        end = (steps[high - 1] + steps[high]) / 2 if high < len(steps) else steps[-1] + 1
        return start, end

    def expected(self, start, end, every, failed):
        inside = [frame for frame, time in zip(self.frames, self.clock, strict=True) if start <= time < end]
        # whether none of a range is sampled is known at its end, which a broken video does not reach
        return [frame for frame in inside if frame[0] % every == 0] or ([] if failed else inside[:1])


def _compare(whole, rng, ranges):
    for _ in range(ranges):
        start, end = whole.random_range(rng)
        every = rng.choice([1, 1, 1, 2, 3, 7, 30])
        rows = list(decode_clip({**whole.clip, "start_s": start, "end_s": end}, DecodeConfig(every=every)))
        assert rows[-1]["error"] is None or rows[-1]["error"]["error_class"] == whole.error["error_class"]
        failed = rows[-1]["error"] is not None
        assert _frames(rows) == whole.expected(start, end, every, failed), (start, end, every)


def _shared_files(data):
    return [path for folder, pattern in SHARED.items() for path in sorted((data / folder).glob(pattern))]


def _is_video(path):
    return not any(part in path.name for part in NO_VIDEO) and path.stat().st_size < 3_000_000


@pytest.fixture(scope="module")
def always_indexed():
    """Short files too are read by their index, as long ones are."""
    before = decoder._EARLY_S, decoder._SHORT_FRAMES
    decoder._EARLY_S, decoder._SHORT_FRAMES = 0.0, 1
    yield
    decoder._EARLY_S, decoder._SHORT_FRAMES = before


@pytest.mark.usefixtures("always_indexed")
def test_ranges_of_the_shared_files(data, clip_row):
    tried = 0
    for number, path in enumerate(_shared_files(data)):
        if not _is_video(path):
            continue
        whole = Whole(path, clip_row)
        if len(whole.frames) > 1:
            _compare(whole, random.Random(number), 3)
            tried += 1
    assert tried > 40


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory):
    path = encode(tmp_path_factory.mktemp("kind") / request.param, request.param)
    if path is None:
        pytest.skip(f"no encoder {KINDS[request.param][0]} in this FFmpeg")
    return request.param, path


@pytest.mark.usefixtures("always_indexed")
def test_ranges_of_every_codec_and_container(kind, clip_row):
    name, path = kind
    whole = Whole(path, clip_row)
    assert whole.error is None
    _compare(whole, random.Random(len(name)), 8)


def test_the_index_is_used_where_it_may_be(kind, clip_row):
    name, path = kind
    source = decoder._Source(clip_row(path), DecodeConfig(), None)
    assert (source.indexed() is not None) == KINDS[name][-1]


@pytest.mark.usefixtures("always_indexed")
def test_clips_read_together_are_those_read_alone(kind, clip_row):
    _, path = kind
    whole, rng, config = Whole(path, clip_row), random.Random(5), DecodeConfig(chunk_frames=7)
    requests = []
    for _ in range(7):
        start, end = whole.random_range(rng)
        have = rng.choice([(), ((2, 3),), ((0, 4),), ((3, END - 3),)])
        only = rng.choice([None, None, set(range(0, 90, 4))])
        requests.append(Request({**whole.clip, "start_s": start, "end_s": end}, have, only))
    placed = list(decode_video(requests, config))
    for position, request in enumerate(requests):
        together = [item[1] for item in placed if not isinstance(item, Opened) and item[0] == position]
        alone = list(decode_clip(request.clip, config, have=request.have, only=request.only))
        assert _frames(together) == _frames(alone)
        assert [(row["first"], row["count"], row["last"], row["video"]) for row in together] == [
            (row["first"], row["count"], row["last"], row["video"]) for row in alone
        ]


def test_rows_do_not_depend_on_the_way_they_were_read(kind, clip_row, monkeypatch):
    """Chunks, facts and what is left out, with the packet index and from the start."""
    _, path = kind
    rng = random.Random(9)
    for _ in range(6):
        start = rng.choice([None, 0.5, 1.3, 2.2])
        clip = clip_row(path, start_s=start, end_s=rng.choice([None, 2.5, 3.0]))
        settings = rng.choice([{}, {"every": 4}, {"fps": 3.0}, {"clock": "stream"}, {"every": 40}])
        have = rng.choice([(), ((1, 2),), ((2, END - 2),)])
        ways = []
        for early, short in ((0.0, 1), (99.0, 99_999)):
            monkeypatch.setattr(decoder, "_EARLY_S", early)
            monkeypatch.setattr(decoder, "_SHORT_FRAMES", short)
            rows = list(decode_clip(clip, DecodeConfig(chunk_frames=5, **settings), have=have))
            ends = [(row["first"], row["count"], row["last"], _without_length(row["video"])) for row in rows]
            ways.append((_frames(rows), ends))
        assert ways[0] == ways[1], (clip["start_s"], clip["end_s"], settings, have)


def _without_length(video):
    """The length is known to who has read the index, else only to who has seen the end."""
    return video and {name: value for name, value in video.items() if name != "length"}


@pytest.mark.slow
@pytest.mark.usefixtures("always_indexed")
def test_two_thousand_random_ranges(data, clip_row, tmp_path):
    made = [encode(tmp_path / name, name, frames=150) for name in KINDS]
    paths = [path for path in [*_shared_files(data), *made] if path is not None and _is_video(Path(path))]
    wholes = [whole for whole in (Whole(path, clip_row) for path in paths) if len(whole.frames) > 1]
    for number, whole in enumerate(wholes):
        _compare(whole, random.Random(number), -(-2000 // len(wholes)))
