"""The stall watchdog: warns when a run waits for resources that the cluster does not have; Ray waits silently."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError

from pipeline.isolation.registry import RegistryClient

PATIENCE_S = 60.0  # without a call of any worker
_LOOK_EVERY_S = 10.0


@contextmanager
def watch_for_stalls(
    registry: RegistryClient, say: Callable[[str], None], patience_s: float = PATIENCE_S, every_s: float = _LOOK_EVERY_S
) -> Iterator[None]:
    """While the body runs a flow on the running cluster, report what it waits for, each such resource once.

    Args:
        registry: of the run; its workers register what they start and finish.
        say: gets the message; called in a thread of its own.
        patience_s: time without any registration before the run counts as stalled.
        every_s: interval of the checks.
    """
    over, address = threading.Event(), ray.get_runtime_context().gcs_address

    def look() -> None:
        said: set[str] = set()
        while not over.wait(every_s):
            try:
                if registry.quiet_s() < patience_s:
                    continue
                demand, nodes = find_demand(address)
            except (RayError, RuntimeError, OSError):  # the cluster is shutting down: whoever uses it reports why
                continue
            if demand and (message := describe_wait(demand, nodes, patience_s)) not in said:
                said.add(message)
                say(message)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(1.0)


def find_demand(address: str) -> tuple[list[tuple[int, dict[str, float]]], list[dict[str, float]]]:
    """The tasks and actors that wait for resources, and the free resources of each node.

    Args:
        address: of the cluster's GCS.

    Returns:
        (how many, resources of each) of tasks and actors that fit on no node as it is; free resources of each node.
    """
    status = get_cluster_status(address)
    nodes = [
        {use.resource_name: use.total - use.used for use in node.resource_usage.usage}
        for node in [*status.active_nodes, *status.idle_nodes]
        if node.resource_usage is not None
    ]
    asked = [
        by_count for demand in status.resource_demands.ray_task_actor_demand for by_count in demand.bundles_by_count
    ]
    demand = [(one.count, one.bundle) for one in asked if not any(_fits(one.bundle, free) for free in nodes)]
    return demand, nodes


def _fits(bundle: Mapping[str, float], free: Mapping[str, float]) -> bool:
    return all(free.get(name, 0.0) >= amount for name, amount in bundle.items())


def describe_wait(
    demand: Sequence[tuple[int, Mapping[str, float]]], nodes: Sequence[Mapping[str, float]], seconds: float
) -> str:
    """The message: what waits, for which resources, and what to do."""
    names = sorted({name for _, bundle in demand for name in bundle})
    free = {name: sum(node.get(name, 0.0) for node in nodes) for name in names}
    waiting = "; ".join(f"{count} with {_list(bundle)}" for count, bundle in demand)
    return (
        f"WAITING: no worker has started or finished anything for {seconds:.0f} s, and tasks or actors fit on no node: "
        f"{waiting}. Free on the nodes of the cluster ({len(nodes)}): {_list(free)}. A node may have been lost. Add "
        "nodes; or stop this run, which keeps what is finished, and run it again with smaller pools (actors.size)."
    )


def _list(resources: Mapping[str, float]) -> str:
    return ", ".join(
        f"{amount / 1e6:.0f} MB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in sorted(resources.items())
    )
