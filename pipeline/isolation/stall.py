"""A run that waits for room that the cluster does not have says so; Ray by itself waits and says nothing."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
from ray.autoscaler.v2.sdk import get_cluster_status
from ray.exceptions import RayError

from pipeline.isolation.registry import RegistryClient

PATIENCE_S = 60.0  # without a sign of life of any worker
_LOOK_EVERY_S = 10.0


@contextmanager
def watch_for_stalls(
    marks: RegistryClient, say: Callable[[str], None], patience_s: float = PATIENCE_S, every_s: float = _LOOK_EVERY_S
) -> Iterator[None]:
    """While the body runs a flow on the running cluster, say what it waits for, once for each such thing.

    Args:
        marks: of the run; its workers tell the keeper what they begin and end.
        say: gets the words; called in a thread of its own.
        patience_s: so long nobody must have begun or ended anything.
        every_s: how often to look.
    """
    over, address = threading.Event(), ray.get_runtime_context().gcs_address

    def look() -> None:
        said: set[str] = set()
        while not over.wait(every_s):
            try:
                if marks.quiet_s() < patience_s:
                    continue
                wanted, nodes = look_for_room(address)
            except (RayError, RuntimeError, OSError):  # the cluster is going: whoever works with it says why
                continue
            if wanted and (words := describe_wait(wanted, nodes, patience_s)) not in said:
                said.add(words)
                say(words)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(1.0)


def look_for_room(address: str) -> tuple[list[tuple[int, dict[str, float]]], list[dict[str, float]]]:
    """What waits for room on a cluster, and what each of its nodes has free.

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
    wanted = [(one.count, one.bundle) for one in asked if not any(_fits(one.bundle, free) for free in nodes)]
    return wanted, nodes


def _fits(bundle: Mapping[str, float], free: Mapping[str, float]) -> bool:
    return all(free.get(name, 0.0) >= amount for name, amount in bundle.items())


def describe_wait(
    wanted: Sequence[tuple[int, Mapping[str, float]]], nodes: Sequence[Mapping[str, float]], seconds: float
) -> str:
    """What waits, for what, and what to do, in words."""
    names = sorted({name for _, bundle in wanted for name in bundle})
    free = {name: sum(node.get(name, 0.0) for node in nodes) for name in names}
    waiting = "; ".join(f"{count} with {_words(bundle)}" for count, bundle in wanted)
    return (
        f"WAITING: no worker has begun or ended anything for {seconds:.0f} s, and tasks or actors find no room: "
        f"{waiting}. Free on the nodes of the cluster ({len(nodes)}): {_words(free)}. A node may have been lost. Add "
        "nodes; or stop this run, which keeps what was finished, and run it again with smaller pools (actors.size)."
    )


def _words(resources: Mapping[str, float]) -> str:
    return ", ".join(
        f"{amount / 1e6:.0f} MB of memory" if name == "memory" else f"{amount:g} {name}"
        for name, amount in sorted(resources.items())
    )
