"""py-feat's layout: what becomes of boxes, frames without a face, and slots that are not filled."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline.arrays import join_faces
from pipeline.export.fex import COLUMNS_OF_SLOT, FEX, FexVideo, approx_time, face_rectangles, fex_rows
from pipeline.schema import slot_schema

VIDEO = FexVideo("clip.mp4", 360, 640, 25.0)


def faces_in(*frames):
    """Table of faces in these frames; a frame that is named twice has two faces."""
    rows = []
    for i, frame in enumerate(frames):
        box = {"box_x1": 10.0, "box_y1": 20.0, "box_x2": 20.0 + i, "box_y2": 40.0}
        rows.append({"clip_id": "c", "frame": frame, "face": frames[:i].count(frame), "score": 0.9 - i / 100} | box)
    return pa.Table.from_pylist(rows, schema=slot_schema("face"))


def fex(faces, frames, labels=None, **tables):
    for table in tables.values():
        faces = join_faces(faces, table)
    return fex_rows(VIDEO, frames, faces, labels or [None] * faces.num_rows).to_pandas()


def test_a_frame_without_a_face_has_one_row_without_numbers_and_a_score_of_zero():
    table = fex(faces_in(5), [0, 5, 10])
    assert table["frame"].tolist() == [0, 5, 10]
    assert table["FaceScore"].tolist() == pytest.approx([0.0, 0.9, 0.0])
    empty = table.loc[[0, 2]]
    assert empty["FaceRectX"].isna().all()
    assert empty["Identity"].isna().all()
    assert empty[["FrameHeight", "FrameWidth"]].to_numpy().tolist() == [[360.0, 640.0]] * 2
    assert empty["input"].tolist() == ["clip.mp4"] * 2


def test_faces_are_ordered_by_frame_and_face_whatever_the_order_of_the_tables():
    faces = faces_in(9, 0, 9)
    shuffled = faces.take([2, 0, 1])
    assert fex(shuffled, [0, 9], labels=["b", "a", "c"])["Identity"].tolist() == ["c", "a", "b"]
    assert fex(shuffled, [0, 9])["FaceScore"].tolist() == pytest.approx([0.89, 0.90, 0.88])


def test_rows_of_other_slots_are_found_by_frame_and_face_and_missing_ones_are_null():
    landmarks = [float(i) for i in range(136)]
    rows = [{"clip_id": "c", "frame": 9, "face": 1, "landmarks": landmarks}]
    rows += [{"clip_id": "c", "frame": 9, "face": 0, "landmarks": None}]
    table = fex(faces_in(9, 9, 12), [9, 12], landmarks=pa.Table.from_pylist(rows, schema=slot_schema("landmarks")))
    assert table["x_0"].isna().tolist() == [True, False, True]
    assert table.loc[1, [f"x_{i}" for i in range(68)]].tolist() == landmarks[0::2]
    assert table.loc[1, [f"y_{i}" for i in range(68)]].tolist() == landmarks[1::2]
    assert table[list(COLUMNS_OF_SLOT["action_units"])].isna().all(axis=None)


def test_no_face_in_any_frame():
    table = fex_rows(VIDEO, [0, 1], slot_schema("face").empty_table(), [])
    assert table.schema.equals(FEX)
    assert table["FaceScore"].to_pylist() == [0.0, 0.0]
    assert table["FaceRectX"].null_count == 2


def test_rectangles_are_grown_rounded_half_to_even_and_not_clipped():
    boxes = np.array([[173, 140, 387, 440], [-10, -10, 0, 5]], np.float32)
    assert face_rectangles(boxes).tolist() == [[152, 110, 256, 360], [-11, -12, 12, 18]]


@pytest.mark.parametrize(
    ("frame", "fps", "text"), [(0, 25.0, "00:00"), (49, 25.0, "00:01"), (112_875, 25.0, "75:15"), (7, None, None)]
)
def test_time_is_minutes_and_whole_seconds_by_the_average_rate(frame, fps, text):
    assert approx_time(frame, fps) == text
