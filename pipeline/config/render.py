"""The settings as text: YAML with comments, and the page docs/configuration.md."""

import json

from pipeline.config.models import RENAMED, Config, PoolConfig
from pipeline.config.sources import ENV_PREFIX


def to_yaml(config: Config) -> str:
    """The configuration as commented YAML, which `--config` reads back."""
    lines = []
    for section, section_field in type(config).model_fields.items():
        values = getattr(config, section)
        lines.append(f"# {(type(values).__doc__ or section_field.description or '').splitlines()[0]}")
        lines.append(f"{section}:")
        for name, item in type(values).model_fields.items():
            lines.append(f"  # {item.description}")
            # every JSON value is a YAML value, on one line
            lines.append(f"  {name}: {json.dumps(values.model_dump(mode='json')[name])}")
        lines.append("")
    return "\n".join(lines)


def to_markdown() -> str:
    """Every setting with its type, default and meaning, as docs/configuration.md holds them."""
    lines = [
        "# Configuration",
        "",
        "Made by `faceatlas config --markdown`; a test keeps it up to date. Settings come from a YAML file",
        f"(`--config run.yaml`), from environment variables such as `{ENV_PREFIX}DECODE__EVERY=5`, and from",
        "`--set decode.every=5`; later sources take precedence. `faceatlas config` prints them as YAML,",
        "which `--config` reads back.",
        "",
        "Values are YAML everywhere. A mapping such as `decode.resources` is replaced by a later source that states it",
        "whole, and amended by single keys (`--set storage.options.anon=true`). An unknown setting is refused.",
        "",
        "Old names work until the next release, with a warning:",
        "",
        "| old name | name |",
        "|---|---|",
        *(f"| `{old}` | `{new}` |" for old, new in RENAMED.items()),
    ]
    for section, field in Config.model_fields.items():
        model = type(getattr(Config(), section))
        lines += [
            "",
            f"## {section}",
            "",
            (model.__doc__ or field.description or "").splitlines()[0],
            "",
            *_table(model),
        ]
        if section == "actors":
            lines += ["", "Each entry of `actors.pools`:", "", *_table(PoolConfig)]
    return "\n".join(lines) + "\n"


def _table(model: type) -> list[str]:
    schema = model.model_json_schema()  # type: ignore[attr-defined]
    rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for name, item in schema["properties"].items():
        default = json.dumps(item.get("default", {}))
        rows.append(f"| `{name}` | {_kind(item)} | `{default}` | {item.get('description', '')} |")
    return rows


def _kind(item: dict) -> str:
    if "anyOf" in item:
        return " or ".join(_kind(part) for part in item["anyOf"])
    if "$ref" in item:
        return "pool"
    kind = item.get("type", "any")
    if kind == "array":
        return f"list of {_kind(item.get('items', {}))}"
    bounds = [f"{sign} {item[key]:g}" for key, sign in _BOUNDS if key in item]
    if "pattern" in item:
        bounds = [" or ".join(item["pattern"].replace("float(16|32)", "float16|float32").strip("^$()").split("|"))]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


_BOUNDS = (
    ("minimum", "at least"),
    ("exclusiveMinimum", "above"),
    ("maximum", "at most"),
    ("exclusiveMaximum", "below"),
)
