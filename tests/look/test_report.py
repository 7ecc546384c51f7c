"""What the report gathers, and that its page stands alone; tests/look/test_page.py looks at it in a browser."""

import base64
import json
import re
import time

import pytest
import squares
from typer.testing import CliRunner

from jobs.cli import app
from jobs.commands.report import to_page, write_report
from pipeline.errors import ConfigError
from pipeline.report.gather import ReportLimits, gather_report
from pipeline.storage.output import open_output
from pipeline.tables import parquet


@pytest.fixture(scope="module")
def gathered(out):
    return gather_report(out, ["both"])


def in_page(page):
    """The data that a page carries."""
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)[1])


def test_the_totals_are_those_of_the_tables(gathered):
    totals = gathered["totals"]
    assert totals["clips"] == {"done": 3, "empty": 0, "quarantined": 1}
    assert (totals["frames"], totals["faces"], totals["tracks"], totals["identities"]) == (72, 72, 3, 2)
    assert totals["hours"] == pytest.approx(3 / 3600, rel=0.05)
    assert gathered["runs"][0]["frames_per_s"] == 8.0


def test_each_person_has_the_face_counts_and_the_first_and_last_appearance(gathered):
    people = [dict(zip(gathered["people"]["columns"], row, strict=True)) for row in gathered["people"]["rows"]]
    red, green = people
    assert (red["name"], red["faces"], red["clips"], red["tracks"]) == ("person 1", 48, 2, 2)
    assert (green["name"], green["faces"]) == ("<i>Green</i>", 24)
    assert (red["first_clip"], red["first_time"], red["last_clip"], red["last_time"]) == ("both", 0, "red", 0.96)


def test_the_pictures_are_the_faces_of_the_people(gathered):
    for identity, colour in squares.PEOPLE.items():
        data = base64.b64decode(gathered["people"]["faces"][identity].partition(",")[2])
        assert squares.near(squares.mean_colour(data), colour)


def test_a_clip_shows_who_is_on_screen_and_each_series(gathered):
    (clip,) = gathered["clips"]
    assert [person["name"] for person in clip["people"]] == ["person 1", "<i>Green</i>"]
    assert list(clip["people"][0]["series"]) == ["emotions", "action units", "pose", "gaze"]
    assert clip["people"][0]["series"]["action units"]["AU12"] == [round(i / 24, 3) for i in range(24)]
    assert [frame for frame, _ in clip["thumbs"]] == list(range(24))


def test_distributions_count_every_face_and_every_frame(gathered):
    counts = {row["name"]: row for row in gathered["distributions"]}
    assert sum(counts["face size"]["counts"]) == 72
    sizes = dict(zip(counts["face size"]["edges"], counts["face size"]["counts"], strict=False))
    assert sizes[32.0] == 72
    assert counts["faces per frame"]["counts"][:3] == [24, 24, 24]  # nobody, red, both
    assert counts["pose yaw"]["mean"] == pytest.approx(5.73, abs=0.01)


def test_without_faces_no_picture_is_in_the_page(out, tmp_path):
    page = tmp_path / "report.html"
    write_report(out, str(page), with_faces=False)
    text = page.read_text()
    assert "data:image" not in text
    assert in_page(text)["people"]["rows"]


def test_the_page_stands_alone_and_names_of_the_corpus_stay_text(gathered):
    page = to_page(gathered)
    assert not re.findall(r"""(?:src|href)=["'](?!#|data:)""", page)
    assert "default-src 'none'" in page
    assert page.count("</script>") == 2  # the key of the broken clip holds one, too
    assert in_page(page)["quarantine"]["rows"][0][0] == "</script>broken"


def test_a_video_that_is_gone_leaves_a_blank_and_a_reason(tmp_path):
    out = squares.write_output(tmp_path)
    (tmp_path / "videos" / "both.mp4").unlink()
    gathered = gather_report(out, ["both"])
    assert list(gathered["people"]["faces"]) == ["a" * 16]
    assert any("both.mp4" in reason for reason in gathered["picture_problems"])
    assert "both.mp4" in gathered["clips"][0]["problem"]


def test_a_report_of_ten_thousand_people_is_small_and_quick(tmp_path):
    out = squares.write_output(tmp_path)
    output = open_output(out)
    clip = parquet.read_table(out, "clips").to_pylist()[0]["clip_id"]
    tracks, people = [], []
    for i in range(10_000):
        face = {"representative_frame": i % 24, "representative_face": 0}
        identity = {"identity_id": f"{i:016x}", "faces": 10 + i % 7}
        span = {"first_frame": 0, "last_frame": 9, "first_time": 0.0, "last_time": 0.4}
        lists = {"frames": [0], "members": [i]}
        tracks.append({"track_id": f"{i:016x}", "clip_id": clip, "shard": "s0", **identity, **span, **face, **lists})
        people.append({**identity, "tracks": 1, "clips": 1, "representative_clip_id": clip, **face, "cohesion": 0.5})
    squares.write_snapshot(output, tracks, people, [])
    begun = time.process_time()
    size = write_report(out, str(tmp_path / "report.html"), limits=ReportLimits(pictures=60))
    assert size < 4e6
    assert time.process_time() - begun < 10
    assert len(in_page((tmp_path / "report.html").read_text())["people"]["rows"]) == 10_000


def test_the_command_writes_the_page_and_names_a_clip_that_is_not_there(out, tmp_path):
    page = tmp_path / "new folder" / "report.html"
    done = CliRunner().invoke(app, ["report", out, "-o", str(page), "--clip", "red"])
    assert done.exit_code == 0, done.output
    assert [clip["key"] for clip in in_page(page.read_text())["clips"]] == ["red"]
    with pytest.raises(ConfigError, match="absent"):
        gather_report(out, ["absent"])
    with pytest.raises(ConfigError, match="quarantined"):
        gather_report(out, ["</script>broken"])
