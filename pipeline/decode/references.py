"""Which compressed pictures no other picture is decoded from: they need not be decoded unless they are wanted.

Told from the first bytes of a packet, as the standards write them: H.264 nal_ref_idc 0; HEVC sub-layer non-reference
pictures of a stream with one temporal layer; B-pictures of MPEG-1, MPEG-2 and MPEG-4 part 2. Of all other codecs every
picture counts as referred to.
"""

from collections.abc import Callable
from typing import Any

_START = b"\x00\x00\x01"
_H264_SLICES = frozenset({1, 2, 3, 4, 5})
_HEVC_SLICES = 32  # types of units below it are slices
_HEVC_SUBLAYER_TYPES = 16  # and below it, the even ones are not referred to in their layer
_HEVC_SPS = 33
_B_PICTURE = 3  # picture_coding_type of MPEG-1 and MPEG-2
_B_VOP = 2  # vop_coding_type of MPEG-4 part 2

SpareTest = Callable[[memoryview], bool]


def spare_test(codec: str, extradata: bytes | None) -> SpareTest:
    """A function that tells whether no other picture is decoded from a packet's picture.

    Args:
        codec: FFmpeg's name.
        extradata: of the stream; it tells how the units of H.264 and HEVC are delimited.
    """
    if codec == "h264":
        length = _length_bytes(extradata, at=4, least=7)
        return lambda packet: _h264(packet, length)
    if codec == "hevc" and _has_one_layer(extradata):
        length = _length_bytes(extradata, at=21, least=23)
        return lambda packet: _hevc(packet, length)
    if codec in ("mpeg1video", "mpeg2video"):
        return lambda packet: _after_start(packet, 0x00, lambda two: (two[1] >> 3) & 7) == _B_PICTURE
    if codec == "mpeg4":
        return lambda packet: _after_start(packet, 0xB6, lambda two: two[0] >> 6) == _B_VOP
    return _never


def _never(packet: memoryview) -> bool:  # noqa: ARG001
    return False


def _length_bytes(extradata: bytes | None, at: int, least: int) -> int:
    """Bytes of the length before each unit, as avcC and hvcC state it; 0: units follow start codes."""
    return (extradata[at] & 3) + 1 if extradata and len(extradata) >= least and extradata[0] == 1 else 0


def _units(packet: memoryview, length: int) -> Any:
    """Where the units of a packet begin, one after the other."""
    if length:
        at = 0
        while at + length < len(packet):
            yield at + length
            at += length + int.from_bytes(packet[at : at + length], "big")
        return
    content = bytes(packet)
    at = content.find(_START)
    while 0 <= at < len(content) - 4:
        yield at + 3
        at = content.find(_START, at + 3)


def _h264(packet: memoryview, length: int) -> bool:
    found = False
    for at in _units(packet, length):
        head = packet[at]
        if head & 31 in _H264_SLICES:
            if head & 0x60:  # of two fields one may be referred to
                return False
            found = True
    return found


def _hevc(packet: memoryview, length: int) -> bool:
    for at in _units(packet, length):
        kind = (packet[at] >> 1) & 63
        if kind < _HEVC_SLICES:  # all slices of a picture agree
            return kind < _HEVC_SUBLAYER_TYPES and not kind & 1
    return False


def _has_one_layer(extradata: bytes | None) -> bool:
    """Whether an HEVC stream states that it has a single temporal layer; what it leaves open counts as no."""
    if not extradata:
        return False
    if _length_bytes(extradata, at=21, least=23):
        return (extradata[21] >> 3) & 7 == 1
    at = extradata.find(_START)
    while 0 <= at < len(extradata) - 6:
        if (extradata[at + 3] >> 1) & 63 == _HEVC_SPS:
            return (extradata[at + 5] >> 1) & 7 == 0
        at = extradata.find(_START, at + 3)
    return False


def _after_start(packet: memoryview, code: int, read: Callable[[bytes], int]) -> int | None:
    """A number out of the two bytes that follow the first start code of a kind; None: there is no such code."""
    content = bytes(packet[:512])
    at = content.find(_START + bytes([code]))
    return read(content[at + 4 : at + 6]) if 0 <= at < len(content) - 5 else None
