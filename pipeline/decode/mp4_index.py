"""The packets of an MP4 or MOV from its tables alone: nothing of the pictures is read.

    moov of the file    composition offsets, sizes, edits of the track          struct
    FFmpeg's index      place, size, decode time and key flag of each sample    stream.index_entries
    its first packet    the constant between the two clocks
        |  what is not plain is refused: the packets are read then              NotIndexedError
        v
    Packets, as pipeline/decode/index.py reads them

The presentation time of a packet is its decode time in FFmpeg's index, plus its composition offset, plus one constant.
FFmpeg has applied the edit list to its index; that leaves all samples in their order only where the list has one edit,
so others are refused. S samples in file order.
"""

import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline.decode.index import NotIndexedError, Packets, is_packed_b_frames
from pipeline.decode.open import SharedFile, Video, View

#: of which each sample is one frame that is shown; True: each is a keyframe, whether or not the tables say so
_CODECS = {"h264": False, "hevc": False, "av1": False, "vp9": False, "mpeg4": False, "mjpeg": True, "prores": True}
_TOP_BOXES = frozenset({b"ftyp", b"free", b"skip", b"wide", b"mdat", b"moov", b"udta", b"meta", b"uuid"})
_MOST_TOP_BOXES = 64
_MOST_MOOV_BYTES = 64 << 20
_ENCRYPTED = frozenset({b"encv", b"drmi", b"resv"})
#: no codec holds back more pictures to bring them into order
_MOST_REORDERED = 16
_FULL_HEAD = 4  # version and flags
_NO_RATE_CHANGE = 1 << 16


def read_tables(shared: SharedFile, video: Video) -> Packets:
    """The packets of a video's stream, without reading any but the first.

    They are to be compared with the packets of the head when that is decoded, see `Packets.check`.

    Args:
        shared: the video's file.
        video: opened, at its begin; its first packet is read.

    Raises:
        NotIndexedError: the file is not a plain MP4 or MOV; the message says why.
        av.FFmpegError, OSError: reading fails.
    """
    stream = video.stream
    codec = stream.codec_context.codec.canonical_name
    if "mp4" not in video.container.format.name or codec not in _CODECS:
        raise NotIndexedError(f"no tables are read of {video.container.format.name} with {codec}")
    track = _track(_read_moov(shared.view(), video.length), stream.id)
    _check_edits(track)
    table = _only(track, b"mdia", b"minf", b"stbl")
    boxes = dict(_boxes(table))
    if boxes.keys() & {b"saiz", b"saio", b"senc", b"stz2"}:
        raise NotIndexedError("the samples are encrypted, or their sizes packed")
    if _u32(boxes, b"stsd", _FULL_HEAD) != 1 or bytes(boxes[b"stsd"][12:16]) in _ENCRYPTED:
        raise NotIndexedError("several descriptions of samples, or encryption")
    if b"stss" not in boxes and not _CODECS[codec]:
        raise NotIndexedError("the tables do not name the keyframes")

    entries = list(stream.index_entries)
    size_S = _sizes(boxes)
    if not len(size_S) == len(entries) == stream.frames or not len(entries):
        raise NotIndexedError("samples are left out, repeated or not in the tables")
    dts_S = np.array([entry.timestamp for entry in entries], np.int64)
    pos_S = np.array([entry.pos for entry in entries], np.int64)
    key_S = np.array([entry.is_keyframe for entry in entries], np.bool_)
    if [entry.size for entry in entries] != size_S.tolist() or any(entry.is_discard for entry in entries):
        raise NotIndexedError("samples are left out or in another order")
    if (size_S <= 0).any() or (pos_S < 0).any() or (pos_S + size_S > video.length).any():
        raise NotIndexedError("samples are empty or behind the end of the file")
    if is_packed_b_frames(codec, size_S[key_S]):
        raise NotIndexedError("packed B-frames")
    pts_S = dts_S + _offsets(boxes, len(entries))
    first = next(packet for packet in video.container.demux(stream))
    if first.pts is None or first.dts != dts_S[0]:
        raise NotIndexedError("the first packet is not that of the tables")
    pts_S += first.pts - pts_S[0]
    if (np.diff(dts_S) <= 0).any() or (pts_S < dts_S).any():
        raise NotIndexedError("decode times do not rise, or are behind the presentation")
    _check_order(pts_S, _MOST_REORDERED if stream.codec_context.has_b_frames else 0)
    return Packets(pts_P=pts_S, dts_P=dts_S, size_P=size_S, key_P=key_S, live_P=np.ones(len(entries), np.bool_))


def _check_order(pts_S: NDArray[np.int64], most: int) -> None:
    """No packet may come behind more packets of later times than a decoder can hold back."""
    behind_S = np.zeros(len(pts_S), np.int64)
    for step in range(1, most + 2):
        behind_S[step:] += pts_S[:-step] > pts_S[step:]
    far = most + 1
    if behind_S.max() > most or (np.maximum.accumulate(pts_S)[:-far] > pts_S[far:]).any():
        raise NotIndexedError("packets are further out of order than a decoder reorders")


# -- boxes ------------------------------------------------------------------------------------------------------------


def _read_moov(file: View, length: int) -> memoryview:
    """The content of the one moov of a file whose other boxes hold no more samples."""
    moov, position = None, 0
    for _ in range(_MOST_TOP_BOXES):
        if position == length:
            break
        file.seek(position)
        kind, head, size = _head(file.read(16), length - position)
        if kind not in _TOP_BOXES or (kind == b"moov" and (moov is not None or size > _MOST_MOOV_BYTES)):
            raise NotIndexedError("a box that a plain file has not")
        if kind == b"moov":
            file.seek(position + head)
            moov = memoryview(file.read(size - head))
            if len(moov) < size - head:
                raise NotIndexedError("the file ends in its tables")
        position += size
    if moov is None or position != length:
        raise NotIndexedError("the boxes do not fill the file")
    return moov


def _head(head: bytes | memoryview, room: int) -> tuple[bytes, int, int]:
    """Kind of a box, bytes of its head, and bytes of all of it, which must fit into `room`."""
    if len(head) < 8:
        raise NotIndexedError("a box is cut off")
    size, kind = struct.unpack_from(">I4s", head)
    begin = 8
    if size == 1 and len(head) >= 16:
        size, begin = struct.unpack_from(">Q", head, 8)[0], 16
    if not begin <= size <= room:
        raise NotIndexedError("a box is cut off, or goes on to the end of the file")
    return kind, begin, size


def _boxes(content: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Kind and content of each box in another."""
    position = 0
    while position < len(content):
        if len(content) - position == 4 and not any(content[position:]):  # QuickTime may end a list so
            return
        kind, head, size = _head(content[position : position + 16], len(content) - position)
        yield kind, content[position + head : position + size]
        position += size


def _only(content: memoryview, *path: bytes) -> memoryview:
    """The content of the one box at a path."""
    for kind in path:
        found = [inner for name, inner in _boxes(content) if name == kind]
        if len(found) != 1:
            raise NotIndexedError(f"{len(found)} boxes {kind!r}")
        content = found[0]
    return content


def _track(moov: memoryview, number: int) -> memoryview:
    """The track with a number."""
    boxes = list(_boxes(moov))
    if any(kind in (b"mvex", b"cmov") for kind, _ in boxes):
        raise NotIndexedError("the file is fragmented, or its tables compressed")
    found = []
    for kind, track in boxes:
        if kind == b"trak":
            head = _only(track, b"tkhd")
            at = 20 if head[0] == 1 else 12
            if len(head) < at + 4 or struct.unpack_from(">I", head, at)[0] == number:
                found.append(track)
    if len(found) != 1:
        raise NotIndexedError("several tracks with one number, or none")
    return found[0]


def _check_edits(track: memoryview) -> None:
    """At most one edit, which may come after a pause."""
    lists = [_only(box, b"elst") for kind, box in _boxes(track) if kind == b"edts"]
    if not lists:
        return
    content = lists[0]
    entry = struct.Struct(">Qqi" if content[0] == 1 else ">Iii")
    count = struct.unpack_from(">I", content, _FULL_HEAD)[0]
    if len(lists) > 1 or len(content) != 8 + count * entry.size:
        raise NotIndexedError("an edit list of another length than it states")
    edits = list(entry.iter_unpack(content[8:]))
    if edits and edits[0][1] == -1:
        edits = edits[1:]
    if len(edits) != 1 or edits[0][1] < 0 or edits[0][2] != _NO_RATE_CHANGE:
        raise NotIndexedError("several edits")


# -- tables -----------------------------------------------------------------------------------------------------------


def _u32(boxes: dict[bytes, memoryview], kind: bytes, at: int) -> int:
    if kind not in boxes or len(boxes[kind]) < at + 4:
        raise NotIndexedError(f"a table {kind!r} is missing")
    return int(struct.unpack_from(">I", boxes[kind], at)[0])


def _sizes(boxes: dict[bytes, memoryview]) -> NDArray[np.int64]:
    """(S) bytes of each sample."""
    same, count = _u32(boxes, b"stsz", 4), _u32(boxes, b"stsz", 8)
    content = boxes[b"stsz"][12:]
    if len(content) != (0 if same else 4 * count) or count > _MOST_MOOV_BYTES:
        raise NotIndexedError("a table of sizes of another length than it states")
    return np.full(count, same, np.int64) if same else np.frombuffer(content, ">u4").astype(np.int64)


def _offsets(boxes: dict[bytes, memoryview], count: int) -> NDArray[np.int64]:
    """(S) ticks from the decode time to the presentation of each sample, up to a constant."""
    if b"ctts" not in boxes:
        return np.zeros(count, np.int64)
    content = boxes[b"ctts"][8:]
    if len(content) != 8 * _u32(boxes, b"ctts", 4):
        raise NotIndexedError("a table of offsets of another length than it states")
    runs = np.frombuffer(content, np.dtype([("count", ">u4"), ("offset", ">i4")]))
    if int(runs["count"].sum(dtype=np.int64)) != count:
        raise NotIndexedError("offsets of more or fewer samples than there are")
    return np.repeat(runs["offset"].astype(np.int64), runs["count"])
