"""Sizes of actor pools: what the configuration leaves open follows from the cluster, and what cannot fit is refused."""

from collections.abc import Mapping, Sequence

from pipeline.config.models import PoolConfig
from pipeline.errors import ConfigError

_ROUNDING = 1e-9


def fit_pools(pools: Sequence[PoolConfig], resources: Mapping[str, float], nodes: int) -> list[PoolConfig]:
    """Fill in what the configuration leaves open, from what the cluster has.

    Args:
        pools: as configured.
        resources: `CPU`, `GPU` and custom resources of the whole cluster.
        nodes: machines in it.

    Raises:
        ConfigError: the pools need more than the cluster has and would wait forever.
    """
    fitted = [_fit_pool(pool, len(pools), resources, nodes) for pool in pools]
    _check_room(fitted, resources)
    return fitted


def _fit_pool(pool: PoolConfig, num_pools: int, resources: Mapping[str, float], nodes: int) -> PoolConfig:
    """Without sizes of its own, pools share the GPUs evenly; without GPUs there is one actor per machine."""
    cpus, gpus = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    share = pool.gpus if pool.gpus is not None else (1.0 / num_pools if gpus else 0.0)
    size = pool.size
    if size is None and pool.min_size is None:
        room = min([resources.get(name, 0.0) / amount for name, amount in pool.resources.items()] or [nodes])
        size = max(1, int(gpus / num_pools / share if share else room))
    threads = pool.threads or (None if share else max(1, int(cpus / nodes)))
    return pool.model_copy(update={"gpus": share, "size": size, "threads": threads})


def _check_room(pools: Sequence[PoolConfig], resources: Mapping[str, float]) -> None:
    sizes = [pool.size or pool.min_size or 1 for pool in pools]
    gpus = resources.get("GPU", 0.0)
    need_gpus = sum(size * (pool.gpus or 0) for size, pool in zip(sizes, pools, strict=True))
    if need_gpus > gpus + _ROUNDING:
        raise ConfigError(
            f"the actor pools need {need_gpus:g} GPUs, but the cluster has {gpus:g}; the run would wait forever. "
            "Lower actors.size or actors.gpus (a fraction lets actors share a GPU, 0 runs on the CPU), or add a node."
        )
    for name in sorted({name for pool in pools for name in pool.resources}):
        need = sum(size * pool.resources.get(name, 0.0) for size, pool in zip(sizes, pools, strict=True))
        if need > resources.get(name, 0.0) + _ROUNDING:
            raise ConfigError(
                f"the actor pools need {need:g} of the resource {name!r}, but the cluster has "
                f"{resources.get(name, 0.0):g}; lower actors.size, or start nodes with --resources"
            )
    cpus = resources.get("CPU", 0.0)
    need_cpus = sum(size * pool.cpus for size, pool in zip(sizes, pools, strict=True))
    if need_cpus + 1 > cpus + _ROUNDING and cpus >= 1:
        raise ConfigError(
            f"the actor pools reserve {need_cpus:g} of the cluster's {cpus:g} CPUs and leave none to decode with; "
            "lower actors.size or the pools' cpus, or add a node."
        )
