"""Seconds and faces of each model of an actor, as plain numbers for metrics and benchmarks."""

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Adds up the seconds of the last call, those of several lanes together.

    On a GPU the host does not wait for the models, so their time is measured by events on the device, which are read
    once the results are on the host; nothing is synchronized for it (not measured: no GPU was available).
    """

    def __init__(self, device: torch.device) -> None:
        """Start at zero, for models on this device."""
        self.device = device
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Start a call at zero."""
        self._seconds: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, Any, Any]] = []
        self._faces: dict[str, int] = defaultdict(int)
        self._fill: list[float] = []

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the seconds of the body to a model, by its slot."""
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            yield
            end.record()
            self._events.append((name, begin, end))
            return
        start = time.perf_counter()
        yield
        with self._lock:
            self._seconds[name] += time.perf_counter() - start

    def batch(self, faces: int, room: int) -> None:
        """Record a batch of faces, of `room` that would fit."""
        self._fill.append(min(1.0, faces / room))

    def count(self, name: str, faces: int) -> None:
        """Record faces that went through a model, by its slot."""
        with self._lock:
            self._faces[name] += faces

    def report(self) -> dict[str, Any]:
        """Numbers of the last call; its results must be on the host.

        Returns:
            `seconds` and `faces`: slot -> number; `batch_fill`: share of each batch of faces that was full;
            `gpu_memory_bytes`: peak of this process since its start, 0 on a CPU.
        """
        seconds = dict(self._seconds)
        for name, begin, end in self._events:
            if end.query():  # else an error ended the call early
                seconds[name] = seconds.get(name, 0.0) + begin.elapsed_time(end) / 1000
        on_gpu = self.device.type == "cuda"
        memory = torch.cuda.max_memory_allocated(self.device) if on_gpu else 0
        return {
            "seconds": seconds,
            "faces": dict(self._faces),
            "batch_fill": list(self._fill),
            "gpu_memory_bytes": memory,
        }
