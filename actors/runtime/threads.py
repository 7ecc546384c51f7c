"""Threads of an actor on the CPU that work beside each other, each on pieces of its own."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Result = TypeVar("Result")


class Lanes:
    """Some threads, each of which has one thread of torch's, or the caller's alone with all of them.

    Two frames at once on one core each took 1.4 times less than one after the other on both (bundle pyfeat; tiny: 1.6):
    torch's threads meet after every operation, and much of what lies between is done by one of them.
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
        """`part` of each lane's number, in their order; raises the first lane's error, once all lanes are done."""
        if self._pool is None:
            return [part(0)]
        waiting = [self._pool.submit(part, lane) for lane in range(self.count)]
        wait(waiting)
        return [future.result() for future in waiting]
