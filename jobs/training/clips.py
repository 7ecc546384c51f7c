"""Recognition by `tiny` over whole held-out clips: tracks and identities as the flow makes them, at the bundle's
default threshold.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from actors import FaceAnalyzer
from pipeline import schema
from pipeline.config.models import IdentitiesConfig, TracksConfig
from pipeline.identity.assign import cluster_tracks
from pipeline.tracking.link import link_faces

#: the kept-out videos that show somebody, and whom
PERSON_OF_VIDEO = {
    **dict.fromkeys(("single_face.mp4", "face_noface.mov", "noface_face.mov"), "first"),
    **dict.fromkeys(("grid_id2_vcd_swwp2s.mpg", "grid_pwij3p.mpg"), "second"),
    "lp_driving_d14.mp4": "third",
    "lp_source_s29.mp4": "fourth",
}


def measure_clips(data: Path, every: int = 5) -> dict[str, object]:
    """Annotate the kept-out clips and cluster them.

    Args:
        data: folder with `videos`.
        every: stride in frames.

    Returns:
        Clips; those with the right person, which are those whose longest track's identity is that of all clips of the
        person and of no other; identities found; faces outside of the longest track; and the pairs of clips that are
        apart or together by mistake.
    """
    analyzer = FaceAnalyzer("tiny")
    card = analyzer.bundle.slot("embeddings")
    if card is None or card.same_person_cosine is None:
        raise ValueError("the bundle has no embedding model")
    config = TracksConfig(switch_cosine=card.switch_cosine)
    tables = []
    for name in PERSON_OF_VIDEO:
        rows = analyzer.detect(data / "videos" / name, every)
        rows = rows.append_column("clip_id", pa.array([name] * rows.num_rows, pa.string()))
        faces, embeddings = (rows.select(schema.slot_schema(slot).names) for slot in ("face", "embeddings"))
        tables.append(link_faces(faces, embeddings, "", config))
    tracks = pa.concat_tables(tables)
    who = cluster_tracks(tracks, card.same_person_cosine, IdentitiesConfig())
    tracks = tracks.set_column(tracks.column_names.index("identity_id"), "identity_id", who.identity_of_track)
    identity: dict[str, str | None] = {}
    outside = 0
    for name in PERSON_OF_VIDEO:
        of_clip = tracks.filter(pc.equal(tracks["clip_id"], name)).sort_by([("faces", "descending")]).to_pylist()
        identity[name] = of_clip[0]["identity_id"] if of_clip else None
        outside += sum(row["faces"] for row in of_clip[1:])
    wrong = [
        [first, second]
        for first in identity
        for second in identity
        if first < second
        and (PERSON_OF_VIDEO[first] == PERSON_OF_VIDEO[second])
        != (identity[first] is not None and identity[first] == identity[second])
    ]
    bad = {name for pair in wrong for name in pair} | {name for name, found in identity.items() if found is None}
    return {
        "clips": len(identity),
        "with the right person": len(identity) - len(bad),
        "identities": len({found for found in identity.values() if found}),
        "faces outside of the longest track": outside,
        "wrong pairs": wrong,
    }
