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
from jobs.commands.export import export
from jobs.commands.forget import forget
from jobs.commands.plan import plan
from jobs.commands.render import render
from jobs.commands.report import report
from jobs.options import BundleOption, ConfigOption, OutArgument, SetOption, exit_on_error
from pipeline.config.render import describe, to_markdown
from pipeline.tables.status import read_status

atexit.register(gc.freeze)  # else the interpreter searches what it frees anyway for rubbish: half a second after a run

app = typer.Typer(
    help="Annotate every face in a video corpus, and keep the annotations true.",
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
app.command()(forget)
app.add_typer(versions.app, name="versions")
app.add_typer(identities_job.app, name="identities")
app.add_typer(quarantine.app, name="quarantine")
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


@app.command()
def status(
    out: OutArgument, config: ConfigOption = None, assignments: SetOption = None, as_json: JsonOption = False
) -> None:
    """Say what an output holds, from its tables alone.

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
        console.print("clips closed early hold a part of their video only: run annotate again, it does the rest")
    for name in ("frames", "faces", "tracks", "identities"):
        console.print(f"{name}: {totals[name]}")


@app.command()
def config(
    file: ConfigOption = None,
    assignments: SetOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/configuration.md.")] = False,
) -> None:
    """Print every setting with its value and what it means.

    Example: faceatlas config --set decode.every=5
    """
    if markdown:
        print(to_markdown(), end="")
        return
    with exit_on_error():
        print(describe(settings(file, assignments, None)))


@app.command()
def demo(
    folder: Annotated[str, typer.Argument(help="Where the corpus and the tables go.")] = "faceatlas-demo",
    bundle: BundleOption = "tiny",
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Make a small corpus on the spot, annotate it and say what was found; needs no network.

    Example: faceatlas demo
    """
    with exit_on_error():
        complete = demo_job.demo(folder, bundle, settings(config, assignments, None))
    raise typer.Exit(0 if complete else 1)


if __name__ == "__main__":
    app()
