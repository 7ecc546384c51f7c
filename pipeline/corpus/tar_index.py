"""The members of tar shards (WebDataset), listed from their headers alone."""

import posixpath
import tarfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from pipeline.storage.fs import is_storage_error, open_bytes

HEADER_BLOCK_BYTES = 64 << 10  # a header is 512 bytes; small neighbors such as .json come with the same request
LOOKUP_THREADS = 16  # listings wait for the network, not for the processor


@dataclass(frozen=True)
class Member:
    """A file inside a tar shard: its bytes are [offset, offset + size) of the tar, in bytes."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarListing:
    """What a tar shard holds; `problem` says why the list may be incomplete."""

    members: list[Member] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)  # links, folders, names that lead out, replaced members
    problem: str | None = None


def list_members(uri: str, storage_options: Mapping[str, Any] | None = None) -> TarListing:
    """List the regular files of a tar shard; their contents are skipped by seeking and never fetched.

    A tar that is cut off or damaged gives the members before the damage, and says so in `problem`.

    Raises:
        OSError: the tar does not exist or cannot be read.
    """
    members: dict[str, Member] = {}
    ignored: list[str] = []
    problem = None
    with open_bytes(uri, storage_options, HEADER_BLOCK_BYTES) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    tar.members.clear()  # type: ignore[attr-defined]  # a tarfile keeps every header it has read
                    if not _is_plain(info):
                        ignored.append(printable(info.name))
                        continue
                    if info.name in members:  # of two members with one name, unpacking would leave the later one
                        ignored.append(info.name)
                    members[info.name] = Member(info.name, info.offset_data, info.size)
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE).strip(b"\0"):  # tarfile takes a damaged header for the end
                    raise tarfile.ReadError("bad header")
        except tarfile.TarError as error:
            problem = f"the tar shard is damaged or cut off after {len(members)} files ({error})"
    return TarListing(list(members.values()), ignored, problem)


def list_tars(uris: Iterable[str], storage_options: Mapping[str, Any] | None = None) -> dict[str, TarListing]:
    """List several tar shards at once: URI to listing, in the given order; a missing tar has an empty listing.

    Raises:
        OSError: a tar cannot be read.
    """

    def list_one(uri: str) -> TarListing:
        try:
            return list_members(uri, storage_options)
        except (FileNotFoundError, PermissionError) as error:
            return TarListing(problem=f"the tar shard cannot be read: {error.strerror or error}")

    unique = list(dict.fromkeys(uris))
    with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        return dict(zip(unique, pool.map(list_one, unique), strict=True))


def can_be_read_now(clip: Mapping[str, Any], storage_options: Mapping[str, Any] | None = None) -> bool:
    """Whether a clip that stands for a tar shard, or for a member whose place is not known, is readable after all.

    Then it was not when the corpus was listed, for lack of rights perhaps, and its bytes are not to blame.
    """
    try:
        listing = list_members(clip["uri"], storage_options)
    except Exception as error:
        if not is_storage_error(error):
            raise
        return False
    if clip.get("member") is None:
        return listing.problem is None
    return any(member.name == clip["member"] for member in listing.members)


def _is_plain(info: tarfile.TarInfo) -> bool:
    """A regular file with a name that stays inside and can be written to a table."""
    inside = not posixpath.isabs(info.name) and ".." not in info.name.split("/")
    return info.isreg() and not info.issparse() and inside and is_printable(info.name)


def printable(name: str) -> str:
    """A name whose bytes are not UTF-8, made printable."""
    return name.encode("utf-8", "backslashreplace").decode()


def is_printable(name: str) -> bool:
    """Whether a name is UTF-8, as a table needs it."""
    return name == printable(name)
