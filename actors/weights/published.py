"""The hub files of the models that Faceatlas knows by name: which there are, and copying them to a mirror."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from actors.errors import MissingWeightsError, UnreachableError
from actors.weights import cache as weight_cache
from actors.weights.bundles import read_bundle
from actors.weights.cache import noted_digest
from actors.weights.catalog import MODELS, SLOTS, HubFile, ModelCard
from actors.weights.mirror import Record, put_file


@dataclass(frozen=True)
class Published:
    """A file of a model that Faceatlas knows by name, and that lies on the hub.

    Attributes:
        slot, model, role: whose file it is.
        card: of the model.
        file: where it is published.
    """

    slot: str
    model: str
    role: str
    card: ModelCard
    file: HubFile

    @property
    def paths(self) -> tuple[str, ...]:
        """Where it may lie below a mirror: under its name, then under older ones."""
        return tuple(f"{self.file.repo}/{name}" for name in self.file.names)


def published(bundle: str | None = None) -> list[Published]:
    """The hub files of all known models, or of those of a bundle for which it names no file of its own.

    Raises:
        BundleError: no such bundle.
    """
    models: Iterable[tuple[str, str, frozenset[str]]]
    if bundle is None:
        models = [(slot, model, frozenset()) for slot in SLOTS for model in MODELS.get(slot, {})]
    else:
        models = []
        for slot, entry in read_bundle(bundle)[1].items():
            own = {"weights"} if isinstance(entry.weights, str) else set(entry.weights or ())
            if entry.model is not None and entry.model in MODELS.get(slot, {}):
                models.append((slot, entry.model, frozenset(own)))
    found = []
    for slot, model, given in models:
        card = MODELS[slot][model]
        for role, file in card.files.items():
            if isinstance(file, HubFile) and role not in given:
                found.append(Published(slot, model, role, card, file))
    return found


def local_copy(item: Published, cache: str | None = None) -> Path | None:
    """The file of the newest commit in the hub's cache of this machine, if it is there."""
    from huggingface_hub import try_to_load_from_cache

    for name in item.file.names:
        path = try_to_load_from_cache(
            item.file.repo, name, cache_dir=weight_cache.hub_cache(cache), revision=item.file.revision or "main"
        )
        if isinstance(path, str):
            return Path(path)
    return None


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

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
    def complete(self) -> bool:
        """Whether nothing has to be done."""
        return self.state in ("pulled", "unchanged", "ok")


def pull(
    items: Sequence[Published],
    to: str,
    options: Mapping[str, Any] | None = None,
    cache: str | None = None,
) -> Iterator[Outcome]:
    """Copy files from the hub to a mirror, one by one; a file that fails does not keep the others back.

    `mirror.json` is written after each file, so that what an interrupted pull has done counts.

    Args:
        items: the files.
        to: the mirror, a path or any fsspec URI.
        options: for fsspec.
        cache: cache folder; files go through the hub's cache in it.

    Raises:
        UnreachableError: the hub does not answer.
        WeightsError: the mirror cannot be read or written.
    """
    done: set[tuple[str, str]] = set()
    for item in items:
        if (item.file.repo, item.file.names[0]) in done:
            continue  # two models may share a file
        done.add((item.file.repo, item.file.names[0]))
        try:
            path, name, commit = weight_cache.fetch_hub(item.file.repo, item.file.names, item.file.revision, cache)
            record = Record(
                noted_digest(path, cache), path.stat().st_size, commit, item.card.license, item.card.research_only
            )
        except UnreachableError:
            raise  # so it will for all other files, after half a minute each
        except MissingWeightsError as error:
            yield Outcome(item.paths[0], "failed", str(error))
            continue
        is_new = put_file(to, f"{item.file.repo}/{name}", path, record, options)
        yield Outcome(f"{item.file.repo}/{name}", "pulled" if is_new else "unchanged", size=record.size)
