"""The video of the bench of time ranges."""

import av

from jobs.bench.ranges import make_video

_B_PICTURE = 3


def test_the_video_has_b_frames_throughout(tmp_path):
    with av.open(str(make_video(tmp_path / "video.mp4", 64, 64, 1, {"preset": "veryfast"}))) as container:
        kinds = [int(frame.pict_type) for frame in container.decode(video=0)]
    assert len(kinds) == 60 * 25
    for begin in range(0, len(kinds), 250):
        assert kinds[begin : begin + 250].count(_B_PICTURE) > 100
