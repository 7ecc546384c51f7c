"""A clip or chunk that kills, hangs or fails its worker becomes a row, and its neighbours do not notice."""

from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from pipeline import schema
from pipeline.config.models import Config, FaultsConfig, PoolConfig
from pipeline.isolation.registry import AttemptRegistry, InFlightMark, RegistryClient
from pipeline.runs.model import Stage
from pipeline.stages.annotate import IsolatedAnnotator
from pipeline.stages.decode import decode_isolated, mark_of

HERE = Path(__file__).parents[1] / "isolation"
FAULTS = FaultsConfig(decode_limit_s=2, annotate_limit_s=20)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.syspath_prepend(str(HERE.parents[1] / "chaos" / "plugin"))
    fsspec.register_implementation("hostile", "hostile_storage.HostileFileSystem", clobber=True)


@pytest.fixture
def attempts(tmp_path):
    return AttemptRegistry(str(tmp_path / "out"), snapshot_s=0)


# -- annotating -------------------------------------------------------------------------------------------------------


def flow(*firsts):
    """Rows of FLOW: a chunk of two frames for each first ordinal; None: a row that only says that its clip ended."""
    rows = []
    for first in firsts:
        row = dict.fromkeys(schema.FLOW.names) | {"clip_id": f"clip{first}", "shard": "s", "fingerprint": "1"}
        row |= {"first": first or 0, "last": False, "slots": ["face"], "frames": [] if first is None else [0, 1]}
        row |= {"times": [0.0] * len(row["frames"]), "planes": None if first is None else bytes(6)}
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema.FLOW)


@pytest.fixture
def annotate(attempts, tmp_path):
    """annotate(chunks, deaths={first: n}) -> (rows, calls): what a careful Marker says, and in which calls it did."""

    def run(chunks, deaths=()):
        for first, number in dict(deaths).items():
            for _ in range(number):
                attempts.died(InFlightMark("annotate:face", f"clip{first}", "1", first), "its worker died")
        log = tmp_path / "log"
        from workloads import Marker  # by the name under which a subprocess finds it

        stage = Stage(Marker, {"log": str(log)}, PoolConfig(), ("face",))
        rows = IsolatedAnnotator(stage, RegistryClient(attempts), FAULTS)(chunks)
        assert rows.schema == chunks.schema
        return rows.to_pylist(), [line.split(" ", 1) for line in log.read_text().splitlines()]

    return run


def test_chunks_are_annotated_together(annotate):
    rows, calls = annotate(flow(0, 32, None))
    assert [len(row["face_index"]) for row in rows] == [2, 2, 0]
    assert [what for _, what in calls] == ["[0, 32, 0]"]


def test_a_chunk_that_raises_is_told_from_its_neighbours(annotate):
    rows, _ = annotate(flow(0, 2000, 32))
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert [row["clip_id"] for row in rows] == ["clip0", "clip2000", "clip32"]
    error = rows[1]["error"]
    assert (error["stage"], error["error_class"]) == ("annotate", "unexpected")
    assert "ValueError" in error["message"]
    assert "a magic number" in error["message"]
    assert rows[1]["face_index"] is None
    assert rows[1]["frames"] == [0, 1]  # they are accounted for


def test_a_chunk_too_large_for_the_device_is_the_clips_own_fault(annotate):
    rows, _ = annotate(flow(0, 3000))
    assert rows[1]["error"]["error_class"] == "out_of_memory"
    assert rows[0]["error"] is None


def test_after_one_death_a_chunk_is_annotated_alone(annotate):
    rows, calls = annotate(flow(0, 32, 64), {32: 1})
    assert all(row["error"] is None for row in rows)
    assert [what for _, what in calls] == ["[0, 64]", "[32]"]
    assert len({pid for pid, _ in calls}) == 1


def test_after_two_deaths_a_chunk_is_annotated_in_a_process_of_its_own(annotate):
    rows, calls = annotate(flow(0, 32), {32: 2})
    assert all(row["error"] is None for row in rows)
    assert [what for _, what in calls] == ["[0]", "[32]"]
    assert len({pid for pid, _ in calls}) == 2


def test_the_third_death_is_a_row_with_the_signal(annotate):
    rows, _ = annotate(flow(0, 1000, 32), {1000: 2})
    assert [row["error"] is None for row in rows] == [True, False, True]
    message = "killed by signal 6 (SIGABRT) while annotating"
    assert rows[1]["error"] == {"stage": "annotate", "error_class": "died", "message": message, "attempts": 3}


def test_a_chunk_that_breaks_the_device_counts_as_a_death(annotate):
    rows, _ = annotate(flow(4000), {4000: 2})
    assert rows[0]["error"]["error_class"] == "died"
    assert "device-side assert" in rows[0]["error"]["message"]


def test_rows_that_failed_in_an_earlier_pool_pass_by(annotate):
    rows = flow(0, 32).to_pylist()
    rows[0] |= {"error": {"stage": "annotate", "error_class": "died", "message": "m", "attempts": 3}, "planes": None}
    rows, calls = annotate(pa.Table.from_pylist(rows, schema=schema.FLOW))
    assert rows[0]["error"]["message"] == "m"
    assert [what for _, what in calls] == ["[32]"]


def test_nothing_is_held_afterwards(annotate, attempts):
    annotate(flow(0, 2000), {0: 1})
    assert attempts.hold("another", [InFlightMark("annotate:face", "clip2000", "1", 2000)]) == [0]


# -- decoding ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def decode(attempts, clip_row):
    """decode(uri, deaths=0) decodes a clip, after so many deaths, in chunks of 4 frames."""

    def run(uri, deaths=0, **row):
        import zlib

        row = clip_row(uri, slots=["face"], have=[], fingerprint="1") | row
        for _ in range(deaths):
            attempts.died(InFlightMark("decode", row["clip_id"], "1", zlib.crc32(b"face")), "its worker died")
        config = Config.model_validate({"decode": {"chunk_frames": 4}, "faults": FAULTS.model_dump()})
        return [chunk for _, chunk in decode_isolated([row], config, RegistryClient(attempts))]

    return run


def test_a_suspect_gives_the_same_chunks_from_its_own_process(decode, make_video, tmp_path, clip_row):
    video = make_video(tmp_path / "video.mp4", count=10)
    plain = decode(video)
    alone = decode(video, deaths=1)
    assert [row["frames"] for row in alone] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for one, other in zip(plain, alone, strict=True):
        np.testing.assert_array_equal(one.pop("planes"), other.pop("planes"))
        assert one == other
    assert alone[-1]["video"]["frames"] == 10


@pytest.mark.parametrize(
    ("name", "error_class", "message"),
    [
        ("segfault", "died", "killed by signal 11 (SIGSEGV) while decoding"),
        ("hang", "hung", "hung: nothing came for 2 s while decoding"),
    ],
)
def test_a_decoder_that_dies_or_hangs_alone_is_a_row(decode, make_video, tmp_path, name, error_class, message):
    video = make_video(tmp_path / f"{name}.mp4")
    (row,) = decode(f"hostile://{video}", deaths=1)
    assert row["last"]
    assert row["error"] == {"stage": "decode", "error_class": error_class, "message": message, "attempts": 3}


def test_what_was_decoded_before_a_death_is_given_once(decode, make_video, tmp_path, monkeypatch):
    index_first = {"movflags": "faststart"}
    video = make_video(tmp_path / "late_segfault.mp4", count=600, width=160, height=120, mux_options=index_first)
    monkeypatch.setenv("HOSTILE_AFTER_BYTES", str(video.stat().st_size // 2))
    rows = decode(f"hostile://{video}", deaths=1)
    *chunks, last = rows
    assert len(chunks) > 2
    assert [chunk["first"] for chunk in chunks] == [4 * i for i in range(len(chunks))]
    assert last["error"]["error_class"] == "died"
    assert last["first"] == 4 * len(chunks)


def _clips_of(uri, clip_row, *ranges):
    rows = [clip_row(uri, slots=["face"], have=[], fingerprint="1", start_s=low, end_s=high) for low, high in ranges]
    return [{**row, "clip_id": f"{number:016x}"} for number, row in enumerate(rows)]


@pytest.fixture
def kills_at_half(make_video, tmp_path, monkeypatch):
    """A video whose second half, from about 12 s on, kills who reads it; ranges at its begin need no index."""
    index_first = {"movflags": "faststart"}
    video = make_video(tmp_path / "late_segfault.mp4", count=600, width=160, height=120, mux_options=index_first)
    monkeypatch.setenv("HOSTILE_AFTER_BYTES", str(video.stat().st_size // 2))
    return f"hostile://{video}"


@pytest.mark.parametrize(
    ("ranges", "lost"),
    [
        (((0.0, 1.0), (1.5, 1.9)), []),
        (((0.0, 1.0), (0.5, 2.0), (1.0, None)), [2]),  # two have ended when the third kills
        (((0.0, 20.0), (1.0, 20.0), (0.5, 0.9)), [0, 1]),  # each of the two kills, alone too
    ],
)
def test_a_clip_that_kills_is_told_from_others_of_its_video(kills_at_half, clip_row, attempts, ranges, lost):
    rows = _clips_of(kills_at_half, clip_row, *ranges)
    config = Config.model_validate({"decode": {"chunk_frames": 4}, "faults": FAULTS.model_dump()})
    marks = [mark_of(row) for row in rows]
    attempts.died(marks[0], "its worker died")
    given = list(decode_isolated(rows, config, RegistryClient(attempts)))
    for position, row in enumerate(rows):
        chunks = [chunk for where, chunk in given if where == position]
        assert [chunk["last"] for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert [chunk["first"] for chunk in chunks[1:]] == [c["first"] + c["count"] for c in chunks[:-1]]
        assert (chunks[-1]["error"] is not None) == (position in lost), row
        if position in lost:
            assert chunks[-1]["error"]["error_class"] == "died"
            assert chunks[-1]["error"]["attempts"] >= 3
    assert [bool(deaths) for deaths in attempts.hold("another", marks)] == [
        position in lost or not position for position in range(len(rows))
    ]


def test_only_open_clips_are_marked(make_video, tmp_path, clip_row, attempts):
    video = make_video(tmp_path / "plain.mp4", count=250)
    rows = _clips_of(video, clip_row, (0.0, 1.0), (4.0, 5.0), (4.5, 5.5))
    items = decode_isolated(rows, Config(), RegistryClient(attempts))
    held = [(position, [int(mark.clip_id, 16) for mark in attempts._holder]) for position, _ in items]
    assert held == [(0, [0]), (1, [1, 2]), (2, [2])]
    assert not attempts._holder


def test_a_run_that_is_to_stop_begins_no_clip(decode, make_video, tmp_path, attempts):
    attempts.stop()
    assert decode(make_video(tmp_path / "video.mp4")) == []


def test_data_errors_are_rows_at_the_first_attempt(decode, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (row,) = decode(tmp_path / "broken.mp4")
    assert row["error"]["error_class"] == "not_a_video"
