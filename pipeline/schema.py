"""Arrow schemas of all tables and of the rows that travel between the stages.

Conventions, the same everywhere and repeated in each column's metadata (`unit`, `about`):
pixels of the original frame as displayed (rotation applied), x to the right, y down, pixel edges at integers;
angles in radians: pose_pitch + up, pose_yaw + to the subject's right, pose_roll + tilt to the subject's right;
gaze_pitch + up, gaze_yaw + to the subject's left (the reference's signs); scores and probabilities 0 to 1;
`frame` counts the decoded frames of the video from 0, `time` is that frame's presentation time in seconds, from 0 at
the video's first frame on (`decode.clock`).
"""

import pyarrow as pa

AU_NUMBERS = (1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15, 17, 20, 23, 24, 25, 26, 28, 43)
EMOTIONS = ("anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral")
#: YUV matrix -> weights of red and blue in luma: ITU-R BT.601, BT.709, BT.2020 (non-constant luminance)
LUMA_WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}
SLOTS = ("face", "landmarks", "pose", "action_units", "emotions", "embeddings", "gaze")


def field(name: str, kind: pa.DataType, about: str, unit: str = "", nullable: bool = True) -> pa.Field:
    """An Arrow field whose metadata holds its meaning and its unit."""
    metadata = {"about": about, "unit": unit} if unit else {"about": about}
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


# -- rows that travel -------------------------------------------------------------------------------------------------

CLIP = pa.schema(
    [
        field("clip_id", pa.string(), "16 hex digits of BLAKE2b over (uri, member, start, end)", nullable=False),
        field(
            "uri", pa.string(), "the video file, or the tar shard that contains it; always a full URI", nullable=False
        ),
        field("member", pa.string(), "name inside the tar shard; null for a plain file"),
        field("offset", pa.int64(), "offset of the member's bytes in the tar", "bytes"),
        field("size", pa.int64(), "length of the video file", "bytes"),
        field(
            "start_s", pa.float64(), "start of the clip on the clock of `time`, inclusive; null: the video's start", "s"
        ),
        field("end_s", pa.float64(), "end of the clip on the clock of `time`, exclusive; null: the video's end", "s"),
        field("shard", pa.string(), "partition of the corpus, safe as a folder name", nullable=False),
        field("key", pa.string(), "name of the clip: manifest key, CelebV id, or path without suffix"),
        field("fingerprint", pa.string(), "size and ETag or mtime of the input; changed bytes make the clip stale"),
        field(
            "bbox",
            pa.list_(pa.float32(), 4),
            "left, top, right, bottom of the person, as given by the corpus; a box in pixels becomes fractions of the "
            "frame with the clip's outcome",
            "fraction",
        ),
        field("start_frame", pa.int64(), "first frame of a clip that is given by frames, inclusive; null: by time"),
        field("end_frame", pa.int64(), "end of a clip that is given by frames, exclusive; null: by time, or the end"),
        field("problem", pa.string(), "what is wrong with its entry in the list; the clip is quarantined as bad_range"),
    ]
)

ERROR = pa.struct(
    [
        ("stage", pa.string()),
        ("error_class", pa.string()),
        ("message", pa.string()),
        ("attempts", pa.int32()),  # null: one attempt
    ]
)

VIDEO = pa.struct(
    [
        ("frames", pa.int64()),  # decoded frames inside the clip's time range
        ("sampled", pa.int64()),  # frames of them that are annotated
        ("fps", pa.float64()),  # average rate that the container states; null if it states none
        ("width", pa.int32()),  # as displayed, of the first frame
        ("height", pa.int32()),
        ("codec", pa.string()),
        ("pixel_format", pa.string()),
        ("rotation", pa.int32()),  # degrees that were applied
        ("start_time", pa.float64()),  # presentation time of the clip's first and last decoded frame, seconds
        ("end_time", pa.float64()),
        ("time_jumps", pa.int64()),  # places inside the clip where its clock was continued by the frame rate
        ("length", pa.float64()),  # of the whole video in seconds; null where its end was not seen
    ]
)

CHUNK = pa.schema(
    [
        field("clip_id", pa.string(), "the clip", nullable=False),
        field("shard", pa.string(), "the clip's shard", nullable=False),
        field(
            "first", pa.int64(), "ordinal of the first sampled frame within the clip's sampled frames", nullable=False
        ),
        field("count", pa.int64(), "sampled frames that the chunk spans", nullable=False),
        field("frames", pa.list_(pa.int64()), "index in the video of each frame to annotate", nullable=False),
        field("times", pa.list_(pa.float64()), "presentation time of each; null where the stream gives none", "s"),
        field("width", pa.int32(), "displayed width of every frame of the chunk", "px"),
        field("height", pa.int32(), "displayed height of every frame of the chunk", "px"),
        field("matrix", pa.string(), "YUV matrix: bt601, bt709 or bt2020"),
        field("full_range", pa.bool_(), "luma 0-255 (else 16-235)"),
        field(
            "planes", pa.large_binary(), "per frame Y (h x w), then U and V (ceil(h/2) x ceil(w/2)), uint8, end to end"
        ),
        field("last", pa.bool_(), "the clip ends with this row", nullable=False),
        field("video", VIDEO, "on the last row only"),
        field("error", ERROR, "error that ends the clip here; such a row is the clip's last and may hold no frames"),
    ]
)

#: a chunk on its way through the actor pools: the faces of its frames, and flat results per slot (null: not computed)
FLOW = pa.schema(
    [
        *CHUNK,
        field("fingerprint", pa.string(), "of the clip's bytes"),
        field("slots", pa.list_(pa.string()), "slots to compute for this chunk"),
        field(
            "ready", pa.float64(), "time at which it left the previous stage, on that machine's clock; for metrics", "s"
        ),
        field("face_index", pa.large_list(pa.int32()), "frame of each face, as position within the chunk"),
        field("face_number", pa.large_list(pa.int32()), "`face` of each stored face; null: detected in this run"),
        field("face", pa.large_list(pa.float32()), "per face x1 y1 x2 y2, score, five points, sharpness: 16 numbers"),
        *(field(slot, pa.large_list(pa.float32()), "per face, the slot's numbers") for slot in SLOTS[1:]),
    ]
)

# -- tables -----------------------------------------------------------------------------------------------------------

_KEY = [
    field("clip_id", pa.string(), "the clip", nullable=False),
    field("frame", pa.int64(), "index of the frame in the video, from 0", nullable=False),
    field("face", pa.int32(), "face within the frame, from 0 by descending score", nullable=False),
]

_ANGLE = "rad"

SLOT_COLUMNS: dict[str, list[pa.Field]] = {
    "face": [
        field("time", pa.float64(), "presentation time of the frame; null where the stream gives none", "s"),
        field("box_x1", pa.float32(), "left edge of the detector's box, not clipped to the frame", "px"),
        field("box_y1", pa.float32(), "top edge", "px"),
        field("box_x2", pa.float32(), "right edge", "px"),
        field("box_y2", pa.float32(), "bottom edge", "px"),
        field("score", pa.float32(), "the detector's confidence; null if the model has none"),
        field(
            "points5",
            pa.list_(pa.float32(), 10),
            "eyes, nose, mouth corners as x, y pairs; null if the model has none",
            "px",
        ),
        field(
            "sharpness",
            pa.float32(),
            "variance of the Laplacian of the face's 112-pixel crop, gray levels 0-255; low values are blurred",
        ),
    ],
    "landmarks": [field("landmarks", pa.list_(pa.float32(), 136), "68 points in dlib order, x0 y0 x1 y1 ...", "px")],
    "pose": [
        field("pose_pitch", pa.float32(), "+ up", _ANGLE),
        field("pose_roll", pa.float32(), "+ tilt to the subject's right", _ANGLE),
        field("pose_yaw", pa.float32(), "+ to the subject's right", _ANGLE),
        field("pose_x", pa.float32(), "the model's camera units; carries no position with pose_mlp"),
        field("pose_y", pa.float32(), "as pose_x"),
        field("pose_z", pa.float32(), "as pose_x"),
    ],
    "action_units": [
        field(f"AU{n:02d}", pa.float32(), f"probability of FACS action unit {n} (svm: its 0/1 label)")
        for n in AU_NUMBERS
    ],
    "emotions": [field(name, pa.float32(), f"probability of {name} (svm: its 0/1 label)") for name in EMOTIONS],
    "embeddings": [
        field("embedding", pa.list_(pa.float32(), 512), "identity vector as output by the model, not normalized")
    ],
    "gaze": [
        field("gaze_pitch", pa.float32(), "+ up", _ANGLE),
        field("gaze_yaw", pa.float32(), "+ to the subject's left", _ANGLE),
        field("gaze_angle", pa.float32(), "angle to the camera axis", _ANGLE),
    ],
}

#: slot of the bundle -> table it fills
TABLE_OF_SLOT = {slot: "faces" if slot == "face" else slot for slot in SLOTS}


def slot_schema(slot: str, embedding_dtype: str = "float32") -> pa.Schema:
    """Schema of the table that a slot fills: the face's key, then the model's columns."""
    columns = SLOT_COLUMNS[slot]
    if slot == "embeddings" and embedding_dtype == "float16":
        columns = [columns[0].with_type(pa.list_(pa.float16(), 512))]
    return pa.schema([*_KEY, *columns], metadata={"faceatlas.slot": slot})


CLIPS = pa.schema(
    [
        *CLIP,
        field("status", pa.string(), "done, empty (no frame in the wanted range) or quarantined", nullable=False),
        field("reason", pa.string(), "message for a quarantined or empty clip; null when done"),
        field(
            "error_class",
            pa.string(),
            "class of the error, a stable word; null unless quarantined; `unexpected` is retried",
        ),
        field("frames", pa.int64(), "decoded frames inside the clip's time range"),
        field("sampled", pa.int64(), "annotated frames"),
        field("faces", pa.int64(), "faces in the annotated frames"),
        field("fps", pa.float64(), "average frame rate that the container states", "1/s"),
        field("width", pa.int32(), "as displayed", "px"),
        field("height", pa.int32(), "as displayed", "px"),
        field("codec", pa.string(), "FFmpeg's name of the codec"),
        field("pixel_format", pa.string(), "FFmpeg's name of the pixel format"),
        field("rotation", pa.int32(), "rotation of the display matrix, already applied", "degrees"),
        field("start_time", pa.float64(), "presentation time of the first decoded frame of the clip", "s"),
        field("end_time", pa.float64(), "presentation time of the last decoded frame of the clip", "s"),
        field(
            "time_jumps",
            pa.int64(),
            "places inside the clip where the stream's clock jumps or starts again; `time` goes on by the frame rate",
        ),
        field("length", pa.float64(), "of the whole video; null: its end was not seen", "s"),
    ]
)

QUARANTINE = pa.schema(
    [
        field("clip_id", pa.string(), "the clip", nullable=False),
        field("uri", pa.string(), "the video file or tar shard"),
        field("member", pa.string(), "name inside the tar shard"),
        field("shard", pa.string(), "the clip's shard", nullable=False),
        field("fingerprint", pa.string(), "fingerprint of the bytes that failed; changed bytes are retried"),
        field("stage", pa.string(), "open, decode, annotate or plan"),
        field("error_class", pa.string(), "class of the error, a stable word"),
        field("message", pa.string(), "error message"),
        field("attempts", pa.int32(), "number of attempts"),
    ]
)

TRACKS = pa.schema(
    [
        field("track_id", pa.string(), "16 hex digits from the clip and the track's first face", nullable=False),
        field("clip_id", pa.string(), "the clip", nullable=False),
        field("shard", pa.string(), "the clip's shard", nullable=False),
        field("identity_id", pa.string(), "the person; null: not clustered"),
        field("first_frame", pa.int64(), "frame of the first face", nullable=False),
        field("last_frame", pa.int64(), "frame of the last face", nullable=False),
        field("first_time", pa.float64(), "presentation time of the first face", "s"),
        field("last_time", pa.float64(), "presentation time of the last face", "s"),
        field("faces", pa.int64(), "faces in the track", nullable=False),
        field("mean_score", pa.float32(), "mean detector score; null if the model has none"),
        field("mean_size", pa.float32(), "mean of the square root of the box area", "px"),
        field("quality", pa.float32(), "weight of the track in clustering, 0 to 1"),
        field(
            "embedding", pa.list_(pa.float32(), 512), "quality-weighted mean of the faces' unit embeddings, unit length"
        ),
        field("frames", pa.list_(pa.int64()), "frame of each face"),
        field("members", pa.list_(pa.int32()), "`face` of each face, parallel to frames"),
        field("subject", pa.bool_(), "it is the person in the clip's `bbox`; null: the corpus gives no box"),
        field("representative_frame", pa.int64(), "frame of the best face of the track"),
        field("representative_face", pa.int32(), "its `face` number"),
    ]
)

IDENTITIES = pa.schema(
    [
        field("identity_id", pa.string(), "16 hex digits, from the member that seeded it", nullable=False),
        field("tracks", pa.int64(), "member tracks", nullable=False),
        field("clips", pa.int64(), "clips with member tracks", nullable=False),
        field("faces", pa.int64(), "faces of all member tracks", nullable=False),
        field("cohesion", pa.float32(), "mean cosine of member tracks to the identity's center; 1 for a single track"),
        field("next_identity_id", pa.string(), "the closest other identity among the candidates; null: none"),
        field("next_cosine", pa.float32(), "cosine of its center to this one's; null: none"),
        field(
            "margin",
            pa.float32(),
            "cohesion minus next_cosine: small or negative means uncertain; null: no other identity",
        ),
        field("name", pa.string(), "name set by `faceatlas identities name`; null: none"),
        field("embedding", pa.list_(pa.float32(), 512), "center: weighted mean of the tracks' embeddings, unit length"),
        field("members", pa.list_(pa.string()), "track ids"),
        field("representative_clip_id", pa.string(), "clip of the best face of the person"),
        field("representative_frame", pa.int64(), "its frame"),
        field("representative_face", pa.int32(), "its `face` number"),
    ]
)


#: tables of the whole corpus, one file and no shards
WHOLE_TABLES = ("identities", "ambiguous_pairs", "lineage")

AMBIGUOUS_PAIRS = pa.schema(
    [
        field("identity_a", pa.string(), "the smaller id of the two", nullable=False),
        field("identity_b", pa.string(), "the other", nullable=False),
        field("score", pa.float32(), "size-adjusted mean cosine, as the linkage sees it", nullable=False),
        field("threshold", pa.float32(), "score at which the two would merge", nullable=False),
        field("seen_together", pa.int64(), "pairs of their tracks that co-occur in a frame", nullable=False),
        field(
            "reason", pa.string(), "close: just below the threshold; blocked: above it, but kept apart", nullable=False
        ),
        field("tracks_a", pa.int64(), "tracks of the first", nullable=False),
        field("tracks_b", pa.int64(), "tracks of the second", nullable=False),
    ]
)

LINEAGE = pa.schema(
    [
        field("snapshot", pa.string(), "version of tracks and identities with this change", nullable=False),
        field("event", pa.string(), "merge, split or retire", nullable=False),
        field("from_id", pa.string(), "identity of the previous snapshot", nullable=False),
        field("to_id", pa.string(), "identity that took over its tracks; null: retired, no identity has them"),
        field("tracks", pa.int64(), "tracks that moved", nullable=False),
        field("cause", pa.string(), "clustering, decision or model", nullable=False),
    ]
)


def table_schema(name: str) -> pa.Schema:
    """Schema of a table by its name.

    Raises:
        KeyError: no such table; the message lists the names.
    """
    fixed = {"clips": CLIPS, "quarantine": QUARANTINE, "tracks": TRACKS, "identities": IDENTITIES}
    fixed |= {"ambiguous_pairs": AMBIGUOUS_PAIRS, "lineage": LINEAGE}
    if name in fixed:
        return fixed[name]
    for slot, table in TABLE_OF_SLOT.items():
        if table == name:
            return slot_schema(slot)
    raise KeyError(f"no table {name!r}; there are {', '.join([*TABLE_OF_SLOT.values(), *fixed])}")
