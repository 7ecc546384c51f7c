"""The roots that the files of a corpus may lie under, where `sources.allow` names some.

A manifest may come from somebody else: its lines must not lead a run to files, servers or buckets that nobody meant
to open to it. A URI is inside a root only by its own letters, so whatever another part of the way could read
differently is outside: `..`, also percent-encoded, chains of protocols (`zip://...::...`), and user names in
addresses. For local files the links count as well: a file is where its real path is.

Not covered: a web server below an allowed root may redirect, and a link may be changed between the check, which each
worker repeats right before it opens the file, and the opening.
"""

import os
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

from pipeline.storage import fs


def is_allowed(uri: str, roots: Sequence[str] | None) -> bool:
    """Whether a file may be opened.

    Args:
        uri: full URI of the file.
        roots: folders as paths or URIs; None allows everything.
    """
    if roots is None:
        return True
    return any(_is_inside(uri, fs.normalise_uri(root)) for root in roots)


def refusal(uri: str) -> str:
    """What to say of a file that lies elsewhere."""
    return f"{uri} lies outside the roots that sources.allow names"


def _is_inside(uri: str, root: str) -> bool:
    if uri.startswith("file://"):
        return root.startswith("file://") and _is_below(_real(uri), _real(root))
    if "::" in uri or _climbs(uri) or "@" in urlsplit(uri).netloc or "\\" in uri:
        return False
    return _is_below(uri, root)


def _is_below(path: str, folder: str) -> bool:
    folder = folder.rstrip("/")
    return path == folder or path.startswith(folder + "/")


def _real(uri: str) -> str:
    return os.path.realpath(uri.removeprefix("file://"))


def _climbs(uri: str) -> bool:
    """Whether some reader of a URI could take a part of it for the folder above; encoding may be done twice."""
    path = unquote(unquote(uri)).replace("\\", "/")
    return ".." in path.split("/")
