"""`faceatlas models`: list weights and their licenses, mirror them for clusters without internet, verify them."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console

from actors.errors import BundleError
from actors.weights.bundles import read_bundle
from actors.weights.cache import noted_digest
from actors.weights.catalog import BUNDLES, MODELS
from actors.weights.mirror import Mirror, open_mirror
from actors.weights.registry import Outcome, RegistryEntry, local_copy, pull, registry_entries
from actors.weights.verify import verify_cache, verify_mirror
from jobs.options import ConfigOption, SetOption, exit_on_error
from pipeline.config.models import Config, load_config
from pipeline.errors import ConfigError
from pipeline.schema import SLOTS

app = typer.Typer(help="Model weights: licenses, mirrors, checksums.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True, markup=False)

MirrorOption = Annotated[
    str | None, typer.Option(help="Folder laid out like the hub, any fsspec URI; default: models.mirror.")
]
BundleFilter = Annotated[str | None, typer.Option("--bundle", help="Only the models of this bundle.")]


@app.command("list")
def list_models(
    bundle: BundleFilter = None,
    mirror: MirrorOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List every model with its files, license, and known sizes and digests.

    Example: faceatlas models list --bundle pyfeat
    """
    with exit_on_error():
        chosen = load_config(config, assignments or [])
        rows = table_of_models(bundle, _mirror(mirror, chosen), chosen)
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    say_table(rows)


def table_of_models(bundle: str | None, mirror: Mirror | None, config: Config) -> list[dict[str, Any]]:
    """One row per file of each model, and one per model without files.

    Raises:
        BundleError: no such bundle.
    """
    entries = read_bundle(bundle)[1] if bundle is not None else None
    of_model: dict[tuple[str, str], list[RegistryEntry]] = {}
    for item in registry_entries(bundle):
        of_model.setdefault((item.slot, item.model), []).append(item)
    rows: list[dict[str, Any]] = []
    for slot in SLOTS:
        for name, card in MODELS.get(slot, {}).items():
            if entries is not None and (slot not in entries or entries[slot].model != name):
                continue
            row = {
                "slot": slot,
                "model": name,
                "licence": card.license,
                "research_only": card.research_only,
                "default_of": list(_default_of(slot, name)),
            }
            found = of_model.get((slot, name), [])
            rows.extend({**row, **_file_facts(item, mirror, config)} for item in found)
            if not found:
                rows.append({**row, **dict.fromkeys(("role", "file", "size", "sha256", "revision", "known_from"))})
    return rows


def _default_of(slot: str, model: str) -> tuple[str, ...]:
    return tuple(name for name, slots in BUNDLES.items() if slots.get(slot) == model)


def _file_facts(item: RegistryEntry, mirror: Mirror | None, config: Config) -> dict[str, Any]:
    facts: dict[str, Any] = {"role": item.role, "file": item.paths[0], "revision": item.file.revision}
    for path in item.paths if mirror is not None else ():
        record = mirror.records.get(path) if mirror is not None else None
        if record is not None:
            known = {"size": record.size, "sha256": record.sha256, "revision": record.revision, "known_from": "mirror"}
            return {**facts, "file": path, **known}
    copy = local_copy(item, config.models.cache)
    if copy is not None:
        sha256 = noted_digest(copy, config.models.cache)
        return {**facts, "size": copy.stat().st_size, "sha256": sha256, "known_from": "this machine"}
    return {**facts, "size": None, "sha256": None, "known_from": None}


def say_table(rows: list[dict[str, Any]]) -> None:
    """Print the table of models and its legend."""
    lines = [("SLOT", "MODEL", "DEFAULT OF", "FILE", "SIZE", "SHA-256", "LICENSE")]
    lines += [
        (
            row["slot"],
            row["model"],
            ", ".join(row["default_of"]) or "-",
            row["file"] or "(no download)",
            f"{row['size'] / 1e6:.1f} MB" if row["size"] is not None else "-",
            row["sha256"][:12] if row["sha256"] else "-",
            ("RESEARCH ONLY: " if row["research_only"] else "") + row["licence"],
        )
        for row in rows
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    for line in lines:
        console.print("  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]]))
    if any(row["research_only"] for row in rows):
        console.print("RESEARCH ONLY: the license forbids commercial use of these weights.")
    if any(row["file"] and row["size"] is None for row in rows):
        console.print(
            "-: the file is in no mirror and not in this machine's cache; `faceatlas models pull` downloads it."
        )


@app.command("pull")
def pull_models(
    to: Annotated[str, typer.Option(help="Folder of the mirror, any fsspec URI.")],
    bundle: Annotated[str | None, typer.Option(help="The models of this bundle: a name or a YAML file.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every model that Faceatlas knows.")] = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Copy weights from the hub to a mirror, with mirror.json: digest, size, commit and license of each file.

    Runs read them with --set models.mirror=URI. Exit code 1 if a file cannot be downloaded.

    Example: faceatlas models pull --to s3://bucket/weights --bundle pyfeat
    """
    with exit_on_error():
        chosen = load_config(config, assignments or [])
        if everything == (bundle is not None):
            raise ConfigError("models pull: say which models, either --bundle NAME or --all")
        items = registry_entries(bundle)
        outcomes = []
        for outcome in pull(items, to, chosen.storage.options, chosen.models.cache):
            say_outcome(outcome)
            outcomes.append(outcome)
    say_licences(items)
    failed = [outcome for outcome in outcomes if not outcome.ok]
    console.print(f"{len(outcomes) - len(failed)} of {len(outcomes)} files are in {to}")
    raise typer.Exit(1 if failed else 0)


@app.command("verify")
def verify_models(
    mirror: MirrorOption = None,
    bundle: BundleFilter = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Verify the checksums of the files in a mirror or, without one, in this machine's cache.

    With --bundle every file of its models must exist; otherwise the existing files are verified. Exit code 1 if a file
    differs, is missing or has no recorded digest, and if there is nothing to verify.

    Example: faceatlas models verify --mirror s3://bucket/weights --bundle pyfeat
    """
    with exit_on_error():
        chosen = load_config(config, assignments or [])
        items = registry_entries(bundle) if bundle is not None else None
        if items is not None and not items:
            raise BundleError(f"bundle {bundle} has no files on the hub, so there is nothing to verify")
        opened = _mirror(mirror, chosen)
        outcomes = []
        for outcome in verify_mirror(opened, items) if opened is not None else verify_cache(chosen.models.cache, items):
            say_outcome(outcome)
            outcomes.append(outcome)
    where = opened.uri if opened is not None else "the cache of this machine"
    wrong = [outcome for outcome in outcomes if not outcome.ok]
    if not outcomes:
        console.print(f"nothing to verify: {where} holds no weight file")
    else:
        console.print(f"{len(outcomes) - len(wrong)} of {len(outcomes)} files in {where} have their recorded checksum")
    raise typer.Exit(1 if wrong or not outcomes else 0)


def _mirror(uri: str | None, config: Config) -> Mirror | None:
    place = uri or config.models.mirror
    return open_mirror(place, config.storage.options) if place is not None else None


def say_outcome(outcome: Outcome) -> None:
    """Print the outcome of one file."""
    size = f" ({outcome.size / 1e6:.1f} MB)" if outcome.size is not None else ""
    console.print(f"{outcome.state:<10} {outcome.path}{size}" + (f": {outcome.message}" if outcome.message else ""))


def say_licences(items: list[RegistryEntry]) -> None:
    """Print which models may be used for research only."""
    for slot, model, licence in dict.fromkeys(
        (item.slot, item.model, item.card.license) for item in items if item.card.research_only
    ):
        console.print(f"research only: the weights of {slot} {model} ({licence})")
