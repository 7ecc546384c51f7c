"""Opening a video so that it reads nothing but its own bytes, whatever the file says.

Files are read through fsspec objects also where they are local: measured as fast as FFmpeg's own reader, and a hostile
file (a playlist, say) cannot make FFmpeg open others. FFmpeg has no protocol left to open anything with, and does not
know the formats that are lists of other files.
"""

import io
import mimetypes
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import av
from av.stream import Discard, Disposition

from pipeline.config.models import DecodeConfig
from pipeline.corpus import tar_index
from pipeline.errors import NO_ACCESS, ClipError
from pipeline.storage import fs

#: demuxers that read what a file names instead of what it holds, and devices; all others hold their own pictures
_LISTS = frozenset(
    {
        *("alsa", "concat", "dash", "fbdev", "hds", "hls", "image2", "imf", "kmsgrab", "lavfi", "oss", "rtp", "rtsp"),
        *("sap", "sdp", "smoothstreaming", "video4linux2,v4l2", "vobsub", "webm_dash_manifest", "x11grab"),
    }
)


#: what FFmpeg may do with a file: protocols none, so that nothing else is opened whatever the file says
_CLOSED = {"protocol_whitelist": "none", "format_whitelist": ",".join(sorted(av.formats_available - _LISTS))}


_MP4_BOXES = (b"ftyp", b"mdat", b"free", b"skip", b"wide", b"pnot")  # that an MP4 or MOV begins with


@dataclass(frozen=True)
class Video:
    """An opened video: its stream, the length of its file in bytes, and the length that its header states."""

    container: Any
    stream: Any
    length: int
    stated_length: int | None

    def is_cut_off(self) -> bool:
        """Whether the file ends before what its header or its index say; the decoder just gives fewer frames then."""
        entries = self.stream.index_entries
        indexed = entries[-1].pos + entries[-1].size if len(entries) else 0
        # headers count a few bytes of padding that some writers leave out
        return indexed > self.length or (self.stated_length or 0) > self.length + fs.HEAD_BYTES


class SharedFile:
    """The file of a clip, for several readers: they share the blocks of a remote file that are in memory.

    Attributes:
        bytes_read: that readers were given.
    """

    def __init__(self, clip: Mapping[str, Any], options: Any) -> None:
        """Open it.

        Raises:
            ClipError: as `fs.open_clip`.
        """
        of_tar = fs.suffix(clip["uri"]) == ".tar" and clip.get("offset") is None
        if of_tar and tar_index.can_be_read_now(clip, options):
            raise ClipError(f"{file_name_of(clip)} could not be read when the corpus was listed; now it can", NO_ACCESS)
        self.file = fs.open_clip(clip, options)
        self.bytes_read = 0

    def view(self, named: bool = False) -> "View":
        """A reader at the file's start; `named`: it tells the file's name, if there is one."""
        return View(self, named)

    def close(self) -> None:
        """Close the file; its readers must not read on."""
        self.file.close()


class View:
    """A reader of a shared file, with a position of its own."""

    def __init__(self, shared: SharedFile, named: bool) -> None:
        self._shared, self._position = shared, 0
        if named and hasattr(shared.file, "name"):
            self.name = shared.file.name

    def read(self, size: int = -1) -> bytes:  # noqa: D102
        self._shared.file.seek(self._position)
        data = self._shared.file.read(size)
        self._position += len(data)
        self._shared.bytes_read += len(data)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        if whence == io.SEEK_CUR:
            offset, whence = self._position + offset, io.SEEK_SET
        self._position = self._shared.file.seek(offset, whence)
        return self._position

    def tell(self) -> int:  # noqa: D102
        return self._position


def file_name_of(clip: Mapping[str, Any]) -> str:
    """The file's URI, or the name of the member of a tar."""
    return clip["uri"] if clip.get("member") is None else clip["member"]


def open_video(clip: Mapping[str, Any], config: DecodeConfig, shared: SharedFile, stack: ExitStack) -> Video:
    """Open a clip's first video stream for decoding on one thread; `stack` closes it.

    Args:
        clip: row of `schema.CLIP`.
        config: limits.
        shared: the clip's file; it stays open.
        stack: closes the video.

    Raises:
        ClipError: `not_a_video`, `truncated`, `no_video_stream`, `unsupported_codec` or `too_large`.
    """
    name = file_name_of(clip)
    # of a picture's name FFmpeg makes a pattern of names, and opens those; without it, it reads what it is given
    file = shared.view(named=not (mimetypes.guess_type(name)[0] or "").startswith("image/"))
    head = file.read(fs.HEAD_BYTES)
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    try:
        # tags in an unknown encoding must not fail a clip
        container = stack.enter_context(av.open(file, "r", metadata_errors="replace", container_options=_CLOSED))
    except av.FFmpegError as error:
        reason = reason_of(error)
        if "not on whitelist" in reason:
            raise ClipError(
                f"{name} is a list of other files or streams, which are not opened", "not_a_video"
            ) from error
        if head[4:8] in _MP4_BOXES and "moov atom not found" in reason:
            raise ClipError(
                f"{name} is cut off: its index (moov) is missing, often the file's end", "truncated"
            ) from error
        if fs.suffix(name) == ".tar":
            raise ClipError(
                f"the tar shard {name} is damaged or cut off; members behind it are lost", "truncated"
            ) from error
        raise ClipError(f"{name} cannot be opened as a video: {reason}", "not_a_video") from error
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = ", ".join(sorted({s.type for s in container.streams})) or "none"
        raise ClipError(f"{name} has no video stream (its streams: {kinds})", "no_video_stream")
    stream = streams[0]
    codec = stream.codec_context
    if codec is None:
        raise ClipError(f"{name}: there is no decoder for its video stream", "unsupported_codec")
    check_size(codec.width, codec.height, config)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all  # sound is neither read nor decoded
    codec.thread_count, codec.thread_type = 1, "NONE"  # the task has one CPU
    # a size that jumps is refused before it is allocated; the codec counts pixels with its padding
    codec.options = {"max_pixels": str(2 * config.max_pixels + (1 << 16))}
    return Video(container, stream, length, fs.stated_length(head))


def check_size(width: int, height: int, config: DecodeConfig) -> None:
    """Refuse frames of more pixels than `decode.max_pixels`.

    Raises:
        ClipError: `too_large`.
    """
    if width * height > config.max_pixels:
        raise ClipError(f"frames of {width}x{height} pixels; decode.max_pixels allows {config.max_pixels}", "too_large")


def is_encrypted(packet: Any) -> bool:
    """Whether a packet says how it is to be decrypted."""
    # most packets have no side data: finding that out costs a tenth of asking for one kind
    return next(packet.iter_sidedata(), None) is not None and packet.has_sidedata("encryption_info")


def reason_of(error: av.FFmpegError) -> str:
    """What FFmpeg says of an error, in words."""
    log = getattr(error, "log", None)
    return f"{error.strerror} ({log[2].strip().rstrip('.')})" if log and log[2].strip() else str(error.strerror)
