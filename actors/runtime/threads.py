"""Parallel threads of an actor on the CPU, each with batches of frames of its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Result = TypeVar("Result")


class Lanes:
    """Threads that each use one thread of torch; or one lane, the caller's thread, that uses all of them.

    Two frames at once on one core each took 1.4 times less than one after the other on both (bundle pyfeat; tiny: 1.6):
    torch's threads meet after every operation, and much of the work between operations is done by one of them.
    """

    def __init__(self, count: int) -> None:
        """Start the threads.

        Args:
            count: of lanes; 1 leaves everything to the calling thread.
        """
        self.count = count
        self._pool = None
        if count > 1:
            self._pool = ThreadPoolExecutor(count, "lane", initializer=torch.set_num_threads, initargs=(1,))

    def run(self, part: Callable[[int], Result]) -> list[Result]:
        """Call `part` with the number of each lane, in parallel.

        Args:
            part: called once per lane, in its thread.

        Returns:
            The results in the order of the lanes.

        Raises:
            Exception: the error of the first lane that has one, once all lanes are done.
        """
        if self._pool is None:
            return [part(0)]
        waiting = [self._pool.submit(part, lane) for lane in range(self.count)]
        wait(waiting)
        return [future.result() for future in waiting]
