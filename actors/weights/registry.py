"""The registry of hub files of the models that Faceatlas knows by name, and copying them to a mirror."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import MissingWeightsError, UnreachableError
from actors.weights import cache as weight_cache
from actors.weights.bundles import read_bundle
from actors.weights.cache import noted_digest
from actors.weights.catalog import MODELS, HubFile, ModelCard
from actors.weights.mirror import Record, put_file
from pipeline.schema import SLOTS


@dataclass(frozen=True)
class RegistryEntry:
    """A hub file of a model that Faceatlas knows by name.

    Attributes:
        slot, model: the model that reads it.
        role: which of its files it is.
        card: of the model.
        file: location on the hub.
    """

    slot: str
    model: str
    role: str
    card: ModelCard
    file: HubFile

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths below a mirror at which it may be: under its name, then under older ones."""
        return tuple(f"{self.file.repo}/{name}" for name in self.file.names)


def registry_entries(bundle: str | None = None) -> list[RegistryEntry]:
    """The hub files of all known models, or of those of a bundle for which it names no file of its own.

    Args:
        bundle: a name or a YAML file; None: all known models.

    Raises:
        BundleError: no such bundle.
    """
    models: Iterable[tuple[str, str, frozenset[str]]]
    if bundle is None:
        models = [(slot, model, frozenset()) for slot in SLOTS for model in MODELS.get(slot, {})]
    else:
        models = []
        for slot, entry in read_bundle(bundle)[1].items():
            if entry.model is not None and entry.model in MODELS.get(slot, {}):
                models.append((slot, entry.model, frozenset(entry.own_files())))
    found = []
    for slot, model, given in models:
        card = MODELS[slot][model]
        for role, file in card.files.items():
            if isinstance(file, HubFile) and role not in given:
                found.append(RegistryEntry(slot, model, role, card, file))
    return found


def local_copy(entry: RegistryEntry, cache: str | None = None) -> Path | None:
    """The file of the pinned or newest commit in the hub's cache of this machine; None if it is not there."""
    from huggingface_hub import try_to_load_from_cache

    for name in entry.file.names:
        path = try_to_load_from_cache(
            entry.file.repo, name, cache_dir=weight_cache.hub_cache(cache), revision=entry.file.revision or "main"
        )
        if isinstance(path, str):
            return Path(path)
    return None


@dataclass(frozen=True)
class Outcome:
    """The outcome of one file in `pull` or `verify`.

    Attributes:
        path: below the mirror, or on this machine.
        state: `pulled`, `unchanged`, `failed` of `pull`; `ok`, `differs`, `missing`, `unrecorded` of `verify`.
        message: why, for people; empty where all is well.
        size: bytes, where known.
    """

    path: str
    state: str
    message: str = ""
    size: int | None = None

    @property
    def ok(self) -> bool:
        """Whether the file matches its record, so that nothing has to be done."""
        return self.state in ("pulled", "unchanged", "ok")


def pull(
    entries: Sequence[RegistryEntry],
    to: str,
    options: Mapping[str, Any] | None = None,
    cache: str | None = None,
) -> Iterator[Outcome]:
    """Copy files from the hub to a mirror, one by one; a file that fails does not stop the others.

    `mirror.json` is written after each file, so that an interrupted pull continues where it stopped.

    Args:
        entries: the files.
        to: the mirror, a path or any fsspec URI.
        options: for fsspec.
        cache: cache folder; files go through the hub's cache in it.

    Yields:
        One outcome per file: `pulled`, `unchanged` or `failed`.

    Raises:
        UnreachableError: the hub does not answer.
        WeightsError: the mirror cannot be read or written.
    """
    done: set[tuple[str, str]] = set()
    for entry in entries:
        if (entry.file.repo, entry.file.names[0]) in done:
            continue  # two models may share a file
        done.add((entry.file.repo, entry.file.names[0]))
        try:
            path, name, commit = weight_cache.fetch_hub(entry.file.repo, entry.file.names, entry.file.revision, cache)
            record = Record(
                noted_digest(path, cache), path.stat().st_size, commit, entry.card.license, entry.card.research_only
            )
        except UnreachableError:
            raise  # the other files would fail too, after half a minute each
        except MissingWeightsError as error:
            yield Outcome(entry.paths[0], "failed", str(error))
            continue
        is_new = put_file(to, f"{entry.file.repo}/{name}", path, record, options)
        yield Outcome(f"{entry.file.repo}/{name}", "pulled" if is_new else "unchanged", size=record.size)
