"""What the tests of training share: runs at debug size, and reading what they leave."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from difftalker import config as configs
from difftalker.config import STAGES
from difftalker.training.checkpoint import load_checkpoint
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run

STEPS = configs.debug().training.landmarks.steps

# What a child process imports once, for all children that are forked from it.
WARM = (
    "helpers_training",
    "difftalker.training.run",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
)

KILLABLE = (str(Path("difftalker", "training")), str(Path("data", "latents.py")))
"""Code whose lines are counted, to be killed at one of them."""


def run_at(dataset: Path, folder: Path, stages: tuple[str, ...] = STAGES) -> Run:
    return Run(configs.debug(), TrainOptions(dataset=dataset, run=folder, stages=stages))


def train_and_die(dataset: Path, folder: Path, stage: str, last_line: int, record: Path) -> None:
    """Train a stage, and die by SIGKILL at the given line of the training code; 0: never.

    Writes down how many lines there were, and after how many the first step was taken.
    """
    torch.set_num_threads(1)
    seen = {"lines": 0, "first_step": 0}

    def each_line(frame: FrameType, event: str, _: object) -> Any:
        seen["lines"] += event == "line"
        if seen["lines"] == last_line:
            os.kill(os.getpid(), signal.SIGKILL)
        return each_line

    def each_call(frame: FrameType, _: str, __: object) -> Any:
        if frame.f_code.co_name == "one_step" and not seen["first_step"]:
            seen["first_step"] = seen["lines"]
        return each_line if any(part in frame.f_code.co_filename for part in KILLABLE) else None

    sys.settrace(each_call)
    run_at(dataset, folder, (stage,)).train()
    sys.settrace(None)
    record.write_text(json.dumps(seen))


def in_child(*args: object) -> int | None:
    """Call ``train_and_die`` in a process of its own; returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(WARM))
    process = context.Process(target=train_and_die, args=args)
    process.start()
    process.join()
    return process.exitcode


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run left alone."""

    dataset: Path
    folder: Path
    lines: Mapping[str, Mapping[str, int]]
    """For each stage: ``lines`` of training code in all, and before its ``first_step``."""


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def checkpoint_of(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    saved = load_checkpoint(folder / "checkpoint")
    assert saved is not None
    return saved


def part_of(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


class Killed(BaseException):
    """Stands for a kill: nothing that cleans up after errors may see it."""
