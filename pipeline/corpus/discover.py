"""From what the user names as the corpus to one row per clip: where its bytes are, and what changes when they change.

A corpus is a folder or a glob of video files and tar shards, a single file of either kind, a manifest, or a CelebV
JSON; on any storage that fsspec knows. Listing reads no video: names and sizes come from one listing of the storage,
members of tar shards from their headers. What is not a clip is reported as ignored, so that nothing is dropped unseen.
"""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.config.models import Config
from pipeline.corpus import allowlist, manifests, tar_index
from pipeline.corpus.celebv import read_celebv
from pipeline.corpus.voxceleb import is_voxceleb, read_voxceleb
from pipeline.errors import ConfigError
from pipeline.schema import CLIP
from pipeline.storage import fs as files

_ACCEPTED = (
    "A corpus is a folder, a glob or a single file of videos or .tar shards, a manifest "
    f"({', '.join(manifests.SUFFIXES)}) with a column 'uri', a CelebV .json or a VoxCeleb .txt."
)

#: suffix of a list of a data set -> its reader
_LISTS = {".json": read_celebv, ".txt": read_voxceleb}


@dataclass(frozen=True)
class Corpus:
    """The clips of a corpus, and what lies beside them.

    Attributes:
        clips: `schema.CLIP`, one row per clip, no clip_id twice; in the order of the manifest, or sorted by file.
        ignored: files that are no video (pictures, texts, hidden ones), inside a tar shard as 'URI!member'; and of a
            CelebV JSON, as 'URI!id', clips of exactly the frames of an earlier one.
    """

    clips: pa.Table
    ignored: list[str]


def read_corpus(corpus: str, config: Config) -> Corpus:
    """List the clips of a corpus.

    Args:
        corpus: path or fsspec URI of a folder, a glob, a video, a .tar shard, a manifest or a CelebV JSON.
        config: `sources` and `storage` are used.

    Raises:
        ManifestError: a line of a manifest is wrong; the message names file, line and column.
        ConfigError: the corpus does not exist, cannot be reached, or holds no clip; the message says what was found.
    """
    uri = files.normalise_uri(corpus)
    fs, path = files.open_fs(uri, config.storage.options)
    fs.invalidate_cache()  # what an earlier listing of this process saw may have changed
    try:
        if fs.isdir(path):
            return _read_listing(uri, files.list_storage(uri, config.storage.options), config)
        if fs.exists(path):
            return _read_file(uri, fs.info(path), config)
        if re.search(r"[*?\[]", uri):
            return _read_listing(uri, files.list_storage(uri, config.storage.options, is_glob=True), config)
    except OSError as error:
        raise ConfigError(f"cannot read the corpus {uri}: {error}") from error
    raise ConfigError(f"the corpus {uri} does not exist. {_ACCEPTED}")


def _read_file(uri: str, info: dict[str, Any], config: Config) -> Corpus:
    """Corpus of a single file: a list or a video, by its suffix."""
    kind = files.suffix(uri)
    if kind in manifests.SUFFIXES or kind == ".json" or (kind == ".txt" and is_voxceleb(uri, config)):
        rows = _LISTS.get(kind, manifests.read_manifest)(uri, config)
        if not rows:
            raise ConfigError(f"{uri} names no clip")
        unique = {row["clip_id"]: row for row in reversed(rows)}  # CelebV may list two people of one scene as two clips
        ignored = [f"{uri}!{row['key']}" for row in rows if unique[row["clip_id"]] is not row]
        return Corpus(pa.Table.from_pylist(list(reversed(unique.values())), schema=CLIP), ignored)
    name = files.base_name(uri)
    if kind == ".tar" or files.is_media(name):
        return _read_listing(files.parent_uri(uri), [files.Found(name, uri, info)], config)
    raise ConfigError(
        f"{uri} is neither a video nor a list of videos by its suffix {kind!r}. {_ACCEPTED} "
        "A video with another suffix can be named in a manifest."
    )


def _read_listing(root: str, found: list[files.Found], config: Config) -> Corpus:
    """Corpus of listed files: videos, and the members of tar shards."""
    outside = [file.uri for file in found if not allowlist.is_allowed(file.uri, config.sources.allow)]
    if found and len(outside) == len(found):
        raise ConfigError(f"no file of the corpus may be opened: {allowlist.refusal(outside[0])}")
    ignored = [tar_index.printable(uri) for uri in outside]  # links that lead out
    found = [file for file in found if file.uri not in set(outside)] if outside else found
    listings = tar_index.list_tars((file.uri for file in found if _is_tar(file.name)), config.storage.options)
    rows: list[dict[str, Any]] = []
    for file in found:
        if file.uri in listings:
            _add_members(file, listings[file.uri], rows, ignored)
        elif files.is_media(file.name) and tar_index.is_printable(file.uri):
            folder = files.parent_uri(file.uri)
            inner = files.parent_uri(file.name) if "/" in file.name else files.base_name(folder)
            rows.append(_clip(file, files.shard_name(inner or "corpus", folder), key=files.without_suffix(file.name)))
        else:
            ignored.append(tar_index.printable(file.uri))
    if not rows:
        suffixes = Counter(files.suffix(name) or "no suffix" for name in ignored).most_common(5)
        kinds = ", ".join(f"{count} x {kind}" for kind, count in suffixes)
        raise ConfigError(
            f"no video in {root}: found {f'{len(ignored)} other files ({kinds})' if kinds else 'no file'}. {_ACCEPTED}"
        )
    return Corpus(pa.Table.from_pylist(rows, schema=CLIP), ignored)


def _is_tar(name: str) -> bool:
    return files.suffix(name) == ".tar" and not any(part.startswith(".") for part in name.split("/"))


def _add_members(
    tar: files.Found, listing: tar_index.TarListing, rows: list[dict[str, Any]], ignored: list[str]
) -> None:
    """Add the videos of a tar shard; of a damaged one also a row for the tar itself, which quarantine then explains."""
    shard = files.shard_name(files.without_suffix(files.base_name(tar.name)), tar.uri)
    for member in listing.members:
        if files.is_media(member.name):
            rows.append(_clip(tar, shard, key=files.without_suffix(member.name), member=member))
        else:
            ignored.append(f"{tar.uri}!{member.name}")
    ignored += [f"{tar.uri}!{name}" for name in listing.ignored]
    if listing.problem is not None:
        rows.append(_clip(tar, shard, key=files.without_suffix(tar.name)))


def _clip(file: files.Found, shard: str, key: str, member: tar_index.Member | None = None) -> dict[str, Any]:
    """A row of `schema.CLIP` for a whole file, or for a member of it."""
    name = member.name if member else None
    return {
        "clip_id": files.clip_id(file.uri, name, None, None),
        "uri": file.uri,
        "member": name,
        "offset": member.offset if member else None,
        "size": member.size if member else file.info.get("size"),
        "shard": shard,
        "key": key,
        "fingerprint": files.fingerprint(file.info) if file.info else None,
    }
