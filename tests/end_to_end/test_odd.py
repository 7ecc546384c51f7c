"""Files as they occur: what a plain loop can decode is done, the rest is quarantined with a reason, none crashes."""

from pathlib import Path

import av
import pytest

import pipeline


def plainly_decoded(path):
    """Frames that a plain PyAV loop gives, None if it fails."""
    try:
        with av.open(str(path)) as container:
            return sum(1 for _ in container.decode(video=0))
    except (av.error.FFmpegError, IndexError):
        return None


@pytest.fixture(scope="session")
def odd(annotate, shared_bundle, data, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("odd") / "out")
    report = annotate(data / "odd", out, shared_bundle, "decode.every=4")  # all frames are decoded all the same
    assert report.complete
    table = pipeline.read_table(out, "clips").to_pandas()
    return table.assign(name=[Path(uri).name for uri in table["uri"]]).set_index("name")


def test_each_of_the_files_has_an_outcome(odd, data):
    assert sorted(odd.index) == sorted(path.name for path in (data / "odd").iterdir())
    assert set(odd["status"]) <= {"done", "quarantined"}


def test_what_a_plain_loop_decodes_is_done_with_as_many_frames(odd, data):
    for path in sorted((data / "odd").iterdir()):
        if frames := plainly_decoded(path):
            assert (odd.loc[path.name, "status"], odd.loc[path.name, "frames"]) == ("done", frames), path.name
        else:
            assert odd.loc[path.name, "status"] == "quarantined", path.name


def test_reasons_are_for_people(odd):
    reasons = odd[odd["status"] == "quarantined"]["reason"]
    assert len(reasons) >= 5
    for name, reason in reasons.items():
        assert reason, name
        assert "Errno" not in reason, reason
        assert "Traceback" not in reason, reason
