"""The training loop. It knows steps, optimizer, EMA, checkpoints and logs, but no loss.

All randomness of step ``n`` comes from a generator seeded with (seed, n), so a run that was killed
and resumed takes the very same steps as one left alone. A batch may be learned from in several
parts, one after the other or in several processes (``training.processes``), each with a generator
of its own: the steps are the same however many processes share the parts.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from difftalker.config import StageConfig
from difftalker.core.device import autocast, threads_as_here
from difftalker.core.files import write_whole
from difftalker.core.jobs import Cancel, Event, OnEvent, never, no_event
from difftalker.errors import Cancelled, TrainingError
from difftalker.training import processes
from difftalker.training.checkpoint import (
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from difftalker.training.task import Batch, Fits, Log, Prepares, Task, recompute

OnValidation = Callable[[Task, Log], None]

BATCHES_AHEAD = 16
"""How many batches are made at once beside an accelerator: it takes them faster than one thread
draws landmarks."""


class Trainer:
    """Runs one task for the steps of its config, from wherever it was left."""

    def __init__(
        self,
        task: Task,
        config: StageConfig,
        folder: Path,
        *,
        seed: int = 0,
        autocast: bool = True,
        device: str = "cpu",
    ) -> None:
        self.task, self.config, self.folder, self.seed = task, config, folder, seed
        self.device = torch.device(device)
        self.autocast = autocast
        self.parameters = {k: p for k, p in task.model.named_parameters() if p.requires_grad}
        self.optimizer = _new_optimizer(config, list(self.parameters.values()))
        self.ema = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.step = 0
        self.seconds = 0.0
        self.on_validation: OnValidation = lambda task, numbers: None
        """Called with the task and its numbers, the averaged weights in its networks."""
        self.parts = max(config.parts, processes.count())
        if config.recompute:
            recompute(task.model)
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        if self.parts > config.batch:
            raise TrainingError(
                f"a batch of {config.batch} in {self.parts} parts",
                wanted="a part of one example at least",
                fix=f"set training.{task.name}.batch higher, or take fewer processes",
            )

    def run(self, on_event: OnEvent = no_event, cancel: Cancel = never) -> Log:
        """Train to the end; returns the last validation's numbers.

        ``cancel`` is asked after each step; a checkpoint is saved before the run ends.

        Raises:
            TrainingError: a loss is not finite; names step and clips.
            Cancelled: ``cancel`` returned True.
        """
        if self.step == 0 and isinstance(self.task, Fits):
            self.task.fit()
            processes.share(self.task.model)
        if self.ended:
            return self._last_validation()
        if isinstance(self.task, Prepares):
            with processes.first_alone():
                self.task.prepare()
        bar = self._bar()
        began = time.monotonic() - self.seconds
        numbers: Log = {}
        self.task.model.train()
        with closing(self._batches()) as batches:
            for batch in batches:
                losses = self.one_step(batch)
                self.step += 1
                self.seconds = self._agreed(time.monotonic() - began)
                bar.update(self._done() - bar.n)
                if self._due(self.config.log_every):
                    bar.set_postfix_str(f"loss {losses['loss']:.4f}")
                    self._log({"step": self.step, "seconds": round(self.seconds, 2), **losses})
                if self._due(self.config.validate_every):
                    numbers = self._validate()
                if self._due(self.config.checkpoint_every):
                    self._save(numbers)
                text = f"loss {losses['loss']:.4f}"
                done, total = self._done(), self._total()
                on_event(Event(stage=self.task.name, done=done, total=total, text=text))
                if processes.summed({"stop": float(cancel())})["stop"]:
                    self._stop(numbers)
                if self.ended:
                    break
        bar.close()
        self.use_ema()
        return numbers

    def _bar(self) -> tqdm[Any]:
        """A bar of steps, or of a time in seconds that they are given."""
        return tqdm(
            total=self._total(),
            initial=self._done(),
            desc=self.task.name,
            unit="s" if self.config.minutes else "step",
            mininterval=2.0,
            disable=processes.rank() > 0,
        )

    def _stop(self, numbers: Log) -> None:
        self._save(numbers)
        raise Cancelled(
            f"stage {self.task.name} was cancelled at step {self.step} of {self.config.steps}",
            fix="the same run goes on from there",
        )

    def use_ema(self) -> None:
        """Leave the averaged weights in the model."""
        with torch.no_grad():
            for key, parameter in self.parameters.items():
                parameter.copy_(self.ema[key])
        self.task.model.eval()

    @property
    def ended(self) -> bool:
        """Whether all steps are taken, or all time is spent."""
        return self._share() >= 1

    def _share(self) -> float:
        """How much of the training is done, 0 to 1."""
        if self.step >= self.config.steps:
            return 1.0
        of_time = self.seconds / (60 * self.config.minutes) if self.config.minutes else 0.0
        return min(1.0, max(of_time, self.step / self.config.steps))

    def _agreed(self, seconds: float) -> float:
        """The time spent as all processes count it, where steps depend on it."""
        if not self.config.minutes:
            return seconds
        return processes.summed({"seconds": seconds})["seconds"] / processes.count()

    def _total(self) -> int:
        """What there is to do, steps, or seconds in a given time."""
        return round(60 * self.config.minutes) if self.config.minutes else self.config.steps

    def _done(self) -> int:
        """How much of it is done."""
        return int(self._share() * self._total() + 1e-6)

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.ended

    def _batches(self) -> Generator[list[Batch]]:
        """The batches of the steps to come."""
        steps = range(self.step, self.config.steps)
        if self.device.type == "cpu":
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
        indices = np.array_split(self._indices(step), self.parts)
        mine = range(processes.rank(), self.parts, processes.count())
        return [self._part(indices[part], step, part) for part in mine]

    def _part(self, indices: NDArray[np.int64], step: int, part: int) -> Batch:
        seed = _mix(self.seed, step) if self.parts == 1 else _mix(self.seed, step, part)
        generator = torch.Generator().manual_seed(seed)
        return Batch(indices, self.task.batch(indices, generator), generator, seed)

    def one_step(self, batch: list[Batch]) -> Log:
        """Take one step; returns its losses and the norm of its gradient."""
        self.optimizer.zero_grad(set_to_none=True)
        losses: Log = {}
        for part in batch:
            for name, value in self._descend(part).items():
                losses[name] = losses.get(name, 0.0) + value
        losses = processes.summed(losses)
        processes.sum_gradients(list(self.parameters.values()))
        limit = self.config.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        # A finite loss may have a gradient that is not: one step on, all weights would be lost.
        self._check_finite("gradient", norm, self._indices(self.step))
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate()
        self.optimizer.step()
        self._average()
        return {**losses, "gradient": float(norm)}

    def _descend(self, part: Batch) -> Log:
        """Add a part's gradients to those that are there; returns its share of the losses."""
        with autocast(self.device, self.autocast):
            # Dropout has no generator argument: it draws from the global one.
            torch.manual_seed(part.seed)
            losses = self.task.loss(part.examples, part.generator)
        self._check_finite("loss", losses["loss"], part.indices)
        share = len(part.indices) / self.config.batch
        (share * losses["loss"]).backward()
        return {name: share * float(value.detach()) for name, value in losses.items()}

    def _check_finite(self, name: str, value: Tensor, indices: NDArray[np.int64]) -> None:
        if math.isfinite(value.item()):
            return
        clips = ", ".join(sorted(set(self.task.describe(indices))))
        raise TrainingError(
            f"the {name} of stage {self.task.name} is {value.item()} at step {self.step}",
            wanted="a finite number",
            fix=f"look at the clips {clips}, or lower the learning rate",
        )

    def _indices(self, step: int) -> NDArray[np.int64]:
        """Each epoch is a permutation of all examples, drawn from the seed and its number."""
        first = step * self.config.batch
        places = np.arange(first, first + self.config.batch)
        epochs = places // self.task.examples
        orders = {
            e: np.random.default_rng((self.seed, int(e))).permutation(self.task.examples)
            for e in np.unique(epochs)
        }
        return np.array(
            [orders[e][p % self.task.examples] for e, p in zip(epochs, places, strict=True)]
        )

    def _rate(self) -> float:
        """Warm-up, then as it is, or half a cosine down to ``final_rate``."""
        warm = min(1.0, (self.step + 1) / max(1, self.config.warmup_steps))
        if self.config.schedule == "constant":
            return warm
        fall = 0.5 * (1 + math.cos(math.pi * self._share()))
        return warm * (self.config.final_rate + (1 - self.config.final_rate) * fall)

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        averages = list(self.ema.values())
        live: list[Tensor] = list(self.parameters.values())
        torch._foreach_lerp_(averages, live, 1 - decay)

    def _validate(self) -> Log:
        """Numbers and sheet of the averaged weights, by the first process."""
        if processes.rank():
            return {}
        live = {k: p.detach().clone() for k, p in self.parameters.items()}
        self.use_ema()
        with torch.no_grad():
            numbers = self.task.validate()
            sheet = self.task.sheet()
            self.on_validation(self.task, numbers)
            for key, parameter in self.parameters.items():
                parameter.copy_(live[key])
        self.task.model.train()
        self._log({"step": self.step, **{f"validation_{k}": v for k, v in numbers.items()}})
        if sheet is not None:
            from PIL import Image

            Image.fromarray(sheet).save(self.folder / f"sheet-{self.step:06d}.png")
        return numbers

    def _log(self, record: Mapping[str, Any]) -> None:
        if processes.rank():
            return
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(dict(record)) + "\n")

    def _save(self, numbers: Log) -> None:
        if processes.rank():
            return
        buffers = dict(self.task.model.named_buffers())
        fitted = self.task.fitted if isinstance(self.task, Fits) else ()
        tensors = {
            f"model.{k}": v
            for k, v in self.task.model.state_dict().items()
            if k in self.parameters or k in buffers or k.startswith(fitted)
        }
        tensors |= {f"ema.{k}": v for k, v in self.ema.items()}
        tensors |= {f"optimizer.{k}": v for k, v in flatten_optimizer(self.optimizer).items()}
        facts = {
            "step": self.step,
            "seconds": self.seconds,
            "seed": self.seed,
            "parts": self.parts,
            "validation": numbers,
        }
        save_checkpoint(self.folder / "checkpoint", tensors, facts)

    def _resume(self) -> None:
        saved = load_checkpoint(self.folder / "checkpoint")
        if saved is None:
            if not processes.rank():
                (self.folder / "log.jsonl").unlink(missing_ok=True)
            return
        tensors, facts = saved
        if facts["seed"] != self.seed:
            raise TrainingError(
                f"the run in {self.folder} was begun with seed {facts['seed']}",
                wanted=f"seed {self.seed}",
                fix="use its seed, or another output folder",
            )
        self._restore(tensors)
        self.step, self.seconds = facts["step"], facts["seconds"]
        if self.config.parts == 1:  # however many processes there were, and are now
            self.parts = facts.get("parts", 1)
        if not processes.rank():
            self._cut_log()
        if self.ended:
            self.use_ema()

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        def part(name: str) -> dict[str, Tensor]:
            return {k[len(name) + 1 :]: v for k, v in tensors.items() if k.startswith(name + ".")}

        own = part("model")
        if set(part("ema")) != set(self.parameters):
            raise TrainingError(
                f"the checkpoint in {self.folder} is of another model",
                wanted="the same preset",
                fix="use another output folder",
            )
        self.task.model.load_state_dict(own, strict=False)
        for key, value in part("ema").items():
            self.ema[key].copy_(value)
        restore_optimizer(self.optimizer, part("optimizer"))

    def _cut_log(self) -> None:
        """Forget what was logged after the checkpoint: those steps are taken again."""
        path = self.folder / "log.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        kept = [line for line in lines if _step_of(line) <= self.step]
        write_whole(path, "".join(line + "\n" for line in kept))

    def _last_validation(self) -> Log:
        saved = load_checkpoint(self.folder / "checkpoint")
        return dict(saved[1]["validation"]) if saved else {}


def _new_optimizer(config: StageConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    kinds: dict[str, Any] = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
    first, second = config.betas
    optimizer: torch.optim.Optimizer = kinds[config.optimizer](
        parameters,
        lr=config.learning_rate,
        betas=(first, second),
        weight_decay=config.weight_decay,
    )
    return optimizer


def _step_of(line: str) -> float:
    """The step of a log line; a line cut off by a kill counts as the future."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


def _mix(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
