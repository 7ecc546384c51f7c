"""The command `faceatlas`."""

import atexit
import gc
import json
from typing import Annotated

import typer

from jobs.annotate import annotate, console, settings
from jobs.commands import demo as demo_job
from jobs.commands import identities as identities_job
from jobs.commands import models as models_job
from jobs.commands import quarantine, versions
from jobs.commands.erase import erase
from jobs.commands.export import export
from jobs.commands.plan import plan
from jobs.commands.render import render
from jobs.commands.report import report
from jobs.options import BundleOption, ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.config.render import to_markdown, to_yaml
from pipeline.tables.status import read_status

atexit.register(gc.freeze)  # else a last garbage collection takes half a second at the end of a run

app = typer.Typer(
    help="Annotate every face in a video corpus, and keep the annotations up to date.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(annotate)
app.command()(export)
app.command()(report)
app.command()(render)
app.add_typer(models_job.app, name="models")
app.command()(plan)
app.command()(erase)
app.command("forget", help="The name of `erase` in 0.1, which keeps working.")(erase)
app.add_typer(versions.app, name="versions")
app.add_typer(identities_job.app, name="identities")
app.add_typer(quarantine.app, name="quarantine")
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


@app.command()
def status(
    out: OutArgument, config: ConfigOption = None, assignments: SetOption = None, as_json: JsonOption = False
) -> None:
    """Count the clips, frames, faces, tracks and identities of an output.

    Example: faceatlas status out/ --json
    """
    with exit_on_error():
        totals = read_status(out, settings(config, assignments, None).storage.options)
    if as_json:
        print(json.dumps(totals))
        return
    clips = ", ".join(f"{n} {outcome}" for outcome, n in totals["clips"].items())
    console.print(f"clips: {clips}")
    if totals["clips"].get("closed early"):
        console.print("clips closed early hold only a part of their video; run annotate again to complete them")
    console.print(f"frames: {totals['frames']}, {totals['sampled']} of them sampled")
    for name in ("faces", "tracks", "identities"):
        console.print(f"{name}: {totals[name]}")


@app.command()
def config(
    file: ConfigOption = None,
    assignments: SetOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/configuration.md instead.")] = False,
) -> None:
    """Print every setting with its value and meaning, as YAML that --config reads.

    Example: faceatlas config --set decode.every=5
    """
    if markdown:
        print(to_markdown(), end="")
        return
    with exit_on_error():
        print(to_yaml(settings(file, assignments, None)))


@app.command()
def demo(
    folder: Annotated[str, typer.Argument(help="Folder for the corpus, the tables and the report.")] = "faceatlas-demo",
    bundle: BundleOption = "tiny",
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Generate a small corpus, annotate it and summarize the results; needs no network.

    Example: faceatlas demo
    """
    with exit_on_error():
        complete = demo_job.run_demo(folder, bundle, settings(config, assignments, None))
    raise typer.Exit(0 if complete else 1)


if __name__ == "__main__":
    app()
