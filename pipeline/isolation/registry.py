"""The attempt registry: in-flight marks kept outside the workers tell a clip that kills its worker from its neighbors.

Ray retries a task whose process died any number of times and does not say what killed it. So every worker registers
what it is about to work on with one small actor beside the driver. A worker that registers a clip which another process
still holds does so because that process died: the clip (for actors: the chunk) is a suspect and is isolated.

A mark costs one call within the cluster, about a millisecond, and no access to the storage. What must outlive the
cluster is written to the output: a death at once, to `attempts/<clip_id>.json`, as deaths are rare; and every few
seconds all open marks, to `attempts/open.json`, which a run removes when it ends. Clips that were in flight when a
machine or the driver died are isolated once by the next run.
"""

import contextlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.storage.output import Output, open_output, write_bytes

FOLDER = "attempts"
SNAPSHOT_S = 2.0
_OPEN = f"{FOLDER}/open.json"
_ASK_STOP_S = 1.0  # age at which the answer of `stopping` is asked for again


@dataclass(frozen=True)
class InFlightMark:
    """An in-flight mark: the clip or chunk that a worker works on.

    Attributes:
        stage: `decode`, or `annotate` with the slots of the pool.
        clip_id: the clip.
        fingerprint: of its bytes; deaths over other bytes do not count.
        part: the part of the clip: a checksum of its slots, or the chunk's first frame.
    """

    stage: str
    clip_id: str
    fingerprint: str | None
    part: int


class AttemptRegistry:
    """All in-flight marks of a run. One instance, in an actor that outlives the workers; calls come one by one."""

    def __init__(
        self, out: str, storage_options: Mapping[str, Any] | None = None, snapshot_s: float = SNAPSHOT_S
    ) -> None:
        """Read what earlier runs left.

        Args:
            out: output folder.
            storage_options: for fsspec.
            snapshot_s: seconds between snapshots of the open marks; 0: only by `snapshot`.
        """
        self._output = open_output(out, storage_options)
        self._lock = threading.Lock()
        self._held: dict[str, set[InFlightMark]] = {}
        self._holder: dict[InFlightMark, str] = {}
        self._deaths: dict[InFlightMark, list[str]] = {}
        self._stop = False
        self._last_call = time.monotonic()
        self._written: list[dict] | None = None
        self._load()
        if snapshot_s:
            threading.Thread(target=self._snapshots, args=(snapshot_s,), daemon=True).start()

    def hold(self, worker: str, marks: Sequence[InFlightMark]) -> list[int]:
        """Register what a worker works on from now on; it releases all that it held.

        Returns:
            Deaths of each so far, with one that this call reveals.
        """
        self._last_call = time.monotonic()
        died = [mark for mark in marks if self._holder.get(mark, worker) != worker]
        for mark in died:
            self.died(mark, "its worker died")
        with self._lock:
            self._release(worker)
            self._held[worker] = set(marks)
            self._holder |= dict.fromkeys(marks, worker)
            return [len(self._deaths.get(mark, ())) for mark in marks]

    def release(self, worker: str) -> None:
        """Release all that a worker holds."""
        self._last_call = time.monotonic()
        with self._lock:
            self._release(worker)

    def died(self, mark: InFlightMark, reason: str) -> int:
        """Count and store a death; returns how many there are now."""
        with self._lock:
            self._deaths.setdefault(mark, []).append(reason)
            own = {m: reasons for m, reasons in self._deaths.items() if m.clip_id == mark.clip_id}
        content = [{**asdict(m), "deaths": reasons} for m, reasons in own.items()]
        write_bytes(self._output, f"{FOLDER}/{mark.clip_id}.json", json.dumps(content, indent=2).encode())
        return len(own[mark])

    def stop(self) -> None:
        """From now on no worker starts anything new."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether a shutdown was requested."""
        return self._stop

    def quiet_s(self) -> float:
        """Seconds since a worker last started or finished something."""
        return time.monotonic() - self._last_call

    def finish(self, ended: Iterable[str]) -> None:
        """The run ends: remove its open marks, and the deaths of the clips that have an outcome now."""
        with self._lock:
            self._held.clear()
            self._holder.clear()
            self._written = []
        remove_deaths(self._output, set(ended) & {mark.clip_id for mark in self._deaths})
        _remove(self._output, _OPEN)

    def snapshot(self) -> None:
        """Store the open marks, if they changed since the last time."""
        with self._lock:
            marks = [asdict(mark) for mark in self._holder]
        if marks != self._written:
            write_bytes(self._output, _OPEN, json.dumps(marks).encode())
            self._written = marks

    def _release(self, worker: str) -> None:
        for mark in self._held.pop(worker, ()):
            if self._holder.get(mark) == worker:
                del self._holder[mark]

    def _load(self) -> None:
        output = self._output
        try:
            names = [str(name) for name in output.fs.ls(output.path(FOLDER), detail=False)]
        except FileNotFoundError:
            return
        for name in names:
            if name.endswith(".json") and not name.endswith("/open.json"):
                for entry in json.loads(output.fs.cat_file(name)):
                    reasons = entry.pop("deaths")
                    self._deaths[InFlightMark(**entry)] = reasons
        if output.exists(_OPEN):
            for entry in json.loads(output.fs.cat_file(output.path(_OPEN))):
                # not stored as a death: a driver or a machine ends for many reasons
                self._deaths.setdefault(InFlightMark(**entry), ["the run ended while it was worked on"])

    def _snapshots(self, every_s: float) -> None:
        while True:
            time.sleep(every_s)
            try:
                self.snapshot()
            except OSError:
                self._written = None  # the storage does not answer for a moment: retried next time


class RegistryClient:
    """A worker's client of the registry; each process has a name of its own."""

    def __init__(self, registry: Any) -> None:
        self._registry = registry
        self._asked, self._stopping = -_ASK_STOP_S, False

    def hold(self, marks: Sequence[InFlightMark]) -> list[int]:
        """See AttemptRegistry.hold; waits, as the marks must be there before the work starts."""
        return self._call("hold", worker_name(), list(marks))

    def release(self) -> None:
        """See AttemptRegistry.release."""
        self._send("release", worker_name())

    def died(self, mark: InFlightMark, reason: str) -> int:
        """See AttemptRegistry.died."""
        return self._call("died", mark, reason)

    def stopping(self) -> bool:
        """See AttemptRegistry.stopping; asks at most once a second."""
        if not self._stopping and time.monotonic() - self._asked >= _ASK_STOP_S:
            self._asked = time.monotonic()
            self._stopping = self._call("stopping")
        return self._stopping

    def stop(self) -> None:
        """See AttemptRegistry.stop."""
        self._call("stop")

    def quiet_s(self) -> float:
        """See AttemptRegistry.quiet_s."""
        return self._call("quiet_s")

    def finish(self, ended: Iterable[str]) -> None:
        """See AttemptRegistry.finish."""
        self._call("finish", list(ended))

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the registry and wait for its result; here the registry is an object of this process."""
        return getattr(self._registry, method)(*arguments)

    def _send(self, method: str, *arguments: Any) -> None:
        """Call a method of the registry without waiting."""
        self._call(method, *arguments)


_name: tuple[int, str] | None = None


def worker_name() -> str:
    """Name of this process; no other process on any machine, earlier or later, has the same."""
    global _name
    if _name is None or _name[0] != os.getpid():
        _name = (os.getpid(), uuid.uuid4().hex)
    return _name[1]


def remove_deaths(output: Output, clip_ids: Iterable[str]) -> None:
    """Remove the deaths of clips, as for a clip that is to be retried from the start."""
    for clip_id in clip_ids:
        _remove(output, f"{FOLDER}/{clip_id}.json")


def _remove(output: Output, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        output.fs.rm_file(output.path(path))


# -- as a Ray actor beside the driver; Ray reads its environment when it is loaded, so not with this module ----------


class RemoteRegistryClient(RegistryClient):
    """Client of a registry that is a Ray actor."""

    def _call(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._registry, method).remote(*arguments))

    def _send(self, method: str, *arguments: Any) -> None:
        getattr(self._registry, method).remote(*arguments)


def start_registry(out: str, storage_options: Mapping[str, Any]) -> RemoteRegistryClient:
    """Start the registry of a run on the driver's machine: the loss of that machine ends the run anyway.

    If only the registry's process dies, Ray restarts it: deaths are on the storage, open marks are those of the last
    snapshot.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1, "scheduling_strategy": here}
    return RemoteRegistryClient(ray.remote(AttemptRegistry).options(**options).remote(out, dict(storage_options)))
