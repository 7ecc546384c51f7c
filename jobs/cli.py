"""The command `faceatlas`."""

import json
from typing import Annotated

import typer

from jobs import demo as demo_job
from jobs import identities as identities_job
from jobs.annotate import annotate, console, resolve, settings, wanted_of
from jobs.options import BundleOption, ConfigOption, CorpusArgument, EveryOption, OutArgument, SetOption, exit_on_error
from pipeline import annotate as flow
from pipeline.config import describe
from pipeline.sources import read_corpus
from pipeline.status import read_status

app = typer.Typer(
    help="Annotate every face in a video corpus, and keep the annotations true.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(annotate)
app.add_typer(identities_job.app, name="identities")
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable.")]


@app.command()
def plan(
    corpus: CorpusArgument,
    out: OutArgument,
    bundle: BundleOption = "pyfeat",
    every: EveryOption = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what `annotate` with the same arguments would do; changes nothing.

    Example: faceatlas plan videos/ out/ --bundle my_bundle.yaml
    """
    with exit_on_error():
        chosen = settings(config, assignments, every)
        models = resolve(bundle, chosen)
        corpus_read = read_corpus(corpus, chosen)
        wanted = wanted_of(models)
        difference = flow.plan_run(corpus_read, out, wanted, chosen)
    reasons: dict[str, int] = {}
    for reason in difference.reasons.values():
        reasons[reason] = reasons.get(reason, 0) + 1
    if as_json:
        summary = {
            "clips": difference.clips.num_rows,
            "to_do": len(difference.reasons),
            "ignored": len(corpus_read.ignored),
            "reasons": reasons,
            "slots": difference.counts,
            "versions": dict(wanted.versions),
        }
        print(json.dumps(summary, indent=2))
        return
    console.print(f"{difference.clips.num_rows} clips, {len(difference.reasons)} with work to do")
    for reason, clips in sorted(reasons.items()):
        console.print(f"  {clips} clips: {reason}")
    for slot, counts in difference.counts.items():
        states = ", ".join(f"{n} {state}" for state, n in counts.items())
        console.print(f"  {slot:<12} version {wanted.versions[slot]}: {states}")


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
    for name in ("frames", "faces", "tracks", "identities"):
        console.print(f"{name}: {totals[name]}")


@app.command()
def config(file: ConfigOption = None, assignments: SetOption = None) -> None:
    """Print every setting with its value and what it means.

    Example: faceatlas config --set decode.every=5
    """
    with exit_on_error():
        print(describe(settings(file, assignments, None)))


@app.command()
def demo(
    folder: Annotated[str, typer.Argument(help="Where the corpus and the tables go.")] = "faceatlas-demo",
    bundle: BundleOption = "cascade",
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Make a small corpus on the spot, annotate it and say what was found; needs no network.

    Example: faceatlas demo
    """
    with exit_on_error():
        in_order = demo_job.demo(folder, bundle, settings(config, assignments, None))
    raise typer.Exit(0 if in_order else 1)


if __name__ == "__main__":
    app()
