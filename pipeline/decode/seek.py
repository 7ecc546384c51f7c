"""Frames of a video by their numbers, from the nearest keyframe on: those of decoding from the start, or an error.

wanted frames       cut into stretches: within one it is cheaper to go on decoding than to jump     _stretches
    |  the last keyframe that is not behind the stretch, chosen in the packet index, never by the demuxer
    |  seek to its packet, drop what precedes it
    |  packets from which nothing wanted is decoded are left out
    |  the first frame out must be that keyframe, else one keyframe further back
    |  frames before the first wanted one are dropped, from there on each must be the next
frames              or DistrustError: the video is then decoded from its start
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import av
import numpy as np

from pipeline.config.models import DecodeConfig
from pipeline.decode.index import FrameIndex
from pipeline.decode.open import Video, check_size
from pipeline.decode.references import spare_test
from pipeline.errors import ClipError

#: containers whose packets are torn where one seeks to: their packets are read from the start on, not decoded
_NEVER_SOUGHT = frozenset({"mpeg"})
_I_PICTURE = 1
#: so many frames are decoded rather than jumped over, as a restarted codec has a picture or two to catch up with
_NEAR_FRAMES = 4
#: a keyframe so many frames ahead is read up to, as that costs less than a seek and cannot miss it
_NEAR_PACKETS = 64


class DistrustError(Exception):
    """Decoding does not give what the packet index says; the message says where."""


class _FurtherBack(Exception):  # noqa: N818
    """Decoding must begin at an earlier keyframe."""


class Reader:
    """Reads frames of one video by their numbers.

    Attributes:
        decoded: frames that came out of the codec.
        jumps: how often decoding restarted at a keyframe.
    """

    def __init__(self, open_again: Callable[[ExitStack], Video], index: FrameIndex, config: DecodeConfig) -> None:
        """Open nothing yet.

        Args:
            open_again: opens the video again; what it opens is closed with the stack.
            index: of it, checked.
            config: limits.
        """
        self._open, self._index, self._config = open_again, index, config
        self._number = {pts: number for number, pts in enumerate(index.pts_F.tolist())}
        self._video: Video | None = None
        self._packets: Iterator[Any] = iter(())
        self._passed = -1  # last keyframe whose packet was read since the last seek
        self.decoded = self.jumps = 0

    def frames(self, wanted: Sequence[int]) -> Iterator[tuple[int, av.VideoFrame]]:
        """(number, frame) of each wanted frame.

        Args:
            wanted: numbers of frames, rising.

        Raises:
            DistrustError: the frames are not what the index says; those given so far are right.
            OSError and errors of the storage's clients: reading fails.
        """
        with ExitStack() as stack:
            self._video = None
            for stretch in self._stretches(wanted):
                at = back = 0
                while at < len(stretch):
                    try:
                        for number, frame in self._decode(stretch[at:], back, stack):
                            yield number, frame
                            at, back = at + 1, 0
                        if at < len(stretch):
                            raise _FurtherBack
                    except _FurtherBack:
                        back += 1
                    except (av.FFmpegError, ClipError) as error:
                        raise DistrustError(f"decoding fails before frame {stretch[at]}: {error}") from error

    def _stretches(self, wanted: Sequence[int]) -> Iterator[list[int]]:
        wanted_W = np.asarray(wanted, np.int64)
        key_W = np.searchsorted(self._index.frame_K, wanted_W, side="right") - 1
        begin_W = self._index.frame_K[np.maximum(key_W, 0)]
        jumps = np.flatnonzero(begin_W[1:] - wanted_W[:-1] > _NEAR_FRAMES) + 1
        for part in np.split(wanted_W, jumps):
            yield part.tolist()

    def _decode(self, wanted: list[int], back: int, stack: ExitStack) -> Iterator[tuple[int, av.VideoFrame]]:
        """The wanted frames of a stretch, from its keyframe or one so many further back on."""
        key = self._index.keyframe(wanted[0]) - back
        if key < -1:
            raise DistrustError(f"no keyframe gives frame {wanted[0]}")
        self.jumps += 1
        fed: set[int] = set()
        last, at = -1, 0
        for frame in self._run(key, wanted, fed, stack):
            check_size(frame.width, frame.height, self._config)
            self.decoded += 1
            number = self._number.get(frame.pts)
            if frame.is_corrupt or number is None or number <= last:
                raise _FurtherBack
            if last < 0 and not self._is_begin(frame, number, key):
                raise _FurtherBack
            if number > wanted[at] or (at and any(between in fed for between in range(last + 1, number))):
                raise _FurtherBack
            last = number
            if number == wanted[at]:
                yield number, frame
                at += 1
                if at == len(wanted):
                    return

    def _is_begin(self, frame: av.VideoFrame, number: int, key: int) -> bool:
        """Whether the first frame out is the one that decoding from a keyframe, or (-1) from the start, begins with."""
        if key < 0:
            return number == 0
        return number == self._index.frame_K[key] and int(frame.pict_type) == _I_PICTURE

    def _run(self, key: int, wanted: list[int], fed: set[int], stack: ExitStack) -> Iterator[av.VideoFrame]:
        """All frames that come out when the packets from a keyframe on up to the last wanted one are decoded."""
        packet = self._go_to(key, stack)
        left = set(wanted)
        assert self._video is not None
        while True:
            number = self._number.get(packet.pts)
            if number is None or number in left or not self._is_spare(memoryview(packet)):
                if number is not None:
                    fed.add(number)
                    left.discard(number)
                yield from packet.decode()
            if not left:
                break
            following = self._next()
            if following is None:
                break
            packet = following
        yield from self._video.stream.codec_context.decode(None)

    def _go_to(self, key: int, stack: ExitStack) -> Any:
        """The packet of a keyframe, or (-1) the first of all; the codec restarts with it."""
        index = self._index
        if key < 0:
            self._begin(stack)
            return self._next()
        near = self._video is not None and self._passed < key
        if near and index.frame_K[key] - index.frame_K[max(self._passed, 0)] <= _NEAR_PACKETS:
            assert self._video is not None
            self._video.stream.codec_context.flush_buffers()
        else:
            if self._video is None:
                self._begin(stack)
            assert self._video is not None
            if self._video.container.format.name in _NEVER_SOUGHT:
                if not near:
                    self._begin(stack)
                self._video.stream.codec_context.flush_buffers()
            else:
                self._video.container.seek(int(index.seek_K[key]), stream=self._video.stream)
                self._packets, self._passed = self._video.container.demux(self._video.stream), -1
        packet = self._find(key)
        if packet is None:
            self._begin(stack)
            packet = self._find(key)
        if packet is None:
            raise DistrustError(f"the packet of frame {index.frame_K[key]} is not found")
        return packet

    def _begin(self, stack: ExitStack) -> None:
        self._video = self._open(stack)
        codec = self._video.stream.codec_context
        self._is_spare = spare_test(codec.codec.canonical_name, codec.extradata)
        self._packets, self._passed = self._video.container.demux(self._video.stream), -1

    def _find(self, key: int) -> Any:
        """Read on up to the packet of a keyframe; None: it does not come."""
        index = self._index
        pts, size = int(index.pts_F[index.frame_K[key]]), int(index.size_K[key])
        while (packet := self._next()) is not None:
            if packet.is_keyframe and packet.pts == pts and packet.size == size:
                return packet
            if packet.is_keyframe and packet.pts is not None and packet.pts > pts:
                return None
        return None

    def _next(self) -> Any:
        """The next packet that holds something; None at the end."""
        for packet in self._packets:
            if packet.size:
                if packet.is_keyframe and (number := self._number.get(packet.pts)) is not None:
                    key = self._index.keyframe(number)
                    self._passed = key if self._index.frame_K[key] == number else self._passed
                return packet
        return None
