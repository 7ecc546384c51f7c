"""What an identity is, told by small corpora. A person is a direction in embedding space, a track a look at it."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.models import IdentitiesConfig
from pipeline.identity.assign import cluster_tracks
from pipeline.schema import IDENTITIES, TRACKS

T = 0.3  # threshold of the imaginary model; two single tracks merge from 0.3 + 0.18 on
DEFAULT = IdentitiesConfig()
PEOPLE = np.linalg.qr(np.random.default_rng(3).standard_normal((512, 40)))[0].T.astype(np.float32)


def look(person, cosine=0.9, other=39):
    """A unit vector with this cosine to the person, the rest toward another direction."""
    return cosine * PEOPLE[person] + np.sqrt(1 - cosine**2) * PEOPLE[other]


def make_tracks(*rows):
    """Tracks from dicts of what matters; each is in a clip of its own unless it says so."""
    table = []
    for number, row in enumerate(rows):
        full = {
            "track_id": f"{number:016x}",
            "clip_id": f"{number:016x}",
            "shard": "s0",
            "first_frame": 0,
            "last_frame": 9,
            "faces": 10,
            "mean_score": 0.99,
            "mean_size": 100.0,
            "quality": 0.8,
            "representative_frame": number,
            "representative_face": 0,
        }
        table.append(full | row)
    return pa.Table.from_pylist(table, schema=TRACKS)


def cluster(*rows, threshold=T, config=DEFAULT):
    """The identity of each row by a small number in order of appearance, None for none; and the table."""
    who = cluster_tracks(make_tracks(*rows), threshold, config)
    ids, identities = who.identity_of_track, who.identities
    numbers = {None: None}
    return [numbers.setdefault(i, len(numbers) - 1) for i in ids.to_pylist()], identities


def noisy(person, seed, spread=0.03):
    vector = PEOPLE[person] + np.random.default_rng(seed).standard_normal(512).astype(np.float32) * spread
    return vector / np.linalg.norm(vector)


# -- who is who --------------------------------------------------------------------------------------------------------


def test_the_same_person_in_several_clips_is_one_identity():
    labels, identities = cluster(*[{"embedding": noisy(p, i)} for i, p in enumerate([0, 1, 0, 2, 1, 0])])
    assert labels == [0, 1, 0, 2, 1, 0]
    assert identities.schema.equals(IDENTITIES, check_metadata=True)
    assert sorted(identities["tracks"].to_pylist()) == [1, 2, 3]


@pytest.mark.parametrize(("cosine", "same"), [(0.47, False), (0.49, True)])
def test_single_tracks_need_the_threshold_and_the_adjustment(cosine, same):
    labels, _ = cluster({"embedding": PEOPLE[0]}, {"embedding": look(0, cosine)})
    assert (labels == [0, 0]) is same


def test_a_grown_identity_needs_little_more_than_the_threshold():
    # the tracks have a cosine of 0.52 to each other, and one of 0.37 / 0.33 to the one that comes
    grown = [{"embedding": 0.72 * PEOPLE[0] + 0.69 * aside} for aside in PEOPLE[2:18]]
    assert cluster(*grown, {"embedding": look(0, 0.52)})[0] == [0] * 17  # 0.3 + 0.18 / sqrt(16) = 0.345
    assert cluster(*grown, {"embedding": look(0, 0.46)})[0] == [0] * 16 + [1]


def test_two_who_are_alike_but_far_less_than_each_in_itself_are_two():
    """Look-alikes with many tracks: a mean cosine of 0.38, above the threshold; of each one's tracks 0.85."""
    alike = look(0, 0.45)
    first = [{"embedding": 0.92 * PEOPLE[0] + 0.39 * aside} for aside in PEOPLE[2:10]]
    second = [{"embedding": 0.92 * alike + 0.39 * aside} for aside in PEOPLE[10:18]]
    assert cluster(*first, *second)[0] == [0] * 8 + [1] * 8
    assert cluster(*first, *second, config=IdentitiesConfig(relative_similarity=0.0))[0] == [0] * 16


def test_a_look_between_two_people_does_not_chain_them():
    bridge = (PEOPLE[0] + PEOPLE[1]) / np.sqrt(2)  # cosine 0.71 to both
    rows = [{"embedding": noisy(p, i, 0.01)} for i, p in enumerate([0, 0, 0, 1, 1, 1])]
    labels, identities = cluster(*rows, {"embedding": bridge})
    assert labels[0] == labels[1] == labels[2] != labels[3] == labels[4] == labels[5]
    assert identities.num_rows == 2


def test_an_unknown_length_of_the_embedding_has_no_effect():
    labels, _ = cluster({"embedding": 30 * PEOPLE[0]}, {"embedding": 0.1 * noisy(0, 1)})
    assert labels == [0, 0]


# -- who is not --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "same"),
    [((0, 9), False), ((9, 20), False), ((3, 4), False), ((10, 20), True)],
    ids=["same_time", "one_common_frame", "inside", "after"],
)
def test_tracks_that_overlap_in_time_are_never_one_identity(span, same):
    first, last = span
    labels, _ = cluster(
        {"clip_id": "c", "embedding": PEOPLE[0]},
        {"clip_id": "c", "first_frame": first, "last_frame": last, "embedding": PEOPLE[0]},
    )
    assert (labels == [0, 0]) is same


def test_overlap_holds_through_third_tracks():
    labels, _ = cluster(
        {"clip_id": "c", "embedding": PEOPLE[0]},
        {"clip_id": "c", "embedding": look(0, 0.8)},
        {"embedding": look(0, 0.99)},
        {"embedding": look(0, 0.85)},
    )
    assert labels[0] != labels[1]


# -- who has none ------------------------------------------------------------------------------------------------------

WEAK = {"few_faces": {"faces": DEFAULT.min_frames - 1}, "low_score": {"mean_score": DEFAULT.min_score - 0.1}}


@pytest.mark.parametrize("weak", WEAK.values(), ids=WEAK)
def test_weak_tracks_found_no_identity(weak):
    labels, identities = cluster({"embedding": PEOPLE[0], **weak}, {"embedding": PEOPLE[0], **weak})
    assert labels == [None, None]
    assert identities.num_rows == 0
    assert identities.schema.equals(IDENTITIES, check_metadata=True)


@pytest.mark.parametrize("weak", WEAK.values(), ids=WEAK)
def test_weak_tracks_join_a_founded_identity_but_do_not_bridge_two(weak):
    near, far = look(0, 0.9, other=1), look(1, 0.5, other=2)
    middle = look(0, 0.75, other=1)
    assert cluster({"embedding": near}, {"embedding": far}, {"embedding": middle})[0] == [0, 1, 0]
    labels, identities = cluster({"embedding": near}, {"embedding": far}, {"embedding": middle, **weak})
    assert labels == [0, 1, 0]
    lone = cluster({"embedding": near}, {"embedding": far})[1]
    assert sorted(identities["embedding"].to_pylist()) == sorted(lone["embedding"].to_pylist())


def test_weak_tracks_that_overlap_do_not_join_the_same_identity():
    weak = {"clip_id": "c", "faces": 1}
    labels, _ = cluster({"embedding": PEOPLE[0]}, {"embedding": look(0, 0.8), **weak}, {"embedding": PEOPLE[0], **weak})
    assert labels == [0, None, 0]


def test_a_null_score_is_no_low_score():
    assert cluster({"embedding": PEOPLE[0], "mean_score": None})[0] == [0]


@pytest.mark.parametrize("embedding", [None, np.full(512, np.nan), np.zeros(512)], ids=["null", "nan", "zero"])
def test_a_track_without_embedding_has_no_identity(embedding):
    assert cluster({"embedding": embedding}, {"embedding": PEOPLE[0]})[0] == [None, 0]


def test_no_tracks_give_no_identities():
    who = cluster_tracks(TRACKS.empty_table(), T, DEFAULT)
    ids, identities = who.identity_of_track, who.identities
    assert who.ambiguous_pairs.num_rows == 0
    assert (len(ids), ids.type, identities.num_rows) == (0, pa.string(), 0)
    assert identities.schema.equals(IDENTITIES, check_metadata=True)


# -- what an identity says ---------------------------------------------------------------------------------------------


def test_an_identity_describes_its_members():
    _, identities = cluster(
        {"embedding": look(0, 0.8), "faces": 30, "clip_id": "c", "first_frame": 20, "last_frame": 40},
        {"embedding": PEOPLE[0], "quality": 0.9, "clip_id": "c", "representative_frame": 7, "representative_face": 2},
        {"embedding": PEOPLE[0], "quality": 0.4},
    )
    (row,) = identities.to_pylist()
    assert (row["tracks"], row["clips"], row["faces"]) == (3, 2, 50)
    assert row["members"] == [f"{n:016x}" for n in range(3)]
    assert (row["representative_clip_id"], row["representative_frame"], row["representative_face"]) == ("c", 7, 2)
    assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)
    assert 0.8 < row["cohesion"] < 1


def test_the_cohesion_of_a_single_track_is_one():
    assert cluster({"embedding": PEOPLE[0]})[1]["cohesion"].to_pylist() == [pytest.approx(1, abs=1e-6)]


def test_an_identity_keeps_its_id_when_embeddings_change_a_little():
    before = cluster(*[{"embedding": noisy(0, seed)} for seed in range(4)])[1]
    after = cluster(*[{"embedding": noisy(0, 100 + seed), "quality": 0.2 + 0.1 * seed} for seed in range(4)])[1]
    assert before["identity_id"].to_pylist() == after["identity_id"].to_pylist()
    assert len(before["identity_id"][0].as_py()) == 16


# -- whatever the corpus -----------------------------------------------------------------------------------------------


corpora = st.lists(
    st.fixed_dictionaries(
        {
            "person": st.integers(0, 3),
            "seed": st.integers(0, 5),  # few: equal embeddings, and so ties, are common
            "clip_id": st.sampled_from(["a", "b", "c"]),
            "first_frame": st.integers(0, 20),
            "length": st.integers(0, 10),
            "faces": st.sampled_from([2, 10]),
            "quality": st.sampled_from([0.2, 0.9]),
            "missing": st.booleans(),
        }
    ),
    max_size=14,
)


@settings(max_examples=60, deadline=None)
@given(corpora, st.randoms(use_true_random=False))
def test_identities_partition_the_tracks_in_whatever_order(corpus, random):
    rows = []
    for row in corpus:
        row = dict(row)
        vector = noisy(row.pop("person"), row.pop("seed"), 0.05)
        row["embedding"] = None if row.pop("missing") and row["quality"] < 0.5 else vector
        row["last_frame"] = row["first_frame"] + row.pop("length")
        rows.append(row)
    tracks = make_tracks(*rows)
    who = cluster_tracks(tracks, T, DEFAULT)
    ids, identities = who.identity_of_track, who.identities
    by_track = dict(zip(tracks["track_id"].to_pylist(), ids.to_pylist(), strict=True))
    listed = {member: row["identity_id"] for row in identities.to_pylist() for member in row["members"]}
    assert listed == {track: identity for track, identity in by_track.items() if identity is not None}
    assert sum(identities["tracks"].to_pylist()) == len(listed)
    for track, identity in zip(tracks.to_pylist(), ids.to_pylist(), strict=True):
        strong = track["embedding"] is not None and track["faces"] >= DEFAULT.min_frames
        assert not strong or identity is not None
        for other, other_identity in zip(tracks.to_pylist(), ids.to_pylist(), strict=True):
            if identity is not None and identity == other_identity and track["track_id"] < other["track_id"]:
                apart = track["last_frame"] < other["first_frame"] or other["last_frame"] < track["first_frame"]
                assert track["clip_id"] != other["clip_id"] or apart
    order = np.array(random.sample(range(len(rows)), len(rows)), np.int64)
    shuffled = cluster_tracks(tracks.take(order), T, DEFAULT)
    assert shuffled.identity_of_track.equals(ids.take(pa.array(order)))
    assert shuffled.identities.equals(identities)
    assert shuffled.ambiguous_pairs.equals(who.ambiguous_pairs)
