"""A run: plan the difference between the desired and the stored annotations, then carry out the plan.

    plan       what is missing or stale                        planning/plan.py
    promote    first versions of tables become current         planning/promotion.py
    drop       rows of clips whose bytes changed               drop_stale
    annotate   the flow, accounted for chunk by chunk          flow.py, runs/accounting.py
    aggregate  tracks and identities, once nothing is missing  identity/snapshot.py
    record     runs/<run>.json                                 runs/record.py

Starting, resuming, adding clips and upgrading a model are this one operation; a second run does nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline import schema
from pipeline.config.models import Config
from pipeline.corpus.discover import Corpus
from pipeline.flow import build_flow
from pipeline.identity import snapshot
from pipeline.identity.version import aggregate_version
from pipeline.isolation.registry import start_registry
from pipeline.isolation.shutdown import ShutdownRequest
from pipeline.maintenance.erase import finish_erasure
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.promotion import count_pending, promote_first_versions
from pipeline.planning.versions import SlotVersions, TableVersions
from pipeline.preload import preload, preload_in_worker
from pipeline.runs.accounting import RunLedger
from pipeline.runs.context import RunContext
from pipeline.runs.metrics import RunMetrics
from pipeline.runs.model import Annotation, Report, Stage
from pipeline.runs.record import cluster_of, compare_forecast, read_forecast, record_run
from pipeline.storage import fs, lease
from pipeline.storage.output import Output
from pipeline.tables import parquet


@dataclass(frozen=True)
class Engine:
    """How a run gets a Ray cluster; both are called only when there is work.

    Attributes:
        start: connects to a cluster or starts one.
        make_pools: the actor pools that fit the running cluster.
    """

    start: Callable[[], None]
    make_pools: Callable[[], Sequence[Stage]]


@dataclass(frozen=True)
class Controls:
    """How a caller watches and ends a run.

    Attributes:
        progress: called at the start and after each batch of committed chunks.
        warn: gets a message, in a thread of its own, when the run waits for resources that the cluster does not have.
        stop: whose request ends the run early; the report then says so.
    """

    progress: Callable[[RunLedger], None]
    warn: Callable[[str], None]
    stop: ShutdownRequest


@dataclass(frozen=True)
class _Run:
    """A run under its lease."""

    corpus: Corpus
    annotation: Annotation
    context: RunContext
    engine: Engine
    controls: Controls
    held: lease.Lease

    @property
    def output(self) -> Output:
        return self.held.output


@dataclass(frozen=True)
class _Aggregate:
    """Result of the last step: tracks and identities, or the clips that it still waits for."""

    tables: TableVersions
    tracks: int = 0
    identities: int = 0
    pending: int = 0


def plan_run(corpus: Corpus, out: str, annotation: Annotation, config: Config) -> Plan:
    """The plan that `converge` would carry out; reads the output, changes nothing."""
    return _plan(corpus, annotation, RunContext.of(out, config, annotation.versions))


def converge(
    corpus: Corpus, out: str, annotation: Annotation, config: Config, engine: Engine, controls: Controls
) -> Report:
    """Bring the output to the desired state.

    Args:
        corpus: the clips.
        out: output folder, any fsspec URI.
        annotation: the desired models.
        config: settings.
        engine: how to get a cluster.
        controls: how to watch and to stop the run.

    Raises:
        StoppedError: told to stop while nothing could be finished any more.
        LeaseError: another run holds the output, or took it over.
        OutputError: the output cannot be written, or the flow failed; what was committed stays.
        ConfigError: a pool cannot run on this cluster.
    """
    run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    # workers of a cluster may work in another folder than this process
    context = RunContext.of(fs.normalise_uri(out), _with_switch_cosine(config, annotation), annotation.versions, run)
    with lease.hold(context.open(), f"run {run}", config.lease) as held:
        return _converge(_Run(corpus, annotation, context, engine, controls, held))


def _converge(run: _Run) -> Report:
    """The steps of a run, top to bottom."""
    output, context, seconds = run.output, run.context, dict[str, float]()
    with _timed(seconds, "total"):
        with _timed(seconds, "plan"):
            finish_erasure(output)
            plan = _plan(run.corpus, run.annotation, context)
        promote_first_versions(output, context.tables)
        drop_stale(output, plan, context.slots)

        saved = read_forecast(output, plan, context.slots)
        ledger = RunLedger(output, plan, context.slots, context.tables)
        run.controls.progress(ledger)
        with _timed(seconds, "annotate"):
            cluster = _annotate(run, ledger) if plan.work.num_rows else None
        forecast = compare_forecast(saved, output, ledger, seconds["annotate"]) if saved else None

        with _timed(seconds, "aggregate"):
            aggregate = _aggregate(run, ledger)
    report = _report(run, ledger, aggregate, seconds)
    record_run(output, report, run.corpus, run.annotation, context, aggregate.tables, cluster, forecast)
    return report


def _plan(corpus: Corpus, annotation: Annotation, context: RunContext) -> Plan:
    chunk_frames = context.config.decode.chunk_frames
    return make_plan(corpus, context.open(), context.slots, context.tables, annotation.needs, chunk_frames)


def drop_stale(output: Output, plan: Plan, slots: SlotVersions) -> None:
    """Take clips whose bytes have changed out of the tables of the slots."""
    for shard, clip_ids in plan.stale.items():
        for slot, version in reversed(list(slots.items())):  # faces last: no table holds rows of faces that are gone
            parquet.drop_clips(output, schema.TABLE_OF_SLOT[slot], version, shard, clip_ids)


def _annotate(run: _Run, ledger: RunLedger) -> dict[str, Any]:
    """Send the plan's work through the flow and account for what is committed; returns facts of the cluster."""
    run.engine.start()
    # it imports Ray, which reads its environment when it is loaded
    from pipeline.isolation.stall import watch_for_stalls

    registry = start_registry(run.context.out, run.context.config.storage.options)
    # meanwhile the actors load their models
    preload_in_worker("pipeline.stages.decode", "pipeline.stages.write", "ray.data")
    preload("pipeline.identity.snapshot", "pipeline.identity.assign", "pipeline.tracking.link")
    metrics = RunMetrics()
    metrics.begin(ledger)
    with run.controls.stop.draining(registry.stop), watch_for_stalls(registry, run.controls.warn):
        pools = run.engine.make_pools()
        cluster = cluster_of(pools)
        flow = build_flow(ledger.plan.work, run.context, registry, pools)
        for accounts in flow.iter_batches(batch_size=None, batch_format="pyarrow"):
            run.held.check()
            ledger.add(accounts)
            metrics.add(ledger)
            run.controls.progress(ledger)
    registry.finish(ledger.ended)
    return cluster


def _aggregate(run: _Run, ledger: RunLedger) -> _Aggregate:
    """Make tracks and identities and promote all tables, if no clip is missing and no reader would lose rows."""
    output, context = run.output, run.context
    if ledger.missing or run.controls.stop.requested:
        return _Aggregate(context.tables)
    if not context.config.store.promote_early and (
        pending := count_pending(run.corpus, output, context.slots, context.tables, run.annotation.needs)
    ):
        return _Aggregate(context.tables, pending=pending)
    cosine = run.annotation.same_person_cosine
    version = aggregate_version(context, cosine)
    tracks, identities = snapshot.aggregate(context, version, cosine, run.engine.start)
    run.held.check()
    tables = TableVersions({**context.tables, **dict.fromkeys(snapshot.TABLES, version)})
    before = parquet.read_current(output).get("tracks", version)
    parquet.promote(output, tables)
    snapshot.drop_old_snapshots(output, {version, before})
    return _Aggregate(tables, tracks, identities)


def _report(run: _Run, ledger: RunLedger, aggregate: _Aggregate, seconds: dict[str, float]) -> Report:
    mine = set(run.corpus.clips["clip_id"].to_pylist())
    quarantine = parquet.read_version(run.output, "quarantine", run.context.tables["quarantine"]).to_pylist()
    return Report(
        run=run.context.run,
        clips=ledger.outcomes,
        wanted=run.corpus.clips.num_rows,
        missing=ledger.missing,
        frames=ledger.frames,
        faces=ledger.faces,
        tracks=aggregate.tracks,
        identities=aggregate.identities,
        seconds={stage: round(seconds[stage], 3) for stage in ("plan", "annotate", "aggregate", "total")},
        quarantined=[row for row in quarantine if row["clip_id"] in mine],
        stopped=run.controls.stop.requested,
        pending=aggregate.pending,
    )


def _with_switch_cosine(config: Config, annotation: Annotation) -> Config:
    """The configuration with the embedding model's `switch_cosine`, where the user states none."""
    if config.tracks.switch_cosine is not None:
        return config
    tracks = config.tracks.model_copy(update={"switch_cosine": annotation.switch_cosine})
    return config.model_copy(update={"tracks": tracks})


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Keep the wall-clock seconds of the body."""
    started = time.monotonic()
    yield
    seconds[stage] = time.monotonic() - started
