"""Work for child processes and careful actors, importable by name in any process."""

import ctypes
import os
import signal
import time

import pyarrow as pa


def counting():
    return lambda number: range(number)


def deadly():
    """Gives two items, then does what it is asked to."""

    def work(what):
        yield "first"
        yield "second"
        if what == "segfault":
            ctypes.string_at(0)
        if what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            os._exit(3)
        if what == "hang":
            ctypes.PyDLL(None).sleep(3600)  # keeps the interpreter lock
        if what == "eat":
            eaten = []
            while True:
                eaten.append(b"x" * (16 << 20))
                time.sleep(0.005)
        if what == "raise":
            raise ValueError("asked to")

    return work


def broken():
    raise RuntimeError("cannot be made")


def sleeping_forever():
    def work(path):
        yield os.getpid()
        time.sleep(3600)

    return work


class OutOfMemoryError(RuntimeError):
    """Named like that of torch."""


class Marker:
    """An actor that finds one face of ones in each frame; the chunk's first ordinal says what else it does."""

    ABORTS, RAISES, TOO_LARGE, BREAKS_DEVICE = 1000, 2000, 3000, 4000

    def __init__(self, log):
        self.log = log

    def __call__(self, chunks):
        firsts = chunks["first"].to_pylist()
        with open(self.log, "a") as log:  # noqa: PTH123
            log.write(f"{os.getpid()} {firsts}\n")
        if self.ABORTS in firsts:
            os.abort()
        if self.RAISES in firsts:
            raise ValueError("a magic number")
        if self.TOO_LARGE in firsts:
            raise OutOfMemoryError("tried to allocate 99 GB")
        if self.BREAKS_DEVICE in firsts:
            raise RuntimeError("CUDA error: device-side assert triggered")
        counts = [len(frames) for frames in chunks["frames"].to_pylist()]
        for name, width in (("face_index", 1), ("face", 16)):
            values = [list(range(n)) if name == "face_index" else [1.0] * (width * n) for n in counts]
            place = chunks.schema.get_field_index(name)
            field = chunks.schema.field(place)
            chunks = chunks.set_column(place, field, pa.array(values, field.type))
        return chunks
