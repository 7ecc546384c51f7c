"""The bundle `tiny`: small, whole, and right about the two portraits that ship in other packages."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

import actors
from actors.models.tiny import gaze_angles
from actors.models.tiny_gaze import cut_eyes
from actors.ops.crops import align_faces, crop_faces
from actors.weights.bundles import build_model, resolve_bundle
from jobs.commands.demo import portraits

SLOTS = ("face", "landmarks", "pose", "emotions", "embeddings", "gaze")
TRAITS = ("landmarks", "pose", "emotions", "gaze")


@pytest.fixture(scope="module")
def nets():
    return {model.slot: build_model(model) for model in resolve_bundle("tiny").models}


@pytest.fixture(scope="module")
def faces(nets):
    """Of each portrait: the picture, its one face, the plain crop and the aligned one."""
    made = []
    for picture in portraits():
        frames = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None]
        with torch.inference_mode():
            found = nets["face"].detect(frames)
            rows = torch.zeros(len(found), dtype=torch.int64)
            crops = crop_faces(frames, rows, found.boxes_N4, size=112, expand=1.2)
            made.append((frames, found, crops, align_faces(frames, rows, found.points_N52)))
    return made


def test_the_weights_ship_with_the_package_and_are_small():
    files = list((Path(actors.__file__).parent / "tiny").glob("*.safetensors"))
    assert {path.stem for path in files} == {"face", "traits", "gaze", "identity"}
    assert sum(path.stat().st_size for path in files) <= 12e6


def test_it_fills_all_slots_but_action_units():
    bundle = resolve_bundle("tiny")
    assert tuple(model.slot for model in bundle.models) == SLOTS
    assert bundle.left_out == ("action_units",)


def test_each_portrait_has_one_face_and_the_points_lie_in_it(faces):
    for _, found, _, _ in faces:
        assert len(found) == 1
        left, top, right, bottom = found.boxes_N4[0].tolist()
        eye_left, eye_right, nose, mouth_left, mouth_right = found.points_N52[0].tolist()
        assert left < eye_left[0] < nose[0] < eye_right[0] < right
        assert top < eye_left[1] < nose[1] < mouth_left[1] < bottom
        assert mouth_left[0] < mouth_right[0]


def test_no_face_in_a_picture_turned_upside_down_and_scrambled(nets):
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 256, 320), dtype=np.uint8)
    with torch.inference_mode():
        assert len(nets["face"].detect(torch.from_numpy(noise))) == 0


def test_both_smile(nets, faces):
    for _, _, crops, _ in faces[:1]:
        assert nets["emotions"](crops).argmax(1).tolist() == [3]


@pytest.mark.parametrize(("slot", "width"), [("landmarks", 136), ("pose", 6), ("emotions", 7), ("gaze", 3)])
def test_each_trait_has_its_shape_for_any_number_of_faces(nets, faces, slot, width):
    crops = torch.cat([crops for _, _, crops, _ in faces])
    with torch.inference_mode():
        assert nets[slot](crops[:0]).shape == (0, width)
        assert nets[slot](crops).shape == (2, width)


def test_what_is_said_of_a_face_does_not_depend_on_its_batch(nets, faces):
    crops = torch.cat([crops for _, _, crops, _ in faces])
    with torch.inference_mode():
        for slot in TRAITS:
            together, alone = nets[slot](crops), torch.cat([nets[slot](crops[:1]), nets[slot](crops[1:])])
            torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4, equal_nan=True)


def test_a_mirrored_face_has_mirrored_pose_and_the_same_emotion(nets, faces):
    for _, _, crops, _ in faces:
        with torch.inference_mode():
            pose, mirrored = nets["pose"](crops)[0], nets["pose"](crops.flip(3))[0]
        assert (pose[:3] * torch.tensor([1, -1, -1]) - mirrored[:3]).abs().max() < np.deg2rad(12)
        assert pose[3:].isnan().all()


def test_a_broken_crop_gets_nan_and_no_other_does(nets, faces):
    crops = torch.cat([crops for _, _, crops, _ in faces])
    crops[0, 0, 5, 5] = torch.nan
    with torch.inference_mode():
        said = nets["landmarks"](crops)
    assert said[0].isnan().all()
    assert said[1].isfinite().all()


def test_embeddings_tell_the_two_apart_and_know_each_again(nets, faces):
    with torch.inference_mode():
        first, second = (nets["embeddings"](aligned)[0] for _, _, _, aligned in faces)
        mirrored = [nets["embeddings"](aligned.flip(3))[0] for _, _, _, aligned in faces]
    cosine = torch.nn.functional.cosine_similarity
    assert first.shape == (512,)
    same = min(cosine(first, mirrored[0], dim=0), cosine(second, mirrored[1], dim=0))
    assert same > cosine(first, second, dim=0) + 0.3


def test_a_mirrored_face_looks_to_the_other_side(nets, faces):
    for _, _, crops, _ in faces:
        with torch.inference_mode():
            gaze, mirrored = nets["gaze"](crops)[0], nets["gaze"](crops.flip(3))[0]
        # both eyes and their mirror images are looked at, so what remains comes from landmarks and pose
        assert (gaze[:2] * torch.tensor([1, -1]) - mirrored[:2]).abs().max() < np.deg2rad(10)


def test_eyes_are_cut_upright_and_undistorted_out_of_a_stretched_and_turned_face():
    # a white disc for each eye, of a face 0.75 times as wide as high, turned by 20 degrees, stretched to a square
    aspect, angle = 0.75, np.deg2rad(20)
    center = np.array([aspect / 2, 0.5])
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    landmarks = np.full((68, 2), 0.5)
    row, column = np.mgrid[0:112, 0:112]
    at = np.stack([(column + 0.5) / 112 * aspect, (row + 0.5) / 112], -1)
    crop = np.zeros((112, 112), np.float32)
    for side, first in ((-1, 36), (1, 42)):
        eye = center + turned @ [side * 0.15, 0]
        crop[np.linalg.norm(at - eye, axis=-1) < 0.05] = 1
        for point, x in zip(range(first, first + 6), (-0.06, -0.02, 0.02, 0.06, 0.02, -0.02), strict=True):
            landmarks[point] = (center + turned @ [side * 0.15 + x, 0]) / [aspect, 1]
    picture = torch.from_numpy(crop).expand(1, 3, 112, 112)
    left, right, found = cut_eyes(picture, torch.from_numpy(landmarks).float()[None], aspect)
    assert found.item() == pytest.approx(angle, abs=1e-4)
    for eye in (left, right):
        rows, columns = np.nonzero(eye[0, 0].numpy() > 0.5)
        assert (rows.mean(), columns.mean()) == pytest.approx((29.5, 29.5), abs=0.5)
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        # the corners are 0.12 apart and the picture shows 1.8 times that: the disc covers 0.1 of 0.216
        assert (width, height) == pytest.approx((27.8, 27.8), abs=1.5)


def test_gaze_angles_have_the_signs_of_the_tables():
    ahead, left, up = gaze_angles(torch.tensor([[0.0, 0.0, -2.0], [1.0, 0.0, -1.0], [0.0, 1.0, -1.0]]))
    np.testing.assert_allclose(ahead, [0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(left, [0, np.pi / 4, np.pi / 4], atol=1e-6)
    np.testing.assert_allclose(up, [np.pi / 4, 0, np.pi / 4], atol=1e-6)


@pytest.mark.parametrize("cut", [0, 1])
def test_frames_are_looked_at_in_half_their_size_and_boxes_are_in_pixels_of_the_frame(nets, cut):
    """An odd side is rounded up."""
    small = torch.from_numpy(portraits()[0].copy()).permute(2, 0, 1)[None]
    doubled = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    frames = doubled[..., : doubled.shape[2] - cut, : doubled.shape[3] - cut]
    net = copy.copy(nets["face"])
    with torch.inference_mode():
        found = net.detect(frames)
        net.reduce = 1
        plain = net.detect(small)
    assert len(found) == len(plain) == 1
    torch.testing.assert_close(found.boxes_N4, plain.boxes_N4 * 2, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(found.points_N52, plain.points_N52 * 2, rtol=1e-5, atol=1e-3)
