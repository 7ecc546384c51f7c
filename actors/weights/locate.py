"""Locations of a model's files: in the bundle, in the package, in a mirror or on the hub; fetched and checked."""

import os
from collections.abc import Mapping
from pathlib import Path

from actors.errors import DigestError, MissingWeightsError
from actors.weights import cache
from actors.weights.cache import Access, FileRef, noted_digest
from actors.weights.catalog import HubFile, PackageFile
from actors.weights.mirror import MANIFEST, Mirror
from actors.weights.state_dict import file_digest

_BAD_MIRROR = "Pull it again (faceatlas models pull --to), and check the other files with faceatlas models verify."


def locate_files(
    where: str,
    given: Mapping[str, str],
    registered: Mapping[str, HubFile | PackageFile],
    folder: Path | None,
    mirror: Mirror | None,
    access: Access,
) -> dict[str, FileRef]:
    """Role -> file of a model, fetched to this machine so that its digest is known.

    Args:
        where: bundle, slot and model, for messages.
        given: role -> path or URI that a bundle names.
        registered: role -> location by the model's card; used for the roles that are not given.
        folder: of the bundle file; paths are relative to it.
        mirror: in place of the hub; None: the hub.
        access: cache, storage options and revisions.

    Raises:
        MissingWeightsError: a file is not available; the message names the model, the file and the remedy.
        DigestError: checksum mismatch of a file of the mirror.
    """
    refs: dict[str, FileRef] = {}
    for role, location in given.items():
        uri = os.path.expandvars(location)
        if "://" not in uri and folder is not None:
            uri = str((folder / uri).resolve())
        try:
            path = cache.fetch_uri(uri, access.cache, access.options)
        except FileNotFoundError as error:
            raise MissingWeightsError(
                f"{where}: its {role} file {uri} is missing; correct 'weights' in the bundle"
            ) from error
        except MissingWeightsError as error:
            raise MissingWeightsError(f"{where}: its {role} file {error}; see also storage.options") from error
        refs[role] = FileRef(noted_digest(path, access.cache), uri=uri)
    for role, file in registered.items():
        if role in refs:
            continue
        if isinstance(file, PackageFile):
            refs[role] = FileRef(file_digest(Path(__file__).parents[1] / file.name), package=file.name)
        elif mirror is not None:
            refs[role] = _locate_in_mirror(where, file, mirror, access)
        else:
            refs[role] = _locate_on_hub(where, file, access)
    return refs


def _locate_on_hub(where: str, file: HubFile, access: Access) -> FileRef:
    """A file of the hub, at the commit of its card or of the last run."""
    revision = file.revision or access.revisions.get(file.repo)
    try:
        path, name, commit = cache.fetch_hub(file.repo, file.names, revision, access.cache)
    except MissingWeightsError as error:
        raise MissingWeightsError(
            f"{where}: file {file.names[0]} of hub repository {file.repo}: {error}. {_remedy(file)}"
        ) from error
    return FileRef(noted_digest(path, access.cache), repo=file.repo, name=name, revision=commit)


def _locate_in_mirror(where: str, file: HubFile, mirror: Mirror, access: Access) -> FileRef:
    """A file of a mirror, checked against its record there."""
    expected_commit = file.revision or access.revisions.get(file.repo)
    for name in file.names:
        record = mirror.records.get(f"{file.repo}/{name}")
        uri = mirror.file(f"{file.repo}/{name}")
        held = record.revision if record is not None else None
        if expected_commit is not None and held is not None and expected_commit != held:
            raise MissingWeightsError(
                f"{where}: the mirror {mirror.uri} holds commit {held} of {file.repo}, and this run asks for "
                f"{expected_commit}, which the card pins or the last run used. Pull that commit into the mirror, or "
                "let this run follow the mirror (--follow-models)."
            )
        expected = record.sha256 if record is not None else None
        try:
            path = cache.fetch_uri(uri, access.cache, access.options, expected)
        except FileNotFoundError:
            continue
        except MissingWeightsError as error:
            raise MissingWeightsError(f"{where}: {error}; see also storage.options") from error
        except DigestError as error:
            raise DigestError(f"{where}: {error}. {_BAD_MIRROR}") from error
        sha256 = noted_digest(path, access.cache)
        if expected is not None and sha256 != expected:
            raise DigestError(
                f"{where}: checksum mismatch of {uri}: SHA-256 {sha256}, {MANIFEST} records {expected}. {_BAD_MIRROR}"
            )
        return FileRef(sha256, uri=uri, repo=file.repo, name=name, revision=held)
    raise MissingWeightsError(
        f"{where}: the mirror {mirror.uri} has no file {file.repo}/{' or '.join(file.names)}. {_remedy(file)}"
    )


def _remedy(file: HubFile) -> str:
    return (
        "Give this machine access to the hub; or set models.mirror to a folder (any fsspec URI) laid out like it, here "
        f"<mirror>/{file.repo}/{file.names[0]}, which 'faceatlas models pull --to' fills; or name the file in a bundle "
        "of your own ('weights:'); or take a bundle without downloads: --bundle tiny."
    )
