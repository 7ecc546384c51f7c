"""Degenerate input is data: through the actor, on every slot, for one face among others."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from actors.annotator import Annotator
from actors.runtime.chunk_rows import FACE_WIDTH
from actors.runtime.settings import AnnotatorSettings
from actors.weights.bundles import resolve_bundle
from pipeline import schema

SMALL = str(Path(__file__).parents[1] / "bundles" / "small.yaml")
#: what the bundle computes out of the 68 landmarks, and numbers per face
FROM_LANDMARKS = {"pose": 6, "action_units": 20, "emotions": 7, "embeddings": 512}
WIDTHS = {"landmarks": 136, **FROM_LANDMARKS, "gaze": 3}
SIZE = (90, 120)  # height, width


@pytest.fixture(scope="module")
def annotator():
    """Holds 512 faces in one batch, so that faces of one test always share theirs."""
    return Annotator(resolve_bundle(SMALL).models, AnnotatorSettings("cpu", threads=1, batch_faces=512))


@pytest.fixture(scope="module")
def annotate(annotator):
    """annotate(faces of each frame, landmarks) -> slot -> one row per face; with landmarks, faces count as stored."""

    def run(of_frames, landmarks=None, size=SIZE):
        stored = landmarks is not None
        chunk = flow_chunk(len(of_frames), size, of_frames if stored else None, landmarks)
        annotator.nets["face"].of_frames = list(of_frames)
        (row,) = annotator(chunk).to_pylist()
        assert row["face_index"] == [frame for frame, faces in enumerate(of_frames) for _ in faces]
        count = len(row["face_index"])
        return {slot: np.array(row[slot], np.float32).reshape(count, width) for slot, width in WIDTHS.items()}

    return run


def flow_chunk(frames, size, of_frames=None, landmarks=None):
    """A chunk of frames of noise; with `of_frames`, it brings faces and landmarks as from an earlier run."""
    height, width = size
    length = height * width + 2 * ((height + 1) // 2) * ((width + 1) // 2)
    planes = np.random.default_rng(0).integers(40, 200, frames * length, np.uint8)
    row = dict.fromkeys(schema.FLOW.names) | {"clip_id": "c", "shard": "s", "first": 0, "count": frames, "last": True}
    row |= {"frames": list(range(frames)), "times": [0.0] * frames, "height": height, "width": width}
    row |= {"matrix": "bt601", "full_range": True, "planes": planes.tobytes(), "slots": list(schema.SLOTS)}
    if of_frames is not None:
        row["face_index"] = [frame for frame, faces in enumerate(of_frames) for _ in faces]
        row |= {"face": np.concatenate(of_frames).ravel(), "landmarks": np.asarray(landmarks, np.float32).ravel()}
    return pa.Table.from_pylist([row], schema=schema.FLOW)


def face(left, top, right, bottom):
    """A face as the detector says it, with no points."""
    return [left, top, right, bottom, 0.9, *[np.nan] * 11]


def faces(*boxes):
    return np.array([face(*box) for box in boxes], np.float32).reshape(-1, FACE_WIDTH)


def shape(left, top, side):
    """Landmarks like those of a face, in a square: jaw, brows, nose, eyes, mouth."""
    turn = np.linspace(np.pi, 0, 17)
    circle = np.linspace(0, 2 * np.pi, 6, endpoint=False)
    parts = [
        np.stack([0.5 + 0.45 * np.cos(turn), 0.4 + 0.55 * np.sin(turn)], 1),
        *(np.stack([np.linspace(x, x + 0.25, 5), np.full(5, 0.25)], 1) for x in (0.15, 0.6)),
        np.stack([np.full(4, 0.5), np.linspace(0.35, 0.55, 4)], 1),
        np.stack([np.linspace(0.4, 0.6, 5), np.full(5, 0.6)], 1),
        *(np.stack([x + 0.08 * np.cos(circle), 0.37 + 0.04 * np.sin(circle)], 1) for x in (0.3, 0.7)),
        np.stack(
            [0.5 + 0.2 * np.cos(np.linspace(np.pi, 3 * np.pi, 20)), 0.75 + 0.08 * np.sin(np.linspace(0, 6, 20))], 1
        ),
    ]
    return np.concatenate(parts) * side + [left, top]


BOXES = [(10, 10, 60, 60), (40, 20, 100, 80), (5, 30, 55, 85)]
SHAPES = [shape(10, 10, 50), shape(40, 20, 60), shape(5, 30, 50)]


def bad_landmarks(kind):
    points = SHAPES[1].copy()
    if kind == "one is nan":
        points[40, 0] = np.nan
    elif kind == "one is infinite":
        points[3, 1] = np.inf
    elif kind == "on a line":
        points = np.stack([np.linspace(41, 97, 68), np.linspace(22, 77, 68)], 1)
    elif kind == "on a level line":
        points[:, 1] = 50
    elif kind == "one point":
        points[:] = 50
    elif kind == "off the frame":
        points += 1000
    elif kind == "left of the frame":
        points -= [200, 0]
    return points


def assert_same(ours, expected):
    for slot in WIDTHS:
        largest = np.nanmax(np.abs(expected[slot]), initial=10)  # landmarks of a vast box are vast
        np.testing.assert_allclose(ours[slot], expected[slot], rtol=1e-4, atol=1e-5 * largest, err_msg=slot)


@pytest.mark.parametrize(
    "kind",
    [
        "one is nan",
        "one is infinite",
        "on a line",
        "on a level line",
        "one point",
        "off the frame",
        "left of the frame",
    ],
)
def test_landmarks_that_are_no_face_void_what_depends_on_them_for_that_face_alone(annotate, kind):
    together = annotate([faces(*BOXES)], [SHAPES[0], bad_landmarks(kind), SHAPES[2]])
    for slot in FROM_LANDMARKS:
        assert np.isnan(together[slot][1]).all(), slot
    others = annotate([faces(BOXES[0], BOXES[2])], [SHAPES[0], SHAPES[2]])
    assert_same({slot: values[[0, 2]] for slot, values in together.items()}, others)
    assert all(np.isfinite(others[slot]).all() for slot in WIDTHS)
    assert np.isfinite(together["gaze"]).all()  # out of the crop


def test_a_face_partly_off_the_frame_is_judged(annotate):
    ours = annotate([faces((-20, -20, 40, 40), (90, 60, 150, 120))], [shape(-20, -20, 60), shape(90, 60, 60)])
    assert all(np.isfinite(ours[slot]).all() for slot in WIDTHS)


@pytest.mark.parametrize("box", [(np.nan, 10, 60, 60), (10, 10, np.inf, 60), (np.nan,) * 4])
def test_a_box_that_is_not_finite_voids_that_face_alone(annotate, box):
    together = annotate([faces(BOXES[0], box, BOXES[1])])
    for slot in WIDTHS:
        assert np.isnan(together[slot][1]).all(), slot
    assert_same({slot: values[[0, 2]] for slot, values in together.items()}, annotate([faces(BOXES[0], BOXES[1])]))


ODD = {
    "larger than the frame": (-500, -400, 700, 600),
    "negative corner": (-30, -20, 40, 50),
    "vast": (-5e8, -5e8, 5e8, 5e8),
    "no extent": (50, 50, 50, 50),
    "turned inside out": (60, 60, 20, 20),
    "outside": (300, 300, 350, 350),
}


@pytest.mark.parametrize("box", ODD.values(), ids=ODD)
def test_odd_boxes_do_no_harm_and_give_what_they_give_alone(annotate, box):
    together = annotate([faces(BOXES[0], box, BOXES[1])])
    alone = annotate([faces(box)])
    assert np.isfinite(together["landmarks"]).all()
    assert_same({slot: values[[1]] for slot, values in together.items()}, alone)
    assert_same({slot: values[[0, 2]] for slot, values in together.items()}, annotate([faces(BOXES[0], BOXES[1])]))


def test_no_face_in_any_frame(annotate):
    for ours in (annotate([faces()] * 3), annotate([faces()] * 3, np.empty((0, 136)))):
        assert {slot: len(values) for slot, values in ours.items()} == dict.fromkeys(WIDTHS, 0)


def test_frames_without_faces_between_others(annotate):
    together = annotate([faces(), faces(*BOXES), faces()])
    assert all(np.isfinite(values).all() for values in together.values())


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1)])
def test_frames_of_a_pixel(annotate, size):
    ours = annotate([faces((0, 0, 1, 1), (-3, -3, 4, 4)), faces()], size=size)
    assert np.isfinite(ours["landmarks"]).all()
    assert np.isfinite(ours["gaze"]).all()


def test_the_detector_takes_frames_of_a_pixel():
    tiny = Annotator(resolve_bundle("tiny").models, AnnotatorSettings("cpu", threads=1))
    (row,) = tiny(flow_chunk(2, (1, 1))).to_pylist()
    assert len(row["face"]) == 15 * len(row["face_index"])


def test_five_hundred_faces_in_a_batch_are_what_each_is_alone(annotate):
    rng = np.random.default_rng(3)
    corners = rng.uniform(-20, 70, (500, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(20, 60, (500, 1))], axis=1)
    together = annotate([faces(*boxes[:499]), faces(boxes[499])])
    for k in (0, 1, 255, 498):
        assert_same({slot: values[[k]] for slot, values in together.items()}, annotate([faces(boxes[k])]))
    assert len({tuple(values) for values in together["landmarks"]}) == 500
