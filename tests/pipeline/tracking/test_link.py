"""What a track is, told by small clips. People are known by letters; a letter is a direction in embedding space."""

import hashlib
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.models import TracksConfig
from pipeline.geometry import box_iou
from pipeline.schema import TRACKS, slot_schema
from pipeline.tracking.link import find_subjects, link_faces, link_shard, pool_embeddings

CLIP = "00000000000000aa"
DEFAULT = TracksConfig()
LEFT, RIGHT = (100, 50, 220, 200), (400, 50, 520, 200)
PEOPLE = np.linalg.qr(np.random.default_rng(1).standard_normal((512, 6)))[0].T


def looks(person, seed=0, spread=0.02):
    """An embedding of the person as a model might give it: not normalized, never twice the same."""
    noise = np.random.default_rng(seed).standard_normal(512) * spread
    return (17 * (PEOPLE["ABCDEF".index(person)] + noise)).astype(np.float32)


def make_clip(*rows, clip_id=CLIP):
    """Tables of faces and embeddings from rows (frame, face, box, person or None or a vector[, score])."""
    faces, embeddings = [], []
    for seed, (frame, face, box, person, *score) in enumerate(rows):
        key = {"clip_id": clip_id, "frame": frame, "face": face}
        place = dict(zip(("box_x1", "box_y1", "box_x2", "box_y2"), box, strict=True))
        faces.append(key | place | {"time": frame / 25, "score": score[0] if score else 0.99})
        if person is not None:
            embeddings.append(key | {"embedding": looks(person, seed) if isinstance(person, str) else person})
    return (
        pa.Table.from_pylist(faces, schema=slot_schema("face")),
        pa.Table.from_pylist(embeddings, schema=slot_schema("embeddings")),
    )


def link(*rows, config=DEFAULT, stride=None):
    return link_shard(*make_clip(*rows), "s0", config, stride)


def members(tracks):
    """The faces of each track as sets of (frame, face)."""
    return [set(zip(row["frames"], row["members"], strict=True)) for row in tracks.to_pylist()]


def moved(box, dx):
    return (box[0] + dx, box[1], box[2] + dx, box[3])


# -- what belongs together ---------------------------------------------------------------------------------------------


def test_a_face_that_stays_is_one_track():
    tracks = link(*[(frame, 0, LEFT, "A") for frame in range(10)])
    assert tracks.schema.equals(TRACKS, check_metadata=True)
    (row,) = tracks.to_pylist()
    assert row["track_id"] == hashlib.blake2b(f"{CLIP}/0/0".encode(), digest_size=8).hexdigest()
    assert (row["clip_id"], row["shard"], row["identity_id"]) == (CLIP, "s0", None)
    assert (row["first_frame"], row["last_frame"], row["faces"]) == (0, 9, 10)
    assert (row["first_time"], row["last_time"]) == (0.0, 9 / 25)
    assert row["mean_score"] == pytest.approx(0.99)
    assert row["mean_size"] == pytest.approx(np.sqrt(120 * 150))
    assert 0 < row["quality"] <= 1
    assert row["frames"] == list(range(10))
    assert row["members"] == [0] * 10
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)
    assert np.dot(row["embedding"], PEOPLE[0]) > 0.9


def test_two_people_who_cross_keep_their_tracks():
    rows = []
    for frame in range(21):  # they meet in frame 10, where their boxes are the same
        rows += [(frame, 0, moved(LEFT, 10 * frame), "A"), (frame, 1, moved(LEFT, 200 - 10 * frame), "B")]
    assert members(link(*rows)) == [{(frame, face) for frame in range(21)} for face in (0, 1)]


def test_face_numbers_that_swap_do_not_matter():
    rows = []
    for frame in range(6):
        rows += [(frame, frame % 2, LEFT, "A"), (frame, 1 - frame % 2, RIGHT, "B")]
    assert members(link(*rows)) == [{(f, f % 2) for f in range(6)}, {(f, 1 - f % 2) for f in range(6)}]


def test_a_cut_to_another_place_is_bridged_by_the_embedding():
    rows = [(frame, 0, LEFT if frame < 5 else RIGHT, "A") for frame in range(10)]
    assert link(*rows).num_rows == 1


def test_a_cut_to_another_person_in_the_same_place_breaks_the_track():
    rows = [(frame, 0, LEFT, "A" if frame < 5 else "B") for frame in range(10)]
    assert members(link(*rows)) == [{(f, 0) for f in range(5)}, {(f, 0) for f in range(5, 10)}]


def test_a_person_who_comes_back_after_a_cut_goes_on_the_same_track():
    rows = [(frame, 0, LEFT, "B" if 5 <= frame < 8 else "A") for frame in range(12)]
    tracks = link(*rows)
    assert tracks["faces"].to_pylist() == [9, 3]


def test_a_cut_hidden_in_blended_frames_breaks_the_track():
    share = np.interp(np.arange(40), [19, 23], [0, 1])  # three frames show both, each alike to the one before
    rows = [(f, 0, LEFT, (1 - share[f]) * looks("A", f) + share[f] * looks("B", 40 + f)) for f in range(40)]
    tracks = link(*rows)
    assert tracks.num_rows == 2
    assert 20 <= tracks["first_frame"].to_pylist()[1] <= 23


def test_a_head_that_turns_is_not_cut():
    turn = np.linspace(0, 1.3, 60)  # radians: looks at the end have a cosine of 0.27 to those at the begin
    rows = [(f, 0, LEFT, 17 * (np.cos(a) * PEOPLE[0] + np.sin(a) * PEOPLE[1])) for f, a in enumerate(turn)]
    assert link(*rows).num_rows == 1


def test_a_poor_face_that_looks_like_nobody_does_not_break_the_track():
    tiny = (150, 110, 165, 125)
    assert link(*[(frame, 0, tiny, "A" if frame != 5 else "B") for frame in range(10)]).num_rows == 1


def test_a_short_gap_is_bridged_and_a_long_one_is_not():
    gap = TracksConfig(max_gap=3)
    assert link((0, 0, LEFT, "A"), (1, 0, LEFT, "A"), (5, 0, LEFT, "A"), config=gap).num_rows == 1
    assert link((0, 0, LEFT, "A"), (1, 0, LEFT, "A"), (6, 0, LEFT, "A"), config=gap).num_rows == 2


def test_a_gap_counts_sampled_frames():
    rows = [(0, 0, LEFT, "A"), (25, 0, LEFT, "A"), (125, 0, LEFT, "A")]
    assert link(*rows, config=TracksConfig(max_gap=3)).num_rows == 1  # every 25th: frames 50, 75 and 100 lack the face
    assert link(*rows, config=TracksConfig(max_gap=3), stride=5).num_rows == 3


# -- what is never one track -------------------------------------------------------------------------------------------


def test_two_faces_of_one_frame_are_never_one_track():
    rows = [(frame, face, LEFT, "A") for frame in range(5) for face in range(2)]  # the same box, the same looks
    assert link(*rows)["frames"].to_pylist() == [[0, 1, 2, 3, 4]] * 2


def test_clips_do_not_mix():
    clips = [make_clip(*[(f, 0, LEFT, "A") for f in range(4)], clip_id=c) for c in ("b" * 16, "a" * 16)]
    tracks = link_shard(*(pa.concat_tables(tables) for tables in zip(*clips, strict=True)), "s0", DEFAULT)
    assert tracks["clip_id"].to_pylist() == ["a" * 16, "b" * 16]
    assert tracks["faces"].to_pylist() == [4, 4]
    assert len(set(tracks["track_id"].to_pylist())) == 2


def test_link_faces_takes_one_clip():
    faces, embeddings = make_clip((0, 0, LEFT, "A"))
    assert link_faces(faces, embeddings, "s0", DEFAULT).equals(link_shard(faces, embeddings, "s0", DEFAULT))
    other, _ = make_clip((0, 0, LEFT, "A"), clip_id="b" * 16)
    with pytest.raises(ValueError, match="one clip"):
        link_faces(pa.concat_tables([faces, other]), embeddings, "s0", DEFAULT)


# -- what may be missing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embeddings", [None, slot_schema("embeddings").empty_table()], ids=["no_table", "no_rows"])
def test_without_embeddings_overlap_alone_links(embeddings):
    rows = []
    for frame in range(8):
        rows += [(frame, 0, moved(LEFT, 5 * frame), None), (frame, 1, RIGHT, None)]
    tracks = link_shard(make_clip(*rows)[0], embeddings, "s0", DEFAULT)
    assert tracks["faces"].to_pylist() == [8, 8]
    assert tracks["embedding"].null_count == 2


@pytest.mark.parametrize("bad", [None, np.full(512, np.nan), np.zeros(512)], ids=["no_row", "nan", "zero"])
def test_a_face_without_usable_embedding_is_linked_by_its_place(bad):
    rows = [(frame, 0, LEFT, bad if frame in (2, 3) else "A") for frame in range(6)]
    (row,) = link(*rows).to_pylist()
    assert row["faces"] == 6
    assert np.isfinite(row["embedding"]).all()


def test_null_embeddings_scores_and_times_are_tolerated():
    faces, embeddings = make_clip(*[(frame, 0, LEFT, "A") for frame in range(4)])
    for name in ("score", "time"):
        index = faces.schema.get_field_index(name)
        faces = faces.set_column(index, faces.schema.field(index), pa.nulls(4, faces.schema.field(index).type))
    vectors = [None, *embeddings["embedding"].to_pylist()[1:]]
    embeddings = embeddings.set_column(
        3, embeddings.schema.field(3), pa.array(vectors, embeddings.schema.field(3).type)
    )
    (row,) = link_shard(faces, embeddings, "s0", DEFAULT).to_pylist()
    assert row["faces"] == 4
    assert (row["mean_score"], row["first_time"], row["last_time"]) == (None, None, None)
    assert np.dot(row["embedding"], PEOPLE[0]) > 0.9


def test_half_precision_embeddings_link_as_well():
    faces, embeddings = make_clip(*[(frame, 0, LEFT if frame < 3 else RIGHT, "A") for frame in range(6)])
    assert link_shard(faces, embeddings.cast(slot_schema("embeddings", "float16")), "s0", DEFAULT).num_rows == 1


def test_no_faces_give_no_tracks():
    tracks = link()
    assert tracks.num_rows == 0
    assert tracks.schema.equals(TRACKS, check_metadata=True)


# -- what a track says -------------------------------------------------------------------------------------------------


def test_an_outlier_has_no_part_in_the_embedding():
    unit = PEOPLE[[0] * 9 + [1]].astype(np.float32)
    center, cosine = pool_embeddings(unit, np.ones(10, np.float32))
    assert np.dot(center, PEOPLE[0]) == pytest.approx(1, abs=1e-5)
    assert cosine[-1] == pytest.approx(0, abs=1e-5)


def test_a_better_face_has_a_greater_part_in_the_embedding():
    center, _ = pool_embeddings(PEOPLE[:2].astype(np.float32), np.array([0.9, 0.1], np.float32))
    assert np.dot(center, PEOPLE[0]) > 0.95


def test_vectors_that_cancel_out_have_no_mean():
    unit = np.stack([PEOPLE[0], -PEOPLE[0]]).astype(np.float32)
    assert pool_embeddings(unit, np.ones(2, np.float32))[0] is None


def test_the_representative_is_large_sure_and_typical():
    big = (60, 10, 260, 240)
    rows = [(0, 0, LEFT, "A", 0.6), (1, 0, LEFT, "A", 0.9), (2, 0, big, "A", 0.95), (3, 0, big, "B", 0.99)]
    config = TracksConfig(switch_cosine=-1)  # keep the face that looks like nobody on the track
    (row,) = link(*rows, *[(f, 0, LEFT, "A", 0.8) for f in range(4, 9)], config=config).to_pylist()
    assert (row["representative_frame"], row["representative_face"]) == (2, 0)


def test_from_which_cosine_on_a_face_is_somebody_else_depends_on_the_model():
    # a weak embedding shows all people alike to some degree: here two strangers have a cosine of 0.25
    first, second = (17 * (np.sqrt(0.75) * PEOPLE[i] + 0.5 * PEOPLE[5]).astype(np.float32) for i in (0, 1))
    rows = [(frame, 0, LEFT, first if frame < 8 else second) for frame in range(16)]
    assert link(*rows).num_rows == 1
    assert link(*rows, config=TracksConfig(switch_cosine=0.3)).num_rows == 2


def test_overlap_of_empty_and_missing_boxes_is_zero():
    boxes = np.array([[0, 0, 10, 10], [0, 5, 10, 15], [3, 3, 3, 3], [np.nan] * 4], np.float32)
    expected = [[1, 1 / 3, 0, 0], [1 / 3, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(box_iou(boxes[:, None], boxes), expected, atol=1e-6)


# -- whatever the clip -------------------------------------------------------------------------------------------------

boxes = st.tuples(st.integers(0, 300), st.integers(0, 200), st.integers(0, 150), st.integers(0, 150)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
faces_of_a_frame = st.lists(st.tuples(boxes, st.sampled_from(["A", "B", None])), max_size=3)
clips = st.lists(faces_of_a_frame, max_size=12).map(
    lambda frames: [(2 * f, n, *face) for f, faces in enumerate(frames) for n, face in enumerate(faces)]
)


@settings(max_examples=60, deadline=None)
@given(clips, st.integers(0, 3), st.randoms(use_true_random=False))
def test_every_face_is_in_one_track_once_per_frame_in_whatever_order(rows, max_gap, random):
    config = TracksConfig(max_gap=max_gap)
    faces, embeddings = make_clip(*rows)
    tracks = link_shard(faces, embeddings, "s0", config)
    assert Counter(key for track in members(tracks) for key in track) == Counter((r[0], r[1]) for r in rows)
    for row in tracks.to_pylist():
        assert row["frames"] == sorted(set(row["frames"]))
        assert (row["first_frame"], row["last_frame"]) == (row["frames"][0], row["frames"][-1])
        assert len(row["members"]) == row["faces"] == len(row["frames"])
        assert (row["representative_frame"], row["representative_face"]) in set(
            zip(row["frames"], row["members"], strict=True)
        )
    assert len(set(tracks["track_id"].to_pylist())) == tracks.num_rows
    orders = [np.array(random.sample(range(len(table)), len(table)), np.int64) for table in (faces, embeddings)]
    assert link_shard(faces.take(orders[0]), embeddings.take(orders[1]), "s0", config).equals(tracks)


# -- how well a face shows its person ----------------------------------------------------------------------------------


def turned(yaw_of_frame):
    rows = [
        {"clip_id": CLIP, "frame": frame, "face": 0, "pose_yaw": yaw, "pose_pitch": 0.0}
        for frame, yaw in yaw_of_frame.items()
    ]
    return pa.Table.from_pylist(rows, schema=slot_schema("pose"))


def test_a_face_that_looks_away_counts_less():
    rows = [(frame, 0, LEFT, PEOPLE[0] + share * PEOPLE[1]) for frame, share in enumerate((0.0, 1.0))]
    frontal, profile, unknown = (
        link_shard(*make_clip(*rows), "s0", DEFAULT, poses=turned(yaws)).to_pylist()[0]
        for yaws in ({0: 0.0, 1: 0.0}, {0: 0.0, 1: -np.pi / 2}, {})
    )
    assert unknown == frontal == link(*rows).to_pylist()[0]
    assert profile["quality"] == pytest.approx(frontal["quality"] * (1 + 0.2) / 2)
    assert profile["representative_frame"] == 0
    assert np.dot(profile["embedding"], PEOPLE[1]) < np.dot(frontal["embedding"], PEOPLE[1]) - 0.1


def test_a_pose_that_is_not_a_number_is_no_turn():
    rows = [(0, 0, LEFT, "A")]
    poses = turned({0: float("nan")})
    assert link_shard(*make_clip(*rows), "s0", DEFAULT, poses=poses).equals(link(*rows))


@pytest.mark.parametrize(
    ("sharpness", "share"), [(3.0, 0.3), (12.5, 0.5), (25.0, 1.0), (900.0, 1.0), (None, 1.0)], ids=str
)
def test_a_blurred_face_counts_less(sharpness, share):
    faces, embeddings = make_clip((0, 0, LEFT, "A"), (1, 0, LEFT, "B"))
    blurred = faces.set_column(
        faces.column_names.index("sharpness"), faces.field("sharpness"), pa.array([100.0, sharpness], pa.float32())
    )
    config = TracksConfig(switch_cosine=-1.0)
    sharp, row = (link_shard(table, embeddings, "s0", config).to_pylist()[0] for table in (faces, blurred))
    assert row["quality"] == pytest.approx(sharp["quality"] * (1 + share) / 2)
    # the first of equals shows the person, and never the blurred one
    assert row["representative_frame"] == 0


def _track(frames, left, top, side):
    return np.array(frames), np.tile(np.array([left, top, left + side, top + side], np.float32), (len(frames), 1))


@pytest.mark.parametrize(
    ("box", "subjects"),
    [
        (None, [None, None, None, None]),
        ((0, 0, 100, 100), [True, False, False, True]),  # lost and found again in other frames
        ((100, 0, 200, 100), [False, True, False, False]),
        ((0, 0, 300, 100), [False, True, False, False]),  # several are inside: who fills most of it
        ((600, 600, 700, 700), [False, False, False, False]),
    ],
)
def test_the_subject_is_who_fills_the_box(box, subjects):
    tracks = [_track(range(10), 10, 10, 40), _track(range(20), 110, 10, 50), _track(range(10), 30, 30, 10)]
    tracks.append(_track(range(10, 20), 20, 10, 40))
    assert find_subjects(tracks, box) == subjects


def test_tracks_say_who_is_the_subject():
    boxes = {"A": (10, 10, 60, 60), "B": (200, 10, 260, 60)}
    rows = [(f, i, box, name) for f in range(5) for i, (name, box) in enumerate(boxes.items())]
    faces, embeddings = make_clip(*rows)
    subject = {}
    for name, asked in (("nobody", None), ("left", {CLIP: [0, 0, 100, 100]})):
        tracks = link_shard(faces, embeddings, "s", TracksConfig(), boxes=asked)
        subject[name] = tracks["subject"].to_pylist()
    assert subject["nobody"] == [None, None]
    assert sorted(subject["left"]) == [False, True]
