"""`python -m jobs.annotate CORPUS OUT`: the main job, alone or under `ray job submit`."""

from pathlib import Path

import typer
from rich.console import Console

from actors.weights.bundles import Bundle, resolve_bundle
from jobs import ray_cluster
from jobs.options import (
    BundleOption,
    ConfigOption,
    CorpusArgument,
    EveryOption,
    FollowOption,
    OutArgument,
    SetOption,
    exit_on_error,
)
from jobs.progress import RunProgress
from jobs.signals import EXIT_STOPPED, on_sigterm
from pipeline.config.models import Config, load_config
from pipeline.converge import Controls, Engine, converge
from pipeline.corpus.discover import Corpus, read_corpus
from pipeline.errors import UNEXPECTED
from pipeline.planning.versions import SlotVersions, clips_version
from pipeline.runs.history import recorded_revisions
from pipeline.runs.model import Annotation, Report
from pipeline.storage.output import open_output

console = Console(highlight=False, soft_wrap=True)


def settings(config: Path | None, assignments: list[str] | None, every: int | None) -> Config:
    """The configuration of the command line's options."""
    extra = [f"decode.every={every}"] if every is not None else []
    return load_config(config, [*(assignments or []), *extra])


def wanted_of(bundle: Bundle) -> Annotation:
    """A bundle as the flow sees it."""
    embeddings = bundle.slot("embeddings")
    return Annotation(
        name=bundle.name,
        versions=SlotVersions(bundle.versions),
        needs={model.slot: model.needs for model in bundle.models},
        same_person_cosine=embeddings.same_person_cosine if embeddings else None,
        switch_cosine=embeddings.switch_cosine if embeddings else None,
        models={
            model.slot: {
                "model": model.name,
                "version": model.version,
                "license": model.license,
                "research_only": model.research_only,
                "files": {
                    role: {"place": ref.location, "repo": ref.repo, "revision": ref.revision, "sha256": ref.digest}
                    for role, ref in model.files.items()
                },
            }
            for model in bundle.models
        },
    )


def resolve(bundle: str, config: Config, out: str | None = None, follow_models: bool = False) -> Bundle:
    """Locate the files of a bundle under a configuration.

    Models without a pinned revision stay at the revision that the latest run of `out` used, unless `follow_models`.
    """
    keep = out is not None and not follow_models
    return resolve_bundle(
        bundle,
        clips_version(config.decode),
        config.models.mirror,
        config.models.cache,
        revisions=recorded_revisions(open_output(out, config.storage.options)) if keep and out else {},
        storage_options=config.storage.options,
    )


def run(
    corpus: str, out: str, bundle: str, config: Config, follow_models: bool = False, console: Console = console
) -> Report:
    """Annotate a corpus and print progress and report to a console; returns the report."""
    models = resolve(bundle, config, out, follow_models)
    sources = read_corpus(corpus, config)
    say_inputs(sources, models, console)

    def start_ray() -> None:
        ray_cluster.start_ray(config)
        listen()

    with on_sigterm(config.faults.stop_grace_s) as (stop, listen), RunProgress(console) as progress:
        engine = Engine(start_ray, lambda: ray_cluster.make_stages(models, config))
        controls = Controls(progress, lambda message: console.print(message, markup=False), stop)
        report = converge(sources, out, wanted_of(models), config, engine, controls)
    say_report(report, out, console)
    return report


def say_inputs(corpus: Corpus, bundle: Bundle, console: Console) -> None:
    """Print the corpus, the files that are ignored, the models, and the slots that are left out."""
    console.print(f"{corpus.clips.num_rows} clips, {len(corpus.ignored)} other files ignored")
    for name in corpus.ignored[:5]:
        console.print(f"  ignored: {name}")
    if len(corpus.ignored) > 5:
        console.print(f"  ... and {len(corpus.ignored) - 5} more; all are in the run's record")
    console.print(f"bundle {bundle.name}: " + ", ".join(f"{model.slot} {model.name}" for model in bundle.models))
    for model in bundle.models:
        if model.research_only:
            console.print(f"research only: the weights of {model.slot} {model.name} ({model.license})", markup=False)
    if bundle.left_out:
        console.print(f"left out, no model in this bundle: {', '.join(bundle.left_out)}")


def say_report(report: Report, out: str, console: Console) -> None:
    """Print the totals of a run, its quarantined clips, and its outcome."""
    counts = ", ".join(f"{n} {status}" for status, n in report.clips.items())
    console.print(
        f"{report.wanted} clips: {counts}; this run wrote {report.frames} frames and {report.faces} faces; "
        f"the corpus has {report.tracks} tracks of {report.identities} identities ({report.seconds['total']:.1f} s)"
    )
    for row in report.quarantined[:20]:
        name = row["uri"] + (f"!{row['member']}" if row["member"] else "")
        console.print(f"  quarantined: {name}: {row['message']} [{row['error_class']}]", markup=False)
    if len(report.quarantined) > 20:
        console.print(f"  ... and {len(report.quarantined) - 20} more in the table quarantine")
    if report.stopped:
        console.print(
            f"INTERRUPTED, stopped by a signal: {report.wanted - sum(report.clips.values())} clips are left; finished "
            f"results are kept in {out}; run the same command again to continue",
            markup=False,
        )
        return
    if report.pending:
        console.print(
            f"NOT PROMOTED: {report.pending} clips outside this corpus lack the new versions, so readers keep the old "
            "ones and identities were not recomputed. Annotate those clips too, erase them, or run again with "
            "--set store.promote_early=true",
            markup=False,
        )
    if report.complete:
        console.print(f"tables are in {out}")
        return
    if report.retryable:
        ours = sum(row["error_class"] == UNEXPECTED for row in report.retryable)
        console.print(
            f"INCOMPLETE: {ours} clips failed by a bug in Faceatlas (please report the messages above), "
            f"{len(report.retryable) - ours} could not be read from the storage; the next run retries these clips",
            markup=False,
        )
        return
    console.print(
        f"INCOMPLETE: {len(report.missing)} clips have no outcome: {', '.join(report.missing[:5])} ...; "
        "run the same command again to continue",
        markup=False,
    )


def annotate(
    corpus: CorpusArgument,
    out: OutArgument,
    bundle: BundleOption = "pyfeat",
    every: EveryOption = None,
    follow_models: FollowOption = False,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Detect faces, link tracks and cluster identities; existing results are skipped.

    Exit codes: 0 complete; 1 incomplete and 143 interrupted (run again); 2 invalid arguments or input.

    Examples:
      faceatlas annotate videos/ out/

      faceatlas annotate s3://bucket/shards/ s3://bucket/out --every 5 --set actors.gpus=0.5

      faceatlas annotate manifest.parquet out/ --bundle my_bundle.yaml

      ray job submit --working-dir . -- python -m jobs.annotate CORPUS OUT
    """
    with exit_on_error():
        report = run(corpus, out, bundle, settings(config, assignments, every), follow_models)
    raise typer.Exit(EXIT_STOPPED if report.stopped else 0 if report.complete else 1)


if __name__ == "__main__":
    typer.run(annotate)
