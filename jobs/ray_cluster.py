"""Connecting to a Ray cluster or starting one on this machine, and the actor pools of a run.

Ray and torch take seconds to load, so they are imported where they are needed: a run without work loads neither.
"""

import atexit
import logging
import os
import secrets
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from actors.runtime.settings import AnnotatorSettings
from actors.weights.bundles import Bundle
from pipeline.config.models import Config
from pipeline.errors import ConfigError
from pipeline.planning.pools import fit_pools
from pipeline.preload import preload
from pipeline.runs.model import Stage

if TYPE_CHECKING:
    from actors.annotator import Annotator

_STORE_MB_PER_CPU = 300  # a few chunks of each decoder and actor; more only keeps more frames waiting


def _most_mb() -> int:
    """Ray's own limit for the store: three tenths of the machine's memory."""
    return int(0.3 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")) >> 20


def cpus_of_own(config: Config) -> int:
    """CPUs of a cluster that is started here: decoding and an actor want one each, so a single core counts twice."""
    return config.ray.num_cpus or max(2, os.cpu_count() or 1)


def start_ray(config: Config) -> None:
    """Connect to the cluster of the configuration, of RAY_ADDRESS or of the surrounding job; else start one here.

    Raises:
        ConfigError: the address does not answer.
    """
    address = config.ray.address or os.environ.get("RAY_ADDRESS")
    if address is None:
        _close_to_strangers()
    import ray

    if ray.is_initialized():
        return
    preload("ray.data")  # while the processes of Ray start
    options: dict = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # idle OpenMP threads must not spin: decoders and actors share the cores (annotating was up to 10 times slower)
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        cpus = cpus_of_own(config)
        options |= {"num_cpus": cpus, "include_dashboard": False, "resources": _enough(config, cpus)}
        if config.ray.num_gpus is not None:
            options["num_gpus"] = config.ray.num_gpus
        # a process's resident memory counts the pages of the store that it has touched, in time all of them
        options["object_store_memory"] = (config.ray.object_store_mb or min(_STORE_MB_PER_CPU * cpus, _most_mb())) << 20
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise ConfigError(f"cannot start or reach Ray at {address or 'this machine'}: {error}") from error
    if address is None:
        atexit.register(ray.shutdown)  # before Ray's own, which first waits half a second for logs of workers
    import ray.data  # it sets the level of its own log; ours comes after

    logging.getLogger("ray.data").setLevel(logging.ERROR)


def _close_to_strangers() -> None:
    """Set a token for a cluster started here: Ray's servers listen on all interfaces, and anyone who reaches
    them without one could run code on this machine.

    Given by the environment, the token leaves no file in the user's home and ends with this process. Ray reads the
    environment when it is loaded: a program that has loaded it before decides for itself.
    """
    if "ray" not in sys.modules and os.environ.setdefault("RAY_AUTH_MODE", "token") == "token":
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _enough(config: Config, cpus: int) -> dict[str, float]:
    """Custom resources of a cluster that is started here, which is decoding and annotating nodes in one."""
    tasks = [config.decode.resources] * cpus
    actors = [pool.resources for pool in config.actors.resolved_pools() for _ in range(pool.max_size or pool.size or 1)]
    enough: dict[str, float] = {}
    for resources in (*tasks, *actors):
        for name, amount in resources.items():
            enough[name] = enough.get(name, 0.0) + amount
    return enough


def make_stages(bundle: Bundle, config: Config) -> list[Stage]:
    """The actor pools that host a bundle on the running cluster.

    Raises:
        ConfigError: a pool names a slot that is not in the bundle, a slot has two pools or none, or comes too late.
    """
    import ray

    resources = ray.cluster_resources()
    if lacking := {name for name, amount in config.decode.resources.items() if resources.get(name, 0.0) < amount}:
        raise ConfigError(
            f"no node of the cluster has the resource {', '.join(sorted(lacking))} that decode.resources asks for; the "
            "run would wait forever. Start nodes with --resources, or leave the setting out."
        )
    alive = [node for node in ray.nodes() if node["Alive"]]
    pools = fit_pools(config.actors.resolved_pools(), resources, len(alive))
    assigned = assign_slots([pool.slots for pool in pools], bundle)
    stages = []
    for i, (pool, slots) in enumerate(zip(pools, assigned, strict=True)):
        settings = annotator_settings(config, threads=pool.threads, keep_frames=i + 1 < len(pools))
        models = [model for model in bundle.models if model.slot in slots]
        arguments = {"models": models, "settings": settings}
        stages.append(Stage(make_annotator, arguments, pool, slots))
    return stages


def annotator_settings(config: Config, **others: Any) -> AnnotatorSettings:
    """Settings of an actor by the configuration of a run; `others` are those that it does not hold, or replace it."""
    settings = AnnotatorSettings(
        device=config.actors.device,
        batch_frames=config.actors.batch_frames,
        batch_pixels=config.actors.batch_pixels,
        batch_faces=config.actors.batch_faces,
        cache=config.models.cache,
        precision=config.actors.precision,
        winograd=config.actors.winograd,
        storage_options=config.storage.options,
    )
    return replace(settings, **others)


def make_annotator(**arguments: Any) -> "Annotator":
    """An actor, made in the worker: only there is torch loaded."""
    from actors.annotator import Annotator

    return Annotator(**arguments)


def assign_slots(wanted: Sequence[Sequence[str] | None], bundle: Bundle) -> list[tuple[str, ...]]:
    """Which slots each pool hosts: those it names; a pool that names none takes all that are left.

    Raises:
        ConfigError: see `make_stages`.
    """
    filled = list(bundle.versions)
    named = [slot for slots in wanted for slot in slots or ()]
    if unknown := [slot for slot in named if slot not in filled]:
        raise ConfigError(
            f"actors.pools: bundle {bundle.name} has no slot {', '.join(unknown)}; it has {', '.join(filled)}"
        )
    if len(set(named)) < len(named):
        raise ConfigError("actors.pools: a slot belongs to one pool; here one is named twice")
    rest = [slot for slot in filled if slot not in named]
    open_pools = [i for i, slots in enumerate(wanted) if slots is None]
    if len(open_pools) > 1:
        raise ConfigError("actors.pools: only one pool may leave out 'slots' and take all that are left")
    if rest and not open_pools:
        raise ConfigError(f"actors.pools: no pool hosts {', '.join(rest)}; add them, or a pool without 'slots'")
    assigned = [tuple(rest) if slots is None else tuple(slots) for slots in wanted]
    ready: set[str] = set()
    for slots in assigned:
        for slot in slots:
            model = bundle.slot(slot)
            late = [need for need in (model.needs if model else ()) if need not in ready and need not in slots]
            if model and model.input == "detector" and "face" not in slots:
                raise ConfigError(
                    f"actors.pools: {slot} reads what the face model says; put it into the pool that hosts face"
                )
            if late:
                raise ConfigError(
                    f"actors.pools: {slot} reads {', '.join(late)}, which comes in a later pool; reorder the pools"
                )
        ready.update(slots)
    return assigned
