"""What each step learns from, and the numbers that come of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.config import StageConfig
from difftalker.core.device import threads_as_here
from difftalker.training import processes
from difftalker.training.task import Batch, Log, Task

BATCHES_AHEAD = 16
"""How many batches are made at once beside an accelerator: it takes them faster than one thread
draws landmarks."""


class Batches:
    """The batches of a training: which examples, in which parts, with which random numbers."""

    def __init__(self, task: Task, config: StageConfig, *, seed: int, parts: int) -> None:
        self._task, self._config, self._seed, self.parts = task, config, seed, parts

    def ahead(self, first: int, device: torch.device) -> Generator[list[Batch]]:
        """Those of the steps from ``first`` on; beside an accelerator several are made at once."""
        steps = range(first, self._config.steps)
        if device.type == "cpu":
            yield from map(self.batch, steps)
            return
        with ThreadPoolExecutor(BATCHES_AHEAD, initializer=threads_as_here()) as pool:
            waiting: deque[Future[list[Batch]]] = deque()
            for step in steps:
                waiting.append(pool.submit(copy_context().run, self.batch, step))
                if len(waiting) > BATCHES_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def batch(self, step: int) -> list[Batch]:
        """What step ``step`` learns from: those parts that are this process's."""
        indices = np.array_split(self.indices(step), self.parts)
        mine = range(processes.rank(), self.parts, processes.count())
        return [self._part(indices[part], step, part) for part in mine]

    def _part(self, indices: NDArray[np.int64], step: int, part: int) -> Batch:
        seed = _mix(self._seed, step) if self.parts == 1 else _mix(self._seed, step, part)
        generator = torch.Generator().manual_seed(seed)
        return Batch(indices, self._task.batch(indices, generator), generator, seed)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Each epoch is a permutation of all examples, drawn from the seed and its number."""
        first = step * self._config.batch
        places = np.arange(first, first + self._config.batch)
        epochs = places // self._task.examples
        orders = {
            e: np.random.default_rng((self._seed, int(e))).permutation(self._task.examples)
            for e in np.unique(epochs)
        }
        return np.array(
            [orders[e][p % self._task.examples] for e, p in zip(epochs, places, strict=True)]
        )


class StepNumbers:
    """Losses and gradient of a step, on their way from the device."""

    def __init__(self, step: int, numbers: Mapping[str, Tensor]) -> None:
        self.step, self._names = step, list(numbers)
        values = torch.stack([number.detach().float() for number in numbers.values()])
        self._values, self._event = values, None
        if values.is_cuda:
            self._values = torch.empty(values.shape, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> Log:
        """The numbers by name, once they are here."""
        if self._event is not None:
            self._event.synchronize()
        return dict(zip(self._names, self._values.tolist(), strict=True))


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
