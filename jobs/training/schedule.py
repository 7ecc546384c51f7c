"""The learning rate over a training."""

import math


def annealed(rate: float, done: float, step: int) -> float:
    """Rises for 30 steps, then falls along a half cosine to a hundredth.

    Args:
        rate: the highest.
        done: share of the training that is over, 0 to 1.
        step: from 0.
    """
    return rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2) * min(1.0, (step + 1) / 30)
