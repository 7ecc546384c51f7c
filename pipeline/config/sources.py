"""Sources of settings: a YAML file, the environment and assignments `a.b=c`; later sources take precedence.

pydantic-settings merges them. Values are read as YAML in all three, so that `null`, `0.5` and `{decode: 1}` mean the
same wherever they stand; its own environment source reads JSON and passes over unknown names.
"""

import difflib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.errors import ConfigError

ENV_PREFIX = "FACEATLAS__"


def read_yaml(file: str | Path) -> dict[str, Any]:
    """The settings of a YAML file as a tree of dicts.

    Raises:
        ConfigError: there is no such file, or it is not YAML with sections.
    """
    try:
        tree = yaml.safe_load(Path(file).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the configuration {file}: {error}") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"the configuration {file} must hold sections such as 'decode:', found {type(tree).__name__}")
    return {str(name): value for name, value in tree.items()}


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings of variables such as FACEATLAS__ACTORS__GPUS=0.5 as a tree."""
    return _tree(
        (name.removeprefix(ENV_PREFIX).lower().replace("__", "."), name, value)
        for name, value in sorted(environment.items())
        if name.startswith(ENV_PREFIX)
    )


def read_assignments(assignments: Iterable[str]) -> dict[str, Any]:
    """The settings of assignments such as `decode.every=5` as a tree.

    Raises:
        ConfigError: one has no `=`, or its value is not YAML.
    """
    found = []
    for assignment in assignments:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--set {assignment!r}: write it as section.name=value, for example decode.every=5")
        found.append((path.strip(), f"--set {path}", value))
    return _tree(found)


def _tree(settings: Iterable[tuple[str, str, str]]) -> dict[str, Any]:
    """Settings as (dotted path, where it stands, YAML) in one tree.

    A mapping that is stated whole becomes a read-only one: pydantic-settings merges dicts alone, so it replaces what a
    weaker source says.
    """
    tree: dict[str, Any] = {}
    for path, place, text in settings:
        *parents, leaf = path.split(".")
        node = tree
        for name in parents:
            if isinstance(inner := node.setdefault(name, {}), MappingProxyType):
                node[name] = inner = dict(inner)
            if not isinstance(inner, dict):
                raise ConfigError(f"setting {path!r}: {name!r} is a value, not a section")
            node = inner
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:  # its message repeats the text, which may be a secret
            raise ConfigError(f"{place}: the value cannot be read as YAML; put it in quotes") from None
        if isinstance(value, dict) and parents:
            value = MappingProxyType(value)
        elif isinstance(value, dict):
            value = {key: MappingProxyType(of) if isinstance(of, dict) else of for key, of in value.items()}
        node[leaf] = value
    return tree


def rename(tree: dict[str, Any], renamed: Mapping[str, str]) -> dict[str, Any]:
    """Give settings of a source their new names; warns of each old one.

    Args:
        tree: changed in place, and returned.
        renamed: old dotted name -> new dotted name, in the same section.

    Raises:
        ConfigError: the source states both names.
    """
    for old, new in renamed.items():
        section, name = old.split(".")
        values, new_name = tree.get(section), new.split(".")[1]
        if not isinstance(values, dict) or name not in values:
            continue
        if new_name in values:
            raise ConfigError(f"{old} is the old name of {new}; state only {new}")
        values[new_name] = values.pop(name)
        warnings.warn(
            f"the setting {old} is now called {new}; the old name works until the next release",
            FutureWarning,
            stacklevel=4,
        )
    return tree


def merge_trees(trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge trees of settings; later ones take precedence.

    Sections are merged setting by setting. A setting that holds a mapping, such as `decode.resources`, is replaced
    where a later source states it whole, and amended where that states single keys (`storage.options.anon=true`).
    """
    from pydantic_settings import (
        BaseSettings,
        InitSettingsSource,
        PydanticBaseSettingsSource,
    )  # half of all imports here

    for i, weaker in enumerate(trees):
        for stronger in trees[i + 1 :]:
            _amend(weaker, stronger)

    class Merged(BaseSettings, extra="allow"):
        @classmethod
        def settings_customise_sources(
            cls, settings_cls: type[BaseSettings], *_: Any, **__: Any
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(InitSettingsSource(settings_cls, tree) for tree in reversed(trees))

    return dict(Merged().model_extra or {})


def _amend(weaker: dict[str, Any], stronger: dict[str, Any]) -> None:
    """Let single keys of a stronger source amend a mapping that a weaker source states whole."""
    for section, values in weaker.items():
        other = stronger.get(section)
        if isinstance(values, dict) and isinstance(other, dict):
            for name, value in values.items():
                if isinstance(value, MappingProxyType) and isinstance(other.get(name), dict):
                    values[name] = dict(value)


def explain(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with some settings, in words; an unknown one is answered with the likeliest known one."""
    problems = []
    for item in error.errors(include_input=False, include_url=False):
        path = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            meant = closest(path, list(names(model, item["loc"])))
            hint = f"did you mean {meant}?" if meant else "`faceatlas config` prints all settings"
            problems.append(f"unknown setting {path}; {hint}")
        else:
            problems.append(f"{path or 'configuration'}: {item['msg']}")
    return "; ".join(problems)


def closest(path: str, known: list[str]) -> str | None:
    """The known setting that is most like a path: the same name in another section, else the most similar name."""
    leaf = path.rsplit(".", 1)[-1]
    same = [name for name in known if name.rsplit(".", 1)[-1] == leaf]
    likely = difflib.get_close_matches(path, same or known, n=1, cutoff=0.0 if same else 0.6)
    return likely[0] if likely else None


def names(model: type[BaseModel], place: tuple[int | str, ...] = (), before: str = "") -> Iterator[str]:
    """Dotted names of the sections and settings of a model; entries of lists under the indices that `place` holds."""
    for name, field in model.model_fields.items():
        yield before + name
        inner, rest = field.annotation, f"{before}{name}."
        if entries := [kind for kind in get_args(inner) if isinstance(kind, type) and issubclass(kind, BaseModel)]:
            index = next((part for part in place if isinstance(part, int)), 0)
            inner, rest = entries[0], f"{rest}{index}."
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from names(inner, place, rest)
