"""Memory of the whole flow, process by process, while it annotates a long video."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

import pipeline

MOST = 2.2e9  # bytes


def watch(process, peaks, stop):
    """Keep the largest resident memory of each process of the run, the object store's shared pages included."""
    while not stop.wait(0.5):
        for child in [process, *process.children(recursive=True)]:
            try:
                info = child.memory_info()
                name = " ".join(child.cmdline())[:60]
            except psutil.Error:
                continue
            peaks[child.pid] = max(peaks.get(child.pid, (0, name)), (info.rss, name))


@pytest.mark.parametrize("minutes", [1, pytest.param(30, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_no_process_takes_too_much(long_video, tmp_path, minutes):
    command = [Path(sys.executable).parent / "faceatlas", "annotate", long_video(minutes), tmp_path / "out"]
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    run = subprocess.Popen(
        [*map(str, command), "--every", "30", "--bundle", "tiny"], env=environment, stdout=subprocess.DEVNULL
    )
    peaks, stop = {}, threading.Event()
    watcher = threading.Thread(target=watch, args=(psutil.Process(run.pid), peaks, stop))
    watcher.start()
    code = run.wait()
    stop.set()
    watcher.join()
    largest = sorted(peaks.values(), reverse=True)[:4]
    print("\n".join(f"{rss / 1e9:.2f} GB  {name}" for rss, name in largest))
    assert code == 0
    assert largest[0][0] < MOST
    clips = pipeline.read_table(str(tmp_path / "out"), "clips").to_pylist()
    assert (clips[0]["frames"], clips[0]["sampled"]) == (minutes * 1800, minutes * 60)
    assert clips[0]["faces"] >= minutes * 60
