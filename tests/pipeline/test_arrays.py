"""Faces are found in other tables whatever the order of the rows, and columns become rows of numbers."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.arrays import columns_to_matrix, join_faces, match_faces, pair_faces, to_matrix
from pipeline.geometry import box_iou

KEYS = st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 3))


def table(keys, **columns):
    clips, frames, faces = zip(*keys, strict=True) if keys else ((), (), ())
    ids = {"clip_id": pa.array(clips, pa.string()), "frame": pa.array(frames, pa.int64())}
    return pa.table({**ids, "face": pa.array(faces, pa.int32()), **columns})


@settings(deadline=None)
@given(st.lists(KEYS, unique=True), st.lists(KEYS, unique=True))
def test_each_face_is_matched_with_its_row_and_no_other(faces, others):
    place = {key: i for i, key in enumerate(others)}
    assert match_faces(table(faces), table(others)).to_pylist() == [place.get(key) for key in faces]


@settings(deadline=None)
@given(st.lists(KEYS, unique=True), st.lists(KEYS, unique=True))
def test_all_pairs_of_faces_in_one_frame_are_found(one, other):
    pairs = zip(*(rows.tolist() for rows in pair_faces(table(one), table(other))), strict=True)
    expected = [(i, j) for i, a in enumerate(one) for j, b in enumerate(other) if a[:2] == b[:2]]
    assert list(pairs) == expected


def test_a_join_keeps_the_order_and_gives_null_where_a_face_is_missing():
    faces = table([("a", 2, 0), ("a", 1, 0)], score=[0.1, 0.2])
    joined = join_faces(faces, table([("a", 1, 0), ("b", 2, 0)], pose=[1.0, 2.0]))
    assert joined.column_names == ["clip_id", "frame", "face", "score", "pose"]
    assert joined.select(["score", "pose"]).to_pylist() == [{"score": 0.1, "pose": None}, {"score": 0.2, "pose": 1.0}]


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32(), pa.float64()])
def test_lists_become_rows_and_null_becomes_nan_also_behind_an_offset(kind):
    lists = pa.array([[9, 9], [1, 2], None, [3, 4]], pa.list_(kind, 2))
    for column in (lists.slice(1), pa.chunked_array([lists.slice(1, 1), lists.slice(2)])):
        rows = to_matrix(column)
        assert rows.dtype == np.float32
        np.testing.assert_array_equal(rows, [[1, 2], [np.nan, np.nan], [3, 4]])
    assert to_matrix(lists.slice(0, 0)).shape == (0, 2)


def test_columns_of_numbers_and_of_lists_stand_side_by_side():
    rows = pa.table({"score": [0.5, None], "points": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2))})
    np.testing.assert_array_equal(columns_to_matrix(rows, ["score", "points"]), [[0.5, 1, 2], [np.nan, 3, 4]])


def test_overlap_of_nothing_is_zero():
    box = np.array([0, 0, 10, 10], np.float32)
    others = np.array([[0, 0, 10, 5], [20, 20, 30, 30], [0, 0, 0, 0], [np.nan] * 4, [10, 10, 0, 0]], np.float32)
    np.testing.assert_allclose(box_iou(box, others), [0.5, 0, 0, 0, 0])
    assert box_iou(box, np.empty((0, 4), np.float32)).shape == (0,)
