"""Memory of every process of a run, and use of the object store, over time.

The run has a process of its own, which loads what `faceatlas annotate` loads and samples itself and its children. USS
is memory that a process has to itself, PSS adds its share of what several hold, as are the pages of the object store.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs import annotate as job
from jobs.options import BundleOption, ConfigOption, SetOption, exit_on_error
from pipeline.errors import ConfigError

#: words in a process's title or command line -> its role; the first that fits, of all titles it had
_ROLES = {"IsolatedAnnotator": "actor", "decode_packed": "tasks", "commit_chunks": "tasks", "raylet/raylet": "raylet"}
_REST = "rest of Ray"
_MB = 1e6

EveryOption = Annotated[float, typer.Option("--every-s", min=0.05, help="Seconds between samples.")]


class Sampler(threading.Thread):
    """Samples the memory of this process and its children until it is stopped."""

    def __init__(self, every_s: float) -> None:
        super().__init__(daemon=True)
        self.every_s, self.started = every_s, time.monotonic()
        self.seconds: list[float] = []
        self.store_mb: list[float] = []
        self._titles: dict[int, str] = {}
        self._memory: list[dict[int, tuple[float, float]]] = []
        self._stop_now = threading.Event()
        self._error: Exception | None = None

    def run(self) -> None:
        """Sample, again and again."""
        try:
            while not self._stop_now.wait(self.every_s):
                self._sample()
        except Exception as error:  # raised by `stop`
            self._error = error

    def stop(self) -> dict[str, Any]:
        """End it; returns `seconds`, `store_mb`, and per role `processes`, `uss_mb` and `pss_mb`, a value a sample."""
        self._stop_now.set()
        self.join()
        if self._error:
            raise self._error
        roles = {pid: self._role(title) for pid, title in self._titles.items()}
        result: dict[str, Any] = {"seconds": self.seconds, "store_mb": self.store_mb}
        for number, name in enumerate(("uss_mb", "pss_mb")):
            series: dict[str, list[float]] = defaultdict(lambda: [0.0] * len(self._memory))
            for i, sample in enumerate(self._memory):
                for pid, values in sample.items():
                    series[roles[pid]][i] += values[number]
            result[name] = {role: [round(v, 1) for v in values] for role, values in sorted(series.items())}
        result["most_processes"] = {
            role: max(sum(roles[pid] == role for pid in sample) for sample in self._memory) for role in result["uss_mb"]
        }
        return result

    def _sample(self) -> None:
        import psutil

        me = psutil.Process()
        memory = {}
        for process in [me, *me.children(recursive=True)]:
            try:
                info = process.memory_full_info()
                title = "driver" if process == me else " ".join(process.cmdline())
            except psutil.Error:  # it has ended meanwhile
                continue
            memory[process.pid] = (info.uss / _MB, info.pss / _MB)
            # a worker's title is the task that it runs at the moment
            self._titles[process.pid] = f"{self._titles.get(process.pid, '')} {title}"
        self.store_mb.append(round(_store_used() / _MB, 1))
        self.seconds.append(round(time.monotonic() - self.started, 2))
        self._memory.append(memory)

    def _role(self, title: str) -> str:
        if title.startswith(" driver"):
            return "driver"
        return next((role for words, role in _ROLES.items() if words in title), _REST)


def _store_used() -> float:
    """Bytes of the object stores of the cluster that are in use; 0 before Ray runs."""
    ray: Any = sys.modules.get("ray")
    if not hasattr(ray, "is_initialized") or not ray.is_initialized():  # without it, it is being imported
        return 0.0
    name = "object_store_memory"
    return max(ray.cluster_resources().get(name, 0.0) - ray.available_resources().get(name, 0.0), 0.0)


def watch_memory(
    video: str,
    out: str,
    bundle: BundleOption = "tiny",
    every_s: EveryOption = 0.5,
    config: ConfigOption = None,
    assignments: SetOption = None,
) -> None:
    """Annotate in this process; the last line of its output is what was sampled, as JSON."""
    sampler = Sampler(every_s)
    sampler.start()
    report = job.run(video, out, bundle, job.settings(config, assignments, None))
    result = {"frames": report.frames, "faces": report.faces, "in_order": report.complete, **sampler.stop()}
    print(json.dumps(result))


def memory(
    video: Annotated[str, typer.Option(help="Video, folder or manifest to annotate.")],
    bundle: BundleOption = "tiny",
    every_s: EveryOption = 0.5,
    config: ConfigOption = None,
    assignments: SetOption = None,
    plot: Annotated[Path | None, typer.Option(help="SVG or PNG to write.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, with all samples.")] = False,
) -> None:
    """Memory of driver, actors, tasks and Ray, and use of the object store, while the pipeline runs.

    Example: python -m jobs.bench memory --video videos/ --bundle tiny --plot memory.svg
    """
    options = [word for text in assignments or [] for word in ("--set", text)]
    options += ["--config", str(config)] if config else []
    with exit_on_error(), tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-m", "jobs.bench.memory", video, f"{out}/out", "--bundle", bundle]
        done = subprocess.run(
            [*command, "--every-s", str(every_s), *options], stdout=subprocess.PIPE, text=True, check=False
        )
        if done.returncode:
            raise ConfigError(f"the run ended with exit code {done.returncode}; what it said is above")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    result["peak_mb"] = {name: {role: max(s) for role, s in result[name].items()} for name in ("uss_mb", "pss_mb")}
    result["peak_mb"]["store"] = max(result["store_mb"])
    if plot:
        draw(result, plot)
    if as_json:
        print(json.dumps(result))
        return
    job.console.print(f"{result['frames']} frames, {result['faces']} faces, {result['seconds'][-1]:.1f} s")
    for role, most in result["peak_mb"]["uss_mb"].items():
        shared = result["peak_mb"]["pss_mb"][role]
        number = result["most_processes"][role]
        job.console.print(f"  {role} ({number}): at most {most:.0f} MB of its own, {shared:.0f} MB with its share")
    job.console.print(f"  object store: at most {result['peak_mb']['store']:.0f} MB in use")


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw what was sampled: PSS per role, stacked, and the object store as a line."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.stackplot(result["seconds"], list(result["pss_mb"].values()), labels=list(result["pss_mb"]), alpha=0.7)
    axes.plot(result["seconds"], result["store_mb"], "k--", label="object store in use")
    axes.set(xlabel="seconds", ylabel="MB (PSS)")
    axes.legend(loc="upper left", fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    typer.run(watch_memory)
