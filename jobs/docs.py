"""`python -m jobs.docs`: write the generated pages of docs/. A test checks that they are up to date.

configuration.md comes from the settings, tables.md from the schemas, models.md from the catalog.
"""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from actors.weights.catalog import BUNDLES, MODELS, HubFile, ModelCard
from pipeline import schema
from pipeline.config.render import to_markdown

#: table -> meaning of a row
ROWS = {
    "clips": "A clip of the corpus with its outcome.",
    "quarantine": "A clip that could not be processed, with the reason.",
    **{
        table: f"A face, with the outputs of the model in slot `{slot}`."
        for slot, table in schema.TABLE_OF_SLOT.items()
    },
    "faces": "A face in an annotated frame.",
    "tracks": "A face through one clip.",
    "identities": "A person across clips.",
    "ambiguous_pairs": "Two identities whose separation is uncertain.",
    "lineage": "A change of an identity since the previous snapshot.",
}


def tables() -> str:
    """docs/tables.md."""
    lines = [
        "# Tables",
        "",
        "Made from `pipeline/schema.py` by `python -m jobs.docs`; a test keeps it up to date. A table is stored in the",
        "output as hive-partitioned Parquet, `<table>/version=<v>/shard=<s>/...parquet`; `current.json` names the",
        "current versions. Pixels are those of the original frame as displayed, x to the right, y down, pixel edges",
        "at integers; angles are radians; `frame` counts decoded frames from 0, `time` is its presentation time.",
        "Tables of faces join on `clip_id`, `frame`, `face`.",
    ]
    for name, about in ROWS.items():
        lines += ["", f"## {name}", "", about, "", "| column | type | unit | null | meaning |", "|---|---|---|---|---|"]
        for field in schema.table_schema(name):
            facts = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
            cells = [f"`{field.name}`", _kind(field.type), facts.get("unit", ""), "yes" if field.nullable else "never"]
            lines.append(f"| {' | '.join([*cells, facts.get('about', '')])} |")
    return "\n".join(lines) + "\n"


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size} x {kind.value_type}"
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def models() -> str:
    """docs/models.md."""
    lines = [
        "# Models and licenses",
        "",
        "Made from `actors/weights/catalog.py` by `python -m jobs.docs`; a test keeps it up to date. Licenses are",
        "those of the weights, as stated by their publishers. **Research only** licenses forbid commercial use; a run",
        "with such a model says so, and its record in `runs/` keeps license, revision and digest of every file. A",
        "bundle assigns models to slots; a run lists the slots without a model at its start. The README explains how",
        "to put your own model into a slot.",
        "",
        "| slot | model | default of | reads | files | license |",
        "|---|---|---|---|---|---|",
    ]
    for slot in schema.SLOTS:
        for name, card in MODELS.get(slot, {}).items():
            bundles = ", ".join(bundle for bundle, slots in BUNDLES.items() if slots.get(slot) == name)
            lines.append(f"| {slot} | `{name}` | {bundles or '-'} | {card.input} | {_files(card)} | {_license(card)} |")
    return "\n".join(lines) + "\n"


def _files(card: ModelCard) -> str:
    places = [
        f"`{file.repo}/{file.names[0]}`" if isinstance(file, HubFile) else f"`actors/{file.name}`"
        for file in card.files.values()
    ]
    return ", ".join(places) or "inside a package"


def _license(card: ModelCard) -> str:
    return f"**research only**: {card.license}" if card.research_only else card.license


PAGES: dict[str, Callable[[], str]] = {"configuration.md": to_markdown, "tables.md": tables, "models.md": models}


def main() -> None:
    """Write the pages."""
    folder = Path(__file__).resolve().parents[1] / "docs"
    for name, make in PAGES.items():
        (folder / name).write_text(make())


if __name__ == "__main__":
    main()
