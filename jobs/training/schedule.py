"""A training over a given time: its learning rate, and the loop."""

import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


def annealed(rate: float, done: float, step: int) -> float:
    """Rises for 30 steps, then falls along a half cosine to a hundredth.

    Args:
        rate: the highest.
        done: share of the training that is over, 0 to 1.
        step: from 0.
    """
    return rate * (0.01 + 0.99 * (1 + math.cos(math.pi * done)) / 2) * min(1.0, (step + 1) / 30)


def descend(
    name: str,
    parameters: Iterable[nn.Parameter],
    rate: float,
    seconds: float,
    loss_of: Callable[[], Tensor],
    log: Callable[[str], None],
    save: Callable[[], None] = lambda: None,
    most_norm: float | None = None,
) -> None:
    """Descend along a loss with Adam for a given CPU time; wall time would count pauses.

    Args:
        name: of the phase, for the log.
        parameters: changed in place.
        rate: the highest learning rate.
        seconds: how long, more than 0.
        loss_of: the loss of the next batch, a scalar.
        log: called with a line of text every 25 steps.
        save: called every 100 steps.
        most_norm: longer gradients are shortened to it.
    """
    parameters = list(parameters)
    optimizer = torch.optim.Adam(parameters, lr=rate)
    step, begin = 0, time.process_time()
    while (done := (time.process_time() - begin) / seconds) < 1:
        optimizer.param_groups[0]["lr"] = annealed(rate, done, step)
        loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        if most_norm is not None:
            nn.utils.clip_grad_norm_(parameters, most_norm)
        optimizer.step()
        if step % 25 == 0:
            log(f"{name} {step} {done:.2f} {loss.item():.4f}")
        if step % 100 == 99:
            save()
        step += 1
