"""Files of clips: their names, URIs and fingerprints, listing and reading.

Everything is read through fsspec, so a path, `s3://`, `gs://`, `https://` and `memory://` work alike. A video inside
a tar shard is a window over the tar file: nothing is unpacked, and only the codec's own reads are fetched.
Remote reads go through a cache of at most CACHE_BLOCKS blocks, so a task's memory does not grow with the file.
"""

import hashlib
import io
import json
import os
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import fsspec

from pipeline.errors import NO_ACCESS, UNREACHABLE, ClipError, ConfigError

BLOCK_BYTES = 4 << 20  # one request; several of them are kept, since audio and video of one file may lie far apart
CACHE_BLOCKS = 8
HEAD_BYTES = 64  # enough for the length that RIFF and Matroska headers state

# Streams, containers and disc formats. Sound belongs to them, so that it ends in quarantine, with a reason, not unseen.
_VIDEO = """
    .264 .265 .266 .3g2 .3gp .3gpp .amv .apng .asf .av1 .avc .avi .avs .avs2 .avs3 .bik .dav .divx .dpg .drc .dv
    .evo .f4v .flv .gxf .h261 .h263 .h264 .h265 .h266 .hevc .ismv .ivf .ivr .lvf .m1v .m2p .m2t .m2ts .m2v .m4p .m4v
    .mj2 .mjp2 .mjpeg .mjpg .mk3d .mkv .mod .mov .mp4 .mp4v .mpe .mpeg .mpeg4 .mpg .mpg4 .mpv .mqv .mts .mve .mxf
    .nsv .nut .obu .ogm .ogv .ogx .qt .rm .rmvb .roq .smk .swf .tod .trp .ts .vc1 .vob .vro .vvc .webm .wmv .wtv
    .xvid .y4m .yuv4mpeg
"""
_AUDIO = """
    .8svx .aa3 .aac .ac3 .adts .aif .aifc .aiff .alac .amr .ape .au .caf .dts .eac3 .f4a .flac .m4a .m4b .m4r .mka
    .mp2 .mp3 .mpa .mpc .mpga .oga .ogg .opus .ra .snd .spx .tta .voc .w64 .wav .weba .wma .wv
"""
MEDIA_SUFFIXES = frozenset((_VIDEO + _AUDIO).split())
AUDIO_SUFFIXES = frozenset(_AUDIO.split())

_URI = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*(://|::)")
_CLIENTS = frozenset({"aiobotocore", "aiohttp", "botocore", "gcsfs", "google", "requests", "urllib3"})
_SAFE_SHARD = re.compile(r"[A-Za-z0-9._-]{1,120}")


# -- names ------------------------------------------------------------------------------------------------------------


def normalise_uri(path_or_uri: str) -> str:
    """The full URI of a path; a path, a relative path and a `file://` URI of one file give the same string.

    Names are kept as they are: nothing is percent-encoded, links are not resolved, other URIs come back unchanged.
    """
    if path_or_uri.startswith(("file://", "local://")):
        return "file://" + os.path.abspath(path_or_uri.split("://", 1)[1])  # noqa: PTH100  (resolve() follows links)
    if _URI.match(path_or_uri):
        return path_or_uri
    return "file://" + os.path.abspath(os.path.expanduser(path_or_uri))  # noqa: PTH100, PTH111


def join_uri(folder: str, relative: str) -> str:
    """URI of `relative` in a folder; `..` is resolved, a full URI or an absolute path is taken as it is."""
    if _URI.match(relative) or relative.startswith("/"):
        return normalise_uri(relative)
    if folder.startswith("file://"):
        return normalise_uri(folder + "/" + relative)
    scheme, separator, rest = folder.rpartition("://")
    return scheme + separator + posixpath.normpath(posixpath.join(rest, relative))


def parent_uri(uri: str) -> str:
    """URI of the folder of a file."""
    return uri.rsplit("/", 1)[0]


def base_name(uri: str) -> str:
    """Last part of a URI: the file's name; what follows a `?` of a web address does not belong to it."""
    path = urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri
    return path.rstrip("/").rsplit("/", 1)[-1]


def suffix(name: str) -> str:
    """Suffix of a file name in lower case with its dot; empty if there is none."""
    return posixpath.splitext(base_name(name))[1].lower()


def is_media(name: str) -> bool:
    """Whether a file's suffix is one of video or sound, and none of the parts of its name begins with a dot."""
    hidden = any(part.startswith(".") and part != "." for part in name.split("/"))
    return suffix(name) in MEDIA_SUFFIXES and not hidden


def without_suffix(name: str) -> str:
    """A relative name without a leading `./` and without its suffix."""
    return posixpath.splitext(name.removeprefix("./"))[0]


def clip_id(uri: str, member: str | None, start_s: float | None, end_s: float | None, *frames: int | str | None) -> str:
    """Id of a clip: 16 hex digits of BLAKE2b over its URI, tar member and time range.

    `frames` are begin and end of a clip that is given by frame numbers, or what else names it.
    """
    start, end = (None if second is None else float(second) for second in (start_s, end_s))
    # JSON quotes the strings, so no two different clips have one encoding
    return hashlib.blake2b(json.dumps([uri, member, start, end, *frames]).encode(), digest_size=8).hexdigest()


def is_clip_id(text: str) -> bool:
    """Whether a text has the form of a clip's id."""
    return re.fullmatch("[0-9a-f]{16}", text) is not None


def shard_name(label: str, uri: str) -> str:
    """Name of a shard, safe as a folder name: the label in [A-Za-z0-9._-], and 6 hex digits of the hash of its URI."""
    digest = hashlib.blake2b(uri.encode(), digest_size=3).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9._-]', '_', label)[:80]}-{digest}"


def explicit_shard_name(value: str) -> str:
    """Shard name that a manifest gives: kept when safe as a folder name, else made safe."""
    return value if _SAFE_SHARD.fullmatch(value) and value.strip(".") else shard_name(value, value)


def fingerprint(info: Mapping[str, Any]) -> str:
    """Fingerprint of a file's bytes: its size, and its ETag or modification time, from fsspec's `info`."""
    for name in ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "modified", "created"):
        if (value := info.get(name)) is not None:
            value = value.isoformat() if hasattr(value, "isoformat") else str(value).strip('"')
            return f"{info.get('size')}-{value}"
    return f"{info.get('size')}"


# -- reading ----------------------------------------------------------------------------------------------------------


def is_storage_error(error: BaseException) -> bool:
    """Whether storage or the network failed: an OSError, or an error of the clients behind s3://, gs:// and https://."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENTS


def reading_failed(uri: str, error: BaseException) -> str:
    """Error class of a file that is there and cannot be read; of remote storage it may be read another time."""
    if isinstance(error, PermissionError):
        return NO_ACCESS
    return "unreadable" if uri.startswith("file://") else UNREACHABLE


def check_protocol(uri: str) -> None:
    """Raise ConfigError when the protocol of a URI is unknown, or the package that serves it is not installed."""
    try:
        fsspec.get_filesystem_class(_URI.match(uri).group(0).rstrip(":/"))  # type: ignore[union-attr]
    except (ValueError, ImportError) as error:
        raise ConfigError(f"cannot open {uri!r}: {error}") from error


def open_fs(uri: str, storage_options: Mapping[str, Any] | None = None) -> tuple[Any, str]:
    """The fsspec file system of a full URI, and the path in it.

    Raises:
        ConfigError: unknown protocol, or the package that serves it is not installed.
    """
    if uri.startswith("file://"):  # options are for the remote storage; '::' in a local name is no chain
        return fsspec.filesystem("file"), uri.removeprefix("file://")
    check_protocol(uri)
    return fsspec.core.url_to_fs(uri, **(storage_options or {}))


@dataclass(frozen=True)
class Found:
    """A file of a listing: its name relative to the folder, its full URI, and fsspec's info (size, mtime or ETag)."""

    name: str
    uri: str
    info: dict[str, Any]


def list_storage(pattern: str, storage_options: Mapping[str, Any] | None = None, is_glob: bool = False) -> list[Found]:
    """List all files below a folder, or those that a glob matches, sorted by name, in one pass over the storage.

    Args:
        pattern: full URI of the folder, or a glob; names are then relative to its last folder without a wildcard.
        storage_options: for fsspec.
        is_glob: wildcards in `pattern` count.
    """
    folder = re.split(r"/[^/]*[*?\[]", pattern, maxsplit=1)[0] if is_glob else pattern.rstrip("/")
    fs, path = open_fs(pattern, storage_options)
    base = open_fs(folder, storage_options)[1].rstrip("/")
    listing = fs.glob(path, detail=True) if is_glob else fs.find(path, detail=True)
    found = []
    for name, info in sorted(listing.items()):
        relative = name[len(base) :].lstrip("/")
        if info.get("islink"):  # a listing describes the link; what counts is the file behind it
            try:
                info = fs.info(name)
            except FileNotFoundError:
                info = {}
        if relative and info.get("type") != "directory":
            found.append(Found(relative, f"{folder}/{relative}", info))
    return found


def open_bytes(
    uri: str,
    storage_options: Mapping[str, Any] | None = None,
    block_bytes: int = BLOCK_BYTES,
    blocks: int = CACHE_BLOCKS,
) -> IO[bytes]:
    """Open a file of any URI for reading.

    Returns:
        Seekable binary file; a remote one caches at most `blocks` blocks of `block_bytes`.

    Raises:
        ConfigError: unknown protocol.
        OSError: there is no such file, or it cannot be read.
    """
    fs, path = open_fs(uri, storage_options)
    cache = {"block_size": block_bytes, "cache_type": "blockcache", "cache_options": {"maxblocks": blocks}}
    return fs.open(path, "rb", **({} if uri.startswith("file://") else cache))


class Window(io.RawIOBase):
    """The bytes [offset, offset + size) of a seekable file, as a read-only file; closing it closes the file."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        super().__init__()
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        position = offset + (0, self._position, self._size)[whence]
        if position < 0:
            raise ValueError(f"cannot seek to {position}, before the start of the window")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:  # noqa: D102
        wanted = max(0, min(len(buffer), self._size - self._position))
        if not wanted:
            return 0
        self._file.seek(self._offset + self._position)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:  # noqa: D102
        if not self.closed:
            self._file.close()
        super().close()


def open_clip(clip: Mapping[str, Any], storage_options: Mapping[str, Any] | None = None) -> IO[bytes]:
    """Open the video file of a clip, a row of `schema.CLIP`, in any storage.

    Returns:
        Seekable binary file, at its start; for a tar member, a window over the tar. Reads of remote files are range
        requests with the client's bounded retries (s3fs: 5 in the body and 5 before it); they are complete or raise.

    Raises:
        ClipError: `missing_file`, `empty_file`, `truncated` (its tar is), `unreadable` though it exists,
            `no_access`: permission denied, or `unreachable`: the storage does not answer.
    """
    uri, member = clip["uri"], clip.get("member")
    try:
        file = open_bytes(uri, storage_options)
        if member is not None:
            if clip.get("offset") is None or clip.get("size") is None:
                file.close()
                raise ClipError(f"the tar shard {uri} has no readable member {member!r}", "missing_file")
            if file.seek(0, io.SEEK_END) < clip["offset"] + clip["size"]:
                file.close()
                raise ClipError(f"the tar shard {uri} is cut off inside its member {member!r}", "truncated")
            file = Window(file, clip["offset"], clip["size"])  # type: ignore[assignment]
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
    except FileNotFoundError as error:
        raise ClipError(f"the file {uri} does not exist", "missing_file") from error
    except IsADirectoryError as error:
        raise ClipError(f"{uri} is a folder, not a file", "unreadable") from error
    except PermissionError as error:
        raise ClipError(f"no permission to read {uri}", NO_ACCESS) from error
    except (ValueError, ConfigError) as error:  # ValueError: a web server that cannot give parts of a file
        raise ClipError(f"{uri} cannot be read: {error}", "unreadable") from error
    except Exception as error:
        if not is_storage_error(error):
            raise
        reason = getattr(error, "strerror", None) or error
        raise ClipError(f"{uri} cannot be read: {reason}", reading_failed(uri, error)) from error
    if not size:
        file.close()
        raise ClipError(f"{uri if member is None else member} holds no bytes", "empty_file")
    return file


def stated_length(head: bytes) -> int | None:
    """Length that a file states of itself in its first HEAD_BYTES: RIFF (AVI) and Matroska do, None for others.

    A file that is shorter was cut off, which its decoder does not notice: it just gives fewer frames.
    """
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        size = int.from_bytes(head[4:8], "little")
        return size + 8 if 0 < size < 0xFFFF0000 else None  # longer AVI files go on in a second RIFF
    if head[:4] == b"\x1a\x45\xdf\xa3":
        header_size, position = _ebml_size(head, 4)
        if header_size is not None and head[position + header_size :][:4] == b"\x18\x53\x80\x67":
            segment_size, begin = _ebml_size(head, position + header_size + 4)
            return None if segment_size is None else begin + segment_size
    return None


def _ebml_size(head: bytes, position: int) -> tuple[int | None, int]:
    """A Matroska size at a position, None if it is left open; and the position behind it."""
    if position >= len(head) or not head[position]:
        return None, position
    length = 9 - head[position].bit_length()
    value = int.from_bytes(head[position : position + length], "big") & ((1 << 7 * length) - 1)
    open_end = value == (1 << 7 * length) - 1 or position + length > len(head)
    return (None if open_end else value), position + length
