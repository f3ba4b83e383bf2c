"""Checkpoints: safetensors and JSON, no pickle, complete or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from difftalker.errors import TrainingError


def save_checkpoint(folder: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and facts so that a kill at any moment leaves the old or the new ones."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file(
        {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, part / "state.safetensors"
    )
    (part / "facts.json").write_text(json.dumps(dict(facts)))
    old = folder.with_name(folder.name + ".old")
    if folder.exists():  # else a save was killed, and the old state is all there is
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """What was saved last, or None if nothing was.

    Raises:
        TrainingError: the checkpoint is damaged.
    """
    # A kill between the two renames of a save leaves the old state under its second name.
    for place in (folder, folder.with_name(folder.name + ".old")):
        if (place / "facts.json").is_file():
            try:
                tensors = load_file(place / "state.safetensors")
                return tensors, json.loads((place / "facts.json").read_text())
            except (OSError, ValueError, SafetensorError) as error:
                raise TrainingError(
                    f"the checkpoint {place} is damaged ({error})",
                    fix="delete it to begin this stage again",
                ) from error
    return None


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as named tensors: ``0.exp_avg``, ``0.step``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{k}": torch.as_tensor(v) for i, s in state.items() for k, v in s.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what :func:`flatten_optimizer` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
