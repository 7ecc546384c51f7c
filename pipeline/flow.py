"""The flow on Ray Data, top to bottom: plan, decode, annotate, write; then tracks and identities."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from pipeline import schema
from pipeline.config.models import Config, PoolConfig
from pipeline.corpus.discover import Corpus
from pipeline.errors import ConfigError
from pipeline.identity.version import aggregate_version
from pipeline.isolation.annotating import IsolatedAnnotator
from pipeline.isolation.registry import RegistryClient, start_registry
from pipeline.isolation.shutdown import ShutdownRequest
from pipeline.maintenance.erase import finish_erasure
from pipeline.observe.logging import get_logger
from pipeline.planning import promotion
from pipeline.planning.plan import Plan, make_plan
from pipeline.planning.versions import clips_version
from pipeline.preload import preload, preload_in_worker
from pipeline.runs.accounting import RunLedger
from pipeline.runs.context import Job
from pipeline.runs.metrics import RunMetrics
from pipeline.runs.model import Annotation, Report, Stage
from pipeline.runs.record import cluster_of, compare, read_forecast, record_run
from pipeline.stages import write
from pipeline.stages.decode import decode_packed, pack_work
from pipeline.storage import fs, lease
from pipeline.storage.output import Output, open_output
from pipeline.tables import parquet

if TYPE_CHECKING:  # a run without work does not wait for Ray to load
    import ray.data

_CPU_CHUNKS, _GPU_CHUNKS = 1, 4  # a GPU wants more faces at once; on a CPU a second chunk only takes memory
_WRITE_CPUS = 0.1  # writing waits for storage; it must find a place beside decoders and actors


def all_versions(annotation: Annotation, config: Config) -> dict[str, str]:
    """Versions of the slots and of the tables that hang on them."""
    clips = clips_version(config.decode)
    return {**annotation.versions, "clips": clips, "quarantine": clips}


def plan_run(corpus: Corpus, out: str, annotation: Annotation, config: Config) -> Plan:
    """What `annotate` would do; reads the output, changes nothing."""
    output = open_output(out, config.storage.options)
    return make_plan(corpus, output, all_versions(annotation, config), annotation.needs, config.decode.chunk_frames)


def annotate(
    corpus: Corpus,
    out: str,
    annotation: Annotation,
    make_stages: Callable[[], Sequence[Stage]],
    start_ray: Callable[[], None],
    config: Config,
    progress: Callable[[RunLedger], None],
    stop: ShutdownRequest | None = None,
    warn: Callable[[str], None] | None = None,
) -> Report:
    """Converge: bring the output to what is wanted.

    Args:
        corpus: the clips.
        out: output folder, any fsspec URI.
        annotation: the models wanted.
        make_stages: gives the actor pools; called when Ray runs and there is work.
        start_ray: connects to a cluster or starts one; not called if there is nothing to do.
        config: settings.
        progress: called at the start and after each batch of committed chunks.
        stop: whose wish ends the run early; then the report says so.
        warn: gets the words, in a thread of its own, when the run waits for room that the cluster does not have;
            None: they become a line of the log.

    Raises:
        StoppedError: told to stop while nothing could be finished any more.
        LeaseError: another run holds the output, or took it over.
        OutputError: the output cannot be written, or the flow failed; what was committed stays.
        ConfigError: a pool cannot run on this cluster.
    """
    stop = stop or ShutdownRequest(config.faults.stop_grace_s)
    warn = warn or (lambda words: get_logger(config.ray.log_level).warning("waiting", message=words))
    out = fs.normalise_uri(out)  # workers of a cluster may work in another folder than this process
    run = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    with lease.hold(open_output(out, config.storage.options), f"run {run}", config.lease) as held:
        return _annotate(corpus, out, annotation, make_stages, start_ray, config, progress, stop, warn, run, held)


def _annotate(
    corpus: Corpus,
    out: str,
    annotation: Annotation,
    make_stages: Callable[[], Sequence[Stage]],
    start_ray: Callable[[], None],
    config: Config,
    progress: Callable[[RunLedger], None],
    stop: ShutdownRequest,
    warn: Callable[[str], None],
    run: str,
    held: lease.Lease,
) -> Report:
    """`annotate` under its lease."""
    started = time.monotonic()
    output = held.output
    config = with_switch_cosine(config, annotation)
    finish_erasure(output)
    versions = all_versions(annotation, config)
    plan = make_plan(corpus, output, versions, annotation.needs, config.decode.chunk_frames)
    seconds = {"plan": time.monotonic() - started}
    promotion.promote_first_versions(output, versions)
    drop_stale(output, plan, annotation.versions)

    saved, cluster = read_forecast(output, plan, annotation.versions), None
    tally = RunLedger(output, plan, versions)
    progress(tally)
    begun = time.monotonic()
    if plan.work.num_rows:
        start_ray()
        # it imports Ray, which reads its environment when it is loaded
        from pipeline.isolation.stall import watch_for_stalls

        marks = start_registry(out, config.storage.options)
        # meanwhile the actors load their models
        preload_in_worker("pipeline.stages.decode", "pipeline.stages.write", "ray.data")
        preload("pipeline.identity.snapshot")
        job = Job(out, config, annotation.versions, run)
        counted = RunMetrics()
        counted.begin(tally)
        with stop.draining(marks.stop), watch_for_stalls(marks, warn):
            stages = make_stages()
            cluster = cluster_of(stages)
            flow = build_flow(plan.work, job, marks, stages)
            for accounts in flow.iter_batches(batch_size=None, batch_format="pyarrow"):
                held.check()
                tally.add(accounts)
                counted.add(tally)
                progress(tally)
        marks.finish(tally.ended)
    seconds["annotate"] = time.monotonic() - begun
    forecast = compare(saved, output, tally, seconds["annotate"]) if saved else None

    begun = time.monotonic()
    tracks = identities = pending = 0
    finished = not tally.missing and not stop.requested
    if finished and not config.store.promote_early:
        pending = promotion.count_pending(corpus, output, versions, annotation.needs)
    if finished and not pending:
        cosine = annotation.same_person_cosine
        snapshot = aggregate_version(output, versions, config, cosine)
        from pipeline.identity import (
            snapshot as snapshots,  # with scipy and numba: every command would load them for seconds
        )

        versions |= dict.fromkeys(snapshots.TABLES, snapshot)
        tracks, identities = snapshots.aggregate(out, versions, config, cosine, start_ray)
        held.check()
        before = parquet.read_current(output).get("tracks", snapshot)
        parquet.promote(output, promotion.by_table(versions))
        snapshots.drop_old_snapshots(output, {snapshot, before})
    seconds["aggregate"] = time.monotonic() - begun
    seconds["total"] = time.monotonic() - started
    report = Report(
        run=run,
        clips=tally.outcomes,
        wanted=corpus.clips.num_rows,
        missing=tally.missing,
        frames=tally.frames,
        faces=tally.faces,
        tracks=tracks,
        identities=identities,
        seconds={stage: round(s, 3) for stage, s in seconds.items()},
        quarantined=_quarantined(output, versions, corpus),
        stopped=stop.requested,
        pending=pending,
    )
    record_run(output, report, corpus, annotation, versions, config, cluster, forecast)
    return report


def with_switch_cosine(config: Config, annotation: Annotation) -> Config:
    """The configuration with the embedding model's `switch_cosine`, where the user states none."""
    if config.tracks.switch_cosine is not None:
        return config
    tracks = config.tracks.model_copy(update={"switch_cosine": annotation.switch_cosine})
    return config.model_copy(update={"tracks": tracks})


def build_flow(work: pa.Table, job: Job, marks: RegistryClient, stages: Sequence[Stage]) -> "ray.data.Dataset":
    """The Ray Dataset of a run: from work rows (plan.WORK) to accounts (write.ACCOUNT)."""
    # 4. write, CPU tasks, N chunks : their accounts
    return build_annotated(work, job, marks, stages).map_batches(
        cast("Callable", write.write_chunks),
        fn_kwargs={"job": job},
        batch_size=job.config.store.chunks_per_file,
        batch_format="pyarrow",
        num_cpus=_WRITE_CPUS,
    )


def build_annotated(work: pa.Table, job: Job, marks: RegistryClient, stages: Sequence[Stage]) -> "ray.data.Dataset":
    """The flow up to the annotated chunks (schema.FLOW)."""
    import ray.data

    config = job.config
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = config.ray.block_mb << 20
    context.wait_for_min_actors_s = config.actors.wait_for_min_actors_s
    context.max_errored_blocks = 0  # an exception is a bug or a broken node, never a clip: it must not lose blocks
    context.enable_progress_bars = False  # ours count clips and frames

    # 1. work rows: a few clips to a block, for blocks are the units of scheduling. Packed, as Ray asks its workers to
    #    look at every Arrow table before it begins: a task per block, and seconds until the first worker has loaded
    blocks = pack_work(work, min(work.num_rows, max(64, work.num_rows // 8)))
    flow: ray.data.Dataset = ray.data.from_items(blocks, override_num_blocks=len(blocks))
    # 2. decode, CPU tasks, 1 clip : N chunks. The memory they reserve (two chunks and their Arrow copies) bounds how
    #    many run on a node, and makes Ray Data keep decoding and annotating apart instead of fusing them
    flow = flow.map_batches(
        cast("Callable", decode_packed),
        fn_kwargs={"job": job, "marks": marks},
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=config.decode.cpus,
        memory=4 * config.decode.chunk_mb << 20,
        **_custom(config.decode.resources),
    )
    # 3. annotate, actor pools, 1 chunk : 1 chunk with its faces
    for stage in stages:
        pool = stage.pool
        careful = {
            "actor": stage.actor,
            "arguments": dict(stage.arguments),
            "slots": stage.slots,
            "marks": marks,
            "faults": config.faults,
        }
        sizes = {"size": pool.size} if pool.size else {"min_size": pool.min_size, "max_size": pool.max_size}
        flow = flow.map_batches(
            IsolatedAnnotator,
            fn_constructor_kwargs=careful,
            batch_size=config.actors.batch_chunks or (_GPU_CHUNKS if pool.gpus else _CPU_CHUNKS),
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(**sizes),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            **_custom(pool.resources),
        )
    return flow


def _custom(resources: Mapping[str, float]) -> dict[str, Any]:
    return {"resources": dict(resources)} if resources else {}


def fit_pools(pools: Sequence[PoolConfig], resources: Mapping[str, float], nodes: int) -> list[PoolConfig]:
    """Fill in what the configuration leaves open, from what the cluster has.

    Args:
        pools: as configured.
        resources: `CPU`, `GPU` and custom resources of the whole cluster.
        nodes: machines in it.

    Raises:
        ConfigError: the pools need more than the cluster has and would wait for ever.
    """
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    fitted = []
    for pool in pools:
        share = pool.gpus if pool.gpus is not None else (1.0 / len(pools) if gpus else 0.0)
        size = pool.size
        if size is None and pool.min_size is None:
            room = min([resources.get(name, 0.0) / amount for name, amount in pool.resources.items()] or [nodes])
            size = max(1, int(gpus / len(pools) / share if share else room))
        threads = pool.threads or (None if share else max(1, int(cpus / nodes)))
        fitted.append(pool.model_copy(update={"gpus": share, "size": size, "threads": threads}))
    need_gpus = sum((p.size or p.min_size or 1) * (p.gpus or 0) for p in fitted)
    need_cpus = sum((p.size or p.min_size or 1) * p.cpus for p in fitted)
    if need_gpus > gpus + 1e-9:
        raise ConfigError(
            f"the actor pools need {need_gpus:g} GPUs, but the cluster has {gpus:g}; the run would wait for ever. "
            "Lower actors.size or actors.gpus (a fraction lets actors share a GPU, 0 runs on the CPU), or add a node."
        )
    for name in sorted({name for pool in fitted for name in pool.resources}):
        need = sum((p.size or p.min_size or 1) * p.resources.get(name, 0.0) for p in fitted)
        if need > resources.get(name, 0.0) + 1e-9:
            raise ConfigError(
                f"the actor pools need {need:g} of the resource {name!r}, but the cluster has "
                f"{resources.get(name, 0.0):g}; lower actors.size, or start nodes with --resources"
            )
    if need_cpus + 1 > cpus + 1e-9 and cpus >= 1:
        raise ConfigError(
            f"the actor pools reserve {need_cpus:g} of the cluster's {cpus:g} CPUs and leave none to decode with; "
            "lower actors.size or the pools' cpus, or add a node."
        )
    return fitted


def drop_stale(output: Output, plan: Plan, versions: Mapping[str, str]) -> None:
    """Take clips whose bytes have changed out of the tables of the slots (slot -> version)."""
    for shard, clip_ids in plan.stale.items():
        for slot, version in reversed(
            list(versions.items())
        ):  # faces go last: no table holds rows of faces that are gone
            parquet.drop_clips(output, schema.TABLE_OF_SLOT[slot], version, shard, clip_ids)


def _quarantined(output: Output, versions: Mapping[str, str], corpus: Corpus) -> list[dict]:
    mine = set(corpus.clips["clip_id"].to_pylist())
    rows = parquet.read_version(output, "quarantine", versions["quarantine"]).to_pylist()
    return [row for row in rows if row["clip_id"] in mine]
