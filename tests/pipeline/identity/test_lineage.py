"""Ids last: who keeps one, who gets a new one, and what is said about it."""

from pipeline.identity.assign import carry_ids, new_identity_id
from pipeline.identity.lineage import resolve_id, write_lineage


def carry(members, before, retired=()):
    return carry_ids(members, {name: tracks[0] for name, tracks in members.items()}, before, set(retired))


def events(now, before, cause="clustering"):
    rows = write_lineage(now, before, "v2", cause).to_pylist()
    return [(row["event"], row["from_id"], row["to_id"], row["tracks"]) for row in rows]


def test_a_cluster_keeps_the_id_of_the_tracks_it_has():
    before = {"t1": "A", "t2": "A", "t3": "B"}
    assert carry({0: ["t1", "t2", "t9"], 1: ["t3"]}, before) == {0: "A", 1: "B"}


def test_of_two_that_merge_the_larger_keeps_its_id():
    before = {"t1": "A", "t2": "B", "t3": "B"}
    assert carry({0: ["t1", "t2", "t3"]}, before) == {0: "B"}
    assert events(dict.fromkeys(before, "B"), before) == [("merge", "A", "B", 1)]


def test_the_larger_part_of_a_split_keeps_the_id_and_the_other_gets_a_new_one():
    founder_id = new_identity_id("t1", set())
    before = dict.fromkeys(["t1", "t2", "t3"], founder_id)
    ids = carry({0: ["t1"], 1: ["t2", "t3"]}, before)
    assert ids[1] == founder_id
    assert ids[0] not in {founder_id, None}  # though its seed is the one that gave the id its name
    now = {"t1": ids[0], "t2": ids[1], "t3": ids[1]}
    assert events(now, before) == [("split", founder_id, ids[0], 1)]


def test_tracks_that_end_in_no_identity_retire_it():
    assert events({"t1": None}, {"t1": "A"}) == [("retire", "A", None, 1)]


def test_what_stays_leaves_no_row():
    assert events({"t1": "A", "t2": None}, {"t1": "A", "gone": "A"}) == []


def test_a_merged_id_is_followed_to_the_living_one():
    older = write_lineage({"t1": "B"}, {"t1": "A"}, "v2", "clustering")
    assert resolve_id("A", older, {"B"}) == "B"


def test_retired_ids_are_not_used_again():
    assert carry({0: ["t1"]}, {}, [new_identity_id("t1", set())])[0] != new_identity_id("t1", set())
