"""Bundles: a bundle names a model for each slot, and resolves to an ordered list of models with files and versions.

A bundle is a name of actors/weights/catalog.py or a YAML file:

    extends: pyfeat                # optional: start from a named bundle
    models:
      face: {model: retinaface_mnet025, weights: weights/retinaface.safetensors}
      embeddings:
        factory: my_package.models:build_embedder      # called as build_embedder(weights, **parameters)
        weights: s3://bucket/embedder.safetensors      # a path relative to this file, or any fsspec URI
        input: aligned112                              # frames | crops112 | crops224 | aligned112 | landmarks
        same_person_cosine: 0.33                       # embeddings only
        switch_cosine: 0.1                             # embeddings only, optional
        parameters: {width: 512}
      emotions: none

The YAML file's folder is importable for factories. Resolving needs no torch, so it can run where no model can.
"""

import hashlib
import importlib
import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from actors.errors import BundleError, MissingWeightsError
from actors.weights import cache as weight_cache
from actors.weights.cache import Access, FileRef, noted_digest
from actors.weights.catalog import BUNDLES, INPUTS, MODELS, ModelCard
from actors.weights.locate import locate_files
from actors.weights.mirror import Mirror, open_mirror
from pipeline.schema import SLOTS


class Entry(BaseModel):
    """One slot of a bundle file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = None
    factory: str | None = None
    weights: str | dict[str, str] | None = None
    parameters: dict[str, Any] = {}
    input: Literal["frames", "crops112", "crops224", "wide224", "aligned112", "landmarks", "hog112"] | None = None
    same_person_cosine: float | None = None
    switch_cosine: float | None = None
    align_on: Literal["detector", "landmarks"] | None = None
    thread_safe: bool = False
    license: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _rename_licence(cls, values: Any) -> Any:
        if isinstance(values, dict) and "licence" in values:
            warnings.warn("bundle setting 'licence' is now 'license'; rename it", FutureWarning, stacklevel=2)
            values = {"license" if name == "licence" else name: value for name, value in values.items()}
        return values

    @model_validator(mode="after")
    def _model_or_factory(self) -> "Entry":
        if (self.model is None) == (self.factory is None):
            raise ValueError("give either 'model' (a name that Faceatlas knows) or 'factory' (package.module:function)")
        if self.factory is not None and ":" not in self.factory:
            raise ValueError(f"factory {self.factory!r}: write it as package.module:function")
        if self.factory is not None and self.input is None:
            raise ValueError(f"a factory must state its 'input': one of {', '.join(INPUTS[:-1])}")
        if self.thread_safe and self.factory is None:
            raise ValueError("'thread_safe' is for models of a factory; those that Faceatlas knows all are")
        return self

    def own_files(self) -> dict[str, str]:
        """Role -> path or URI of the weight files that the entry names."""
        return {"weights": self.weights} if isinstance(self.weights, str) else dict(self.weights or {})


@dataclass(frozen=True)
class Model:
    """A resolved model: all that an actor on any machine needs to load it, and the version of its table.

    Attributes:
        slot: the slot it fills.
        name: the catalog's name, or the factory.
        builder: `module:function`.
        is_factory: the builder is the user's: called with `weights` instead of `files`.
        input: one of catalog.INPUTS.
        files: role -> file.
        parameters: keyword arguments of the builder.
        import_path: folder that is put on the import path for a factory.
        needs: slots whose results it reads.
        align_on: for aligned112: `detector` or `landmarks`.
        thread_safe: several threads may call it at once.
        points: a face model that gives five points.
        poses: a face model that gives head poses.
        same_person_cosine, switch_cosine: for embeddings.
        license: of the weights.
        research_only: the license forbids commercial use.
        precision: kind of device -> dtype of the network; float32 where not named.
        version: 12 hex digits; names the version of the slot's table.
    """

    slot: str
    name: str
    builder: str
    is_factory: bool
    input: str
    files: Mapping[str, FileRef]
    parameters: Mapping[str, Any]
    import_path: str | None
    needs: tuple[str, ...]
    align_on: str | None
    thread_safe: bool
    points: bool
    poses: bool
    same_person_cosine: float | None
    switch_cosine: float | None
    license: str
    research_only: bool
    precision: Mapping[str, str]
    version: str


@dataclass(frozen=True)
class Bundle:
    """A resolved bundle: its models in the order in which they run."""

    name: str
    models: tuple[Model, ...] = field(default_factory=tuple)

    @property
    def versions(self) -> dict[str, str]:
        """Slot -> version."""
        return {model.slot: model.version for model in self.models}

    @property
    def left_out(self) -> tuple[str, ...]:
        """Slots that no model fills."""
        return tuple(slot for slot in SLOTS if slot not in self.versions)

    def slot(self, name: str) -> Model | None:
        """The model of a slot; None if the bundle leaves it empty."""
        return next((model for model in self.models if model.slot == name), None)


def read_bundle(bundle: str) -> tuple[str, dict[str, Entry], Path | None]:
    """Name, entries by slot, and folder of a bundle.

    Args:
        bundle: a name or a YAML file; the folder of a named bundle is None.

    Raises:
        BundleError: no such bundle, or the file is wrong; the message names the slot and the setting.
    """
    if bundle in BUNDLES:
        return bundle, {slot: Entry(model=model) for slot, model in BUNDLES[bundle].items()}, None
    path = Path(bundle)
    if path.suffix not in (".yaml", ".yml"):
        raise BundleError(f"no bundle {bundle!r}; known are {', '.join(BUNDLES)}; or give a .yaml file")
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise BundleError(f"cannot read the bundle {bundle}: {error}") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("models"), dict):
        raise BundleError(f"bundle {bundle}: expected a section 'models:' with one entry per slot")
    if unknown := set(tree) - {"name", "extends", "models"}:
        raise BundleError(
            f"bundle {bundle}: unknown setting {', '.join(sorted(unknown))}; there are name, extends, models"
        )
    base = tree.get("extends")
    if base is not None and base not in BUNDLES:
        raise BundleError(f"bundle {bundle}: extends {base!r}, which is none of {', '.join(BUNDLES)}")
    entries = {slot: Entry(model=model) for slot, model in BUNDLES.get(base or "", {}).items()}
    for slot, value in tree["models"].items():
        if slot not in SLOTS:
            raise BundleError(f"bundle {bundle}: no slot {slot!r}; there are {', '.join(SLOTS)}")
        if value in (None, "none"):
            entries.pop(slot, None)
            continue
        try:
            entries[slot] = Entry.model_validate({"model": value} if isinstance(value, str) else value)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
            raise BundleError(f"bundle {bundle}, slot {slot}: {problems}") from error
    return str(tree.get("name") or path.stem), entries, path.resolve().parent


def resolve_bundle(
    bundle: str,
    sampling: str = "",
    mirror: str | None = None,
    cache: str | None = None,
    *,
    revisions: Mapping[str, str] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> Bundle:
    """Locate every file of a bundle and compute the versions.

    Args:
        bundle: name or YAML file.
        sampling: version of the steps before the models (which frames are decoded); every version depends on it.
        mirror: folder laid out like the hub, any fsspec URI; None: the hub.
        cache: folder for files fetched from the hub or from URIs.
        revisions: hub repository -> commit, for repositories whose card pins none; the default branch where it names
            none either. The commit that a file was taken from is its `FileRef.revision`.
        storage_options: for fsspec, of the mirror and of files given as URIs.

    Raises:
        BundleError: the bundle is wrong.
        MissingWeightsError: a file is not available; the message names the model, the file and the remedy.
        DigestError: checksum mismatch of a file of the mirror.
    """
    name, entries, folder = read_bundle(bundle)
    if "face" not in entries:
        raise BundleError(
            f"bundle {name}: every bundle needs a model for the slot 'face'; the others work on its boxes"
        )
    access = Access(cache, storage_options or {}, revisions or {})
    origin = _Origin(name, folder, open_mirror(mirror, access.options) if mirror is not None else None, access)
    models: dict[str, Model] = {}
    for slot in SLOTS:
        if slot in entries:
            models[slot] = _resolve(slot, entries[slot], models, sampling, origin)
    return Bundle(name, tuple(models.values()))


@dataclass(frozen=True)
class _Origin:
    """Where the files of all models of a bundle come from.

    Attributes:
        bundle: its name, for messages.
        folder: of the bundle file; None for a named bundle.
        mirror: in place of the hub, if any.
        access: cache, storage options and revisions.
    """

    bundle: str
    folder: Path | None
    mirror: Mirror | None
    access: Access


def _resolve(slot: str, entry: Entry, before: Mapping[str, Model], sampling: str, origin: _Origin) -> Model:
    """The model of a slot; `before` are those of the slots before it."""
    name = entry.model or entry.factory or ""
    where = f"bundle {origin.bundle}, slot {slot}, model {name}"
    card = _card(where, slot, entry)
    kind = entry.input or card.input
    _check_input(where, slot, kind, before)
    align_on = None
    if kind == "aligned112":
        align_on = entry.align_on or ("detector" if before["face"].points else "landmarks")
    needs = _needs(where, slot, kind, align_on, before)
    files = _locate(where, entry, card, origin)
    digests = {role: ref.digest for role, ref in sorted(files.items())}
    content = [name, card.algorithm, kind, align_on, dict(entry.parameters), digests]
    return Model(
        slot=slot,
        name=name,
        builder=card.builder,
        is_factory=entry.factory is not None,
        input=kind,
        files=files,
        parameters=dict(entry.parameters),
        import_path=str(origin.folder) if origin.folder is not None else None,
        needs=needs,
        align_on=align_on,
        thread_safe=entry.factory is None or entry.thread_safe,
        points=card.points or bool(entry.factory and slot == "face"),
        poses=card.poses,
        same_person_cosine=_same_person_cosine(where, slot, entry, card),
        switch_cosine=entry.switch_cosine if entry.switch_cosine is not None else card.switch_cosine,
        license=entry.license or card.license,
        research_only=card.research_only,
        precision=card.precision,
        version=_version(content, [sampling, *(before[need].version for need in needs)]),
    )


def _check_input(where: str, slot: str, kind: str, before: Mapping[str, Model]) -> None:
    """Raise BundleError if a model of the slot cannot read this input, or the face model does not give it."""
    if (kind == "frames") != (slot == "face"):
        raise BundleError(f"{where}: input {kind!r} does not fit; a face model reads frames, all others faces")
    if slot == "landmarks" and kind not in ("crops112", "wide224"):
        raise BundleError(f"{where}: input {kind!r} does not fit; a landmark model reads crops112 or wide224")
    if kind == "detector" and not before["face"].poses:
        givers = [model for model, face in MODELS["face"].items() if face.poses]
        raise BundleError(
            f"{where}: it reads the pose that the face model gives, and {before['face'].name} gives none; "
            f"fill the slot face with {' or '.join(givers)}, or the slot pose with pose_mlp"
        )


def _needs(where: str, slot: str, kind: str, align_on: str | None, before: Mapping[str, Model]) -> tuple[str, ...]:
    """Slots whose results a model reads; BundleError if the bundle does not fill them."""
    if slot == "face":
        return ()
    if kind not in ("landmarks", "hog112") and align_on != "landmarks":
        return ("face",)
    if "landmarks" not in before:
        raise BundleError(f"{where}: it needs landmarks, and the bundle has no model for that slot")
    return "face", "landmarks"


def _same_person_cosine(where: str, slot: str, entry: Entry, card: ModelCard) -> float | None:
    cosine = entry.same_person_cosine if entry.same_person_cosine is not None else card.same_person_cosine
    if slot == "embeddings" and cosine is None:
        raise BundleError(
            f"{where}: an embedding model must state 'same_person_cosine'; thresholds differ between models"
        )
    return cosine


def _locate(where: str, entry: Entry, card: ModelCard, origin: _Origin) -> dict[str, FileRef]:
    """Role -> file of a model: those that the entry names, and of its card for the other roles."""
    given = entry.own_files()
    if unknown := set(given) - set(card.files) if entry.model else set():
        raise BundleError(
            f"{where}: it has no file {', '.join(sorted(unknown))}; it has {', '.join(card.files) or 'none'}"
        )
    return locate_files(where, given, card.files, origin.folder, origin.mirror, origin.access)


def _version(content: Sequence[Any], depends: Sequence[str]) -> str:
    """12 hex digits that change with a model's own content, and with the versions that it depends on."""
    return hashlib.blake2b(json.dumps([content, depends], sort_keys=True).encode(), digest_size=6).hexdigest()


def _card(where: str, slot: str, entry: Entry) -> ModelCard:
    """The card of an entry's model; BundleError if the slot has no such model."""
    if entry.model is None:
        return ModelCard(entry.factory or "", entry.input or "")
    known = MODELS.get(slot, {})
    if entry.model in known:
        return known[entry.model]
    if others := [other for other, models in MODELS.items() if entry.model in models]:
        raise BundleError(f"{where}: this model fills the slot {' and '.join(map(repr, others))}")
    raise BundleError(f"{where}: no model {entry.model!r}; this slot has {', '.join(known) or 'none'}")


def build_model(model: Model, cache: str | None = None, storage_options: Mapping[str, Any] | None = None) -> Any:
    """Load a resolved model on this machine, on the CPU; for its calling convention see actors/models.

    Args:
        model: of a bundle.
        cache: folder for weight files fetched from URIs; None: the user's.
        storage_options: for fsspec.

    Raises:
        MissingWeightsError: a file is gone, or its checksum differs from that of the planned run.
        StateDictError: the file does not fit the model.
        BundleError: the factory cannot be imported.
    """
    files = {role: weight_cache.fetch(ref, cache, storage_options) for role, ref in model.files.items()}
    for role, path in files.items():
        if noted_digest(path, cache) != model.files[role].digest:
            raise MissingWeightsError(
                f"model {model.name}: {path} changed since the run was planned; start the run again"
            )
    module_name, _, function = model.builder.partition(":")
    if model.import_path is not None and model.import_path not in sys.path:
        sys.path.append(model.import_path)
    try:
        builder = getattr(importlib.import_module(module_name), function)
    except (ImportError, AttributeError) as error:
        raise BundleError(
            f"slot {model.slot}: cannot import {model.builder} ({error}); is it installed on every node?"
        ) from error
    if not model.is_factory:
        return builder(files, **model.parameters)
    weights = files.get("weights") if set(files) <= {"weights"} else files
    return builder(weights, **model.parameters)
