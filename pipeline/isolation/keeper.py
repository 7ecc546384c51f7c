"""The keeper of attempts as a Ray actor beside the driver, and the way to it from tasks and actors."""

from collections.abc import Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.isolation.registry import Attempts, Marks


class RemoteMarks(Marks):
    """Marks whose keeper is a Ray actor."""

    def _call(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._keeper, method).remote(*arguments))

    def _send(self, method: str, *arguments: Any) -> None:
        getattr(self._keeper, method).remote(*arguments)


def start_keeper(out: str, storage_options: Mapping[str, Any]) -> RemoteMarks:
    """Start the keeper of a run on the driver's machine: whose loss ends the run, so it outlives all workers.

    Should the process of the keeper alone die, Ray restarts it: deaths are on the storage, open marks are those of the
    last snapshot.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return RemoteMarks(ray.remote(Attempts).options(**options).remote(out, dict(storage_options)))
