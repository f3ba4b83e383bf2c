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
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from difftalker.config import StageConfig
from difftalker.core.device import autocast
from difftalker.core.files import write_whole
from difftalker.core.jobs import Cancel, Event, OnEvent, never, no_event
from difftalker.errors import Cancelled, TrainingError
from difftalker.training import processes
from difftalker.training.batches import Batches, StepNumbers
from difftalker.training.checkpoint import (
    flatten_optimizer,
    load_checkpoint,
    restore_optimizer,
    save_checkpoint,
)
from difftalker.training.task import Batch, Fits, Log, Prepares, Task, recompute

GRADIENT = "gradient"
"""The norm of the gradient, among a step's losses."""
OnValidation = Callable[[Task, Log], None]


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
        self.batches = Batches(task, config, seed=seed, parts=max(config.parts, processes.count()))
        self.behind = 0 if self.device.type == "cpu" else 1
        """Steps whose numbers may be on their way while the next one is taken."""
        self._under_way: deque[StepNumbers] = deque()
        if config.recompute:
            recompute(task.model)
        folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        if self.batches.parts > config.batch:
            raise TrainingError(
                f"a batch of {config.batch} in {self.batches.parts} parts",
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
        losses: Log = {}
        self.task.model.train()
        with closing(self.batches.ahead(self.step, self.device)) as batches:
            for batch in batches:
                self._under_way.append(self.one_step(batch))
                self.step += 1
                self.seconds = self._agreed(time.monotonic() - began)
                bar.update(self._done() - bar.n)
                losses = self._arrived() or losses
                if self._due(self.config.log_every):
                    losses = self._arrived(all_of_them=True) or losses
                    bar.set_postfix_str(f"loss {losses['loss']:.4f}")
                    self._log({"step": self.step, "seconds": round(self.seconds, 2), **losses})
                if self._due(self.config.validate_every):
                    numbers = self._validate()
                if self._due(self.config.checkpoint_every):
                    self._save(numbers)
                text = f"loss {losses['loss']:.4f}" if losses else ""
                done, total = self._done(), self._total()
                on_event(Event(stage=self.task.name, done=done, total=total, text=text))
                if processes.summed({"stop": float(cancel())})["stop"]:
                    self._stop(numbers)
                if self.ended:
                    break
        bar.close()
        self.use_ema()
        return numbers

    def _arrived(self, *, all_of_them: bool = False) -> Log:
        """The losses of the last step whose numbers are here; nothing if none came.

        An accelerator is not waited for: its numbers are read while it computes the next step.
        """
        behind = 0 if all_of_them else self.behind
        losses: Log = {}
        while len(self._under_way) > behind:
            losses = self._checked(self._under_way.popleft())
            norm = losses.pop(GRADIENT)
            losses = {**processes.summed(losses), GRADIENT: norm}
        return losses

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

    def one_step(self, batch: list[Batch]) -> StepNumbers:
        """Take one step; returns its losses and the norm of its gradient.

        Nothing in it waits for an accelerator.

        Raises:
            TrainingError: a loss or gradient is not finite, and the weights are unchanged. On an
                accelerator that is found out a step later.
        """
        self.optimizer.zero_grad(set_to_none=True)
        losses: dict[str, Tensor] = {}
        for part in batch:
            for name, value in self._descend(part).items():
                losses[name] = losses[name] + value if name in losses else value
        processes.sum_gradients(list(self.parameters.values()))
        limit = self.config.clip_norm or math.inf
        losses[GRADIENT] = nn.utils.clip_grad_norm_(self.parameters.values(), limit)
        numbers = StepNumbers(self.step, losses)
        if not self.behind:
            self._checked(numbers)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate()
        self.optimizer.step()
        self._average()
        return numbers

    def _descend(self, part: Batch) -> dict[str, Tensor]:
        """Add a part's gradients to those that are there; returns its share of the losses."""
        with autocast(self.device, self.autocast):
            # Dropout has no generator argument: it draws from the global one.
            torch.manual_seed(part.seed)
            losses = self.task.loss(part.examples, part.generator)
        share = len(part.indices) / self.config.batch
        (share * losses["loss"]).backward()
        return {name: share * value.detach() for name, value in losses.items()}

    def _checked(self, numbers: StepNumbers) -> Log:
        """This process's share of a step's losses, and the norm of the gradient.

        Raises:
            TrainingError: the loss that is descended, or the gradient, is not finite.
        """
        losses = numbers.read()
        # A finite loss may have a gradient that is not: one step on, all weights would be lost.
        for key in ("loss", GRADIENT):
            if not math.isfinite(losses[key]):
                clips = sorted(set(self.task.describe(self.batches.indices(numbers.step))))
                raise TrainingError(
                    f"the {key} of stage {self.task.name} is {losses[key]} at step {numbers.step}",
                    wanted="a finite number",
                    fix=f"look at the clips {', '.join(clips)}, or lower the learning rate",
                )
        return losses

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
        self._arrived(all_of_them=True)  # weights of a step that failed are not to be kept
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
            "parts": self.batches.parts,
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
            self.batches.parts = facts.get("parts", 1)
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
