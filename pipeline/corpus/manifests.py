"""Lists of clips: manifests in Parquet, CSV or JSON lines.

A line that says something wrong stops the run before it starts, with its place. A line whose file does not exist is
kept, with a null fingerprint: the file's absence is then found, and told, where every other defect of a clip is.
"""

import csv
import difflib
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config.models import Config
from pipeline.corpus import allowlist, tar_index
from pipeline.errors import ConfigError, ManifestError
from pipeline.storage import fs as files

#: others may be there and are left out
COLUMNS = ("uri", "member", "start_s", "end_s", "start_frame", "end_frame", "shard", "key")
#: columns that look like a range and are none -> what is meant
_NO_COLUMNS = dict.fromkeys(("start", "begin", "start_sec", "begin_s", "start_time"), "start_s") | dict.fromkeys(
    ("end", "stop", "end_sec", "stop_s", "end_time"), "end_s"
)
SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")


def read_manifest(uri: str, config: Config) -> list[dict[str, Any]]:
    """Read a manifest in Parquet, CSV or JSON lines.

    Args:
        uri: full URI of the manifest; relative `uri` values in it are relative to its folder.
        config: `sources.clips_per_shard` and `storage.options` are used.

    Returns:
        Rows of `schema.CLIP`, in the manifest's order.

    Raises:
        ManifestError: a line is wrong; the message names the file, the line (the row in Parquet) and the column.
    """
    options = config.storage.options
    clips: list[dict[str, Any]] = []
    places: dict[tuple[Any, ...], str] = {}
    for place, line in _lines(uri, options):
        clip = _parse(line, uri, place)
        if not allowlist.is_allowed(clip["uri"], config.sources.allow):
            raise ManifestError(f"{place}, column 'uri': {allowlist.refusal(clip['uri'])}")
        identity = tuple(clip[name] for name in ("uri", "member", "start_s", "end_s", "start_frame", "end_frame"))
        if identity in places:
            raise ManifestError(f"{place}, column 'uri': the same clip as in {places[identity]}; remove one of them")
        places[identity] = place
        clips.append(clip)
    infos = look_up((clip["uri"] for clip in clips), options)
    listings = tar_index.list_tars((clip["uri"] for clip in clips if clip["member"] is not None), options)
    members = {tar: {member.name: member for member in listing.members} for tar, listing in listings.items()}
    prefix = files.shard_name(files.without_suffix(files.base_name(uri)), uri)
    for number, (clip, place) in enumerate(zip(clips, places.values(), strict=True)):
        info = infos[clip["uri"]]
        clip |= {"offset": None, "size": info and info.get("size"), "fingerprint": info and files.fingerprint(info)}
        if clip["member"] is not None and info is not None:
            member = members[clip["uri"]].get(clip["member"])
            if member is None and listings[clip["uri"]].problem is None:
                raise ManifestError(f"{place}, column 'member': {clip['uri']} has no member {clip['member']!r}")
            clip |= {"offset": member and member.offset, "size": member and member.size}
        name = clip["member"] or files.base_name(clip["uri"])
        clip["key"] = clip["key"] if clip["key"] is not None else files.without_suffix(name)
        slice_name = f"{prefix}-{number // config.sources.clips_per_shard:05d}"
        clip["shard"] = slice_name if clip["shard"] is None else files.explicit_shard_name(clip["shard"])
    return clips


def look_up(uris: Iterable[str], storage_options: Mapping[str, Any]) -> dict[str, dict[str, Any] | None]:
    """Look up fsspec's info of each file, several at once; None for a file that does not exist or may not be seen.

    Raises:
        ConfigError: the storage cannot be reached.
    """

    def look_up_one(uri: str) -> dict[str, Any] | None:
        try:
            fs, path = files.open_fs(uri, storage_options)
            return fs.info(path)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        except OSError as error:
            raise ConfigError(f"cannot look up {uri}: {error}") from error

    unique = list(dict.fromkeys(uris))
    for uri in {uri.partition("://")[0]: uri for uri in unique}.values():
        files.open_fs(uri, storage_options)[0].invalidate_cache()
    with ThreadPoolExecutor(tar_index.LOOKUP_THREADS) as pool:
        return dict(zip(unique, pool.map(look_up_one, unique), strict=True))


# -- lines ------------------------------------------------------------------------------------------------------------


def _lines(uri: str, storage_options: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The manifest's lines as (place for messages, column to value); a CSV's header is line 1, as in an editor."""
    with files.open_bytes(uri, storage_options) as file:
        if files.suffix(uri) == ".parquet":
            yield from _parquet_rows(uri, file)
            return
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            yield from (_csv_lines if files.suffix(uri) == ".csv" else _json_lines)(uri, text)
        except UnicodeDecodeError as error:
            raise ManifestError(f"{uri}: not UTF-8 text ({error.reason} at byte {error.start})") from error


def _parquet_rows(uri: str, file: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        table = pq.ParquetFile(file)
        _check_columns(uri, "schema", table.schema_arrow.names)
        columns = [name for name in COLUMNS if name in table.schema_arrow.names]
        number = 0
        for batch in table.iter_batches(columns=columns, use_threads=False):  # as in parquet._open_parquet
            for row in batch.to_pylist():
                number += 1
                yield f"{uri}, row {number}", row
    except pa.ArrowException as error:
        raise ManifestError(f"{uri} cannot be read as Parquet: {error}") from error


def _csv_lines(uri: str, text: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.reader(text, skipinitialspace=True, strict=True)
    names: list[str] | None = None
    line = 1
    try:
        for values in reader:
            place, line = f"{uri}, line {line}", reader.line_num + 1  # a quoted value may span lines: name its first
            if not values:
                continue
            if names is None:
                names = [value.strip() for value in values]
                _check_columns(uri, "line 1", names)
            elif len(values) != len(names):
                raise ManifestError(f"{place}: {len(values)} values, but the header names {len(names)} columns")
            else:
                yield place, {name: value for name, value in zip(names, values, strict=True) if value != ""}
    except csv.Error as error:
        raise ManifestError(f"{uri}, line {line}: not CSV: {error}") from error
    if names is None:
        raise ManifestError(f"{uri}: empty; its first line must name the columns, at least 'uri'")


def _json_lines(uri: str, text: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text, start=1):
        place = f"{uri}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ManifestError(f"{place}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ManifestError(f"{place}: must be an object with 'uri', found {type(row).__name__}")
        _check_columns(uri, f"line {number}", list(row))
        yield place, row


def _check_columns(uri: str, place: str, names: list[str]) -> None:
    if duplicates := sorted({name for name in names if names.count(name) > 1} & set(COLUMNS)):
        raise ManifestError(f"{uri}, {place}, column {duplicates[0]!r}: named twice")
    for name in names:
        meant = _NO_COLUMNS.get(name.lower())
        if meant is not None and meant not in names:
            frames = meant.replace("_s", "_frame")
            raise ManifestError(
                f"{uri}, {place}, column {name!r}: not read; a range has the columns start_s and end_s in seconds "
                f"(or start_frame and end_frame): rename it to {meant!r} or {frames!r}"
            )
    if "uri" not in names:
        close = difflib.get_close_matches("uri", [name.lower() for name in names], n=1, cutoff=0.5)
        hint = f"; did you mean {close[0]!r} to be it?" if close else ""
        raise ManifestError(f"{uri}, {place}, column 'uri': missing; found {', '.join(names) or 'no column'}{hint}")


# -- values -----------------------------------------------------------------------------------------------------------


def _parse(line: Mapping[str, Any], manifest: str, place: str) -> dict[str, Any]:
    """One checked line as the columns of `schema.CLIP` that it gives."""
    given = line.get("uri")
    if not isinstance(given, str) or not given.strip():
        raise ManifestError(f"{place}, column 'uri': {'empty' if given in (None, '') else f'not a path: {given!r}'}")
    uri = files.join_uri(files.parent_uri(manifest), given)
    try:
        files.check_protocol(uri)
    except ConfigError as error:
        raise ManifestError(f"{place}, column 'uri': {error}") from error
    texts = {name: None if line.get(name) in (None, "") else str(line[name]) for name in ("member", "shard", "key")}
    is_tar = files.suffix(uri) == ".tar"
    if texts["member"] is not None and not is_tar:
        raise ManifestError(f"{place}, column 'member': a member needs the uri of a .tar shard, found {given!r}")
    if texts["member"] is None and is_tar:
        raise ManifestError(f"{place}, column 'member': empty; say which file of the tar shard {given!r} is meant")
    start_s, end_s = (read_seconds(line.get(name), name, place) for name in ("start_s", "end_s"))
    if end_s is not None and end_s <= (start_s or 0.0):
        raise ManifestError(f"{place}, column 'end_s': {end_s:g} is not after start_s={start_s or 0.0:g}")
    first, end = (_frame_number(line.get(name), name, place) for name in ("start_frame", "end_frame"))
    by_frames = () if first is None and end is None else (first or 0, end)
    if by_frames and (start_s is not None or end_s is not None):
        raise ManifestError(f"{place}, column 'start_frame': the clip has a range in seconds too; give one of them")
    if end is not None and end <= (first or 0):
        raise ManifestError(f"{place}, column 'end_frame': {end} is not after start_frame={first or 0}")
    first = first or 0 if by_frames else None
    named = {"clip_id": files.clip_id(uri, texts["member"], start_s, end_s, *by_frames), "uri": uri, **texts}
    return {**named, "start_s": start_s, "end_s": end_s, "start_frame": first, "end_frame": end, "bbox": None}


def _frame_number(value: Any, column: str, place: str) -> int | None:
    if value is None or value == "":
        return None
    try:
        number = -1 if isinstance(value, bool) or float(value) != int(float(value)) else int(float(value))
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number < 0:
        raise ManifestError(f"{place}, column {column!r}: must be a frame number from 0 up, found {value!r}")
    return number


def read_seconds(value: Any, column: str, place: str) -> float | None:
    """A time in seconds, None if nothing is said; `place` and `column` are for the message.

    Raises:
        ManifestError: it is no finite number of at least 0.
    """
    if value is None or value == "":
        return None
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds) or seconds < 0:
        raise ManifestError(f"{place}, column {column!r}: must be seconds from 0 up, found {value!r}")
    return seconds
