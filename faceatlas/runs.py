"""Runs from Python: the commands `faceatlas annotate` and `faceatlas plan` as functions."""

from collections.abc import Iterable
from pathlib import Path

from rich.console import Console

from jobs import annotate as job
from pipeline.config.models import Config
from pipeline.converge import plan_run
from pipeline.corpus.discover import read_corpus
from pipeline.planning.plan import Plan
from pipeline.runs.model import Report


def annotate(
    corpus: str | Path,
    out: str | Path,
    bundle: str | Path = "pyfeat",
    *,
    every: int | None = None,
    config: str | Path | None = None,
    settings: Iterable[str] = (),
    follow_models: bool = False,
    verbose: bool = False,
) -> Report:
    """Detect faces, link tracks and cluster identities; existing results are skipped.

    Ray is started on this machine, or the cluster of `ray.address` or RAY_ADDRESS is used; it stays connected.

    Args:
        corpus: folder, glob or video on any fsspec URI; `.tar` shards; a manifest (`.parquet`, `.csv`, `.jsonl`);
            CelebV `.json`.
        out: output folder, any fsspec URI.
        bundle: models: a name (`pyfeat`, `tiny`) or a YAML file.
        every: annotate every k-th frame; short for `decode.every`.
        config: YAML file of settings; None: defaults and the environment.
        settings: assignments such as `"decode.fps=5"`, which take precedence over file and environment.
        follow_models: take the newest revision of models whose revision is not pinned, not the recorded one.
        verbose: print what the command prints: models, progress, totals.

    Returns:
        How the run ended: `complete`, counts of clips, frames, faces, tracks and identities, quarantined clips.

    Raises:
        ConfigError: a setting, the corpus or a pool is wrong; nothing was started.
        ModelError: the bundle or its weights cannot be used.
        OutputError: the output cannot be written, another run holds it (LeaseError), or the flow failed; what was
            committed stays.
        StoppedError: a SIGTERM ended the run.
    """
    chosen = _settings(config, settings, every)
    console = job.console if verbose else Console(quiet=True)
    return job.run(str(corpus), str(out), str(bundle), chosen, follow_models, console)


def plan(
    corpus: str | Path,
    out: str | Path,
    bundle: str | Path = "pyfeat",
    *,
    every: int | None = None,
    config: str | Path | None = None,
    settings: Iterable[str] = (),
    follow_models: bool = False,
) -> Plan:
    """What `annotate` with the same arguments would do; reads the output, changes nothing and does not start Ray.

    Returns:
        `clips` of the corpus, `work` rows, `reasons` with the number of clips, and a `summary` by table and shard.

    Raises:
        ConfigError: a setting or the corpus is wrong.
        ModelError: the bundle or its weights cannot be used.
        OutputError: the output cannot be read.
    """
    chosen = _settings(config, settings, every)
    models = job.resolve(str(bundle), chosen, str(out), follow_models)
    sources = read_corpus(str(corpus), chosen)
    return plan_run(sources, str(out), job.wanted_of(models), chosen)


def _settings(config: str | Path | None, assignments: Iterable[str], every: int | None) -> Config:
    """The settings of the arguments that `annotate` and `plan` share."""
    return job.settings(Path(config) if config is not None else None, list(assignments), every)
