"""What is drawn on a video, and where."""

import math

import av
import numpy as np
import pytest
import squares
from typer.testing import CliRunner

from jobs.cli import app
from pipeline.errors import ConfigError
from pipeline.report.draw import draw_faces, gaze_direction, pose_axes
from pipeline.report.render_video import render_clip

TOWARDS = math.radians(30)


def frames_of(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_every_frame_is_there_and_faces_are_framed(out, tmp_path):
    path = tmp_path / "new" / "red.mp4"
    done = CliRunner().invoke(app, ["render", "red", out, "-o", str(path)])
    assert done.exit_code == 0, done.output
    drawn = frames_of(path)
    assert len(drawn) == squares.FRAMES
    for i in (0, 12, 23):
        x1, _, x2, y2 = squares.box(squares.RED, i)
        bottom = drawn[i][y2 - 1 : y2 + 2, x1 + 4 : x2 - 4].astype(int).mean(axis=1)
        assert (bottom[:, 2] > bottom[:, 0] + 20).any()  # the box is blue, the square red, the ground grey
        assert squares.near(drawn[i][-20:, -20:].mean(axis=(0, 1)), (128, 128, 128))


def test_a_face_without_other_slots_has_its_box_alone():
    frame = np.zeros((60, 60, 3), np.uint8)
    face = {"box_x1": 10.0, "box_y1": 20.0, "box_x2": 40.0, "box_y2": 50.0, "identity_id": "a"}
    drawn = draw_faces(frame, [face | {"pose_pitch": None, "landmarks": [math.nan] * 136}], {"a": "A"})
    assert drawn[35, 10].any()
    assert not drawn[22:48, 13:38].any()
    assert not frame.any()
    assert not draw_faces(frame, [face | {"box_x1": math.nan}], {}).any()


@pytest.mark.parametrize(
    ("angles", "to_right", "down"),
    [
        ({"yaw": TOWARDS}, -0.5, 0.0),  # the subject's right is the picture's left
        ({"pitch": TOWARDS}, 0.0, -0.5),  # up
        ({}, 0.0, 0.0),
    ],
)
def test_the_axis_out_of_the_face_goes_where_the_head_points(angles, to_right, down):
    axes = pose_axes(**{"pitch": 0.0, "roll": 0.0, "yaw": 0.0, **angles})
    np.testing.assert_allclose(axes[2], (to_right, down), atol=1e-12)


def test_a_tilt_to_the_subjects_right_turns_the_face_against_the_clock():
    axes = pose_axes(0.0, TOWARDS, 0.0)
    # the top of the head, against the axis down the face, goes to the picture's left
    np.testing.assert_allclose(-axes[1], (-math.sin(TOWARDS), -math.cos(TOWARDS)), atol=1e-12)


def test_gaze_up_and_to_the_subjects_left_goes_up_and_right():
    right, down = gaze_direction(TOWARDS, TOWARDS)
    assert right > 0.4
    assert down == pytest.approx(-0.5)


def test_a_clip_that_is_not_there_is_named(out, tmp_path):
    with pytest.raises(ConfigError, match="absent"):
        list(render_clip(out, "absent", str(tmp_path / "x.mp4")))
