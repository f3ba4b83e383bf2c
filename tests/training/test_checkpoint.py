"""Checkpoints, killed while they are written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from difftalker.errors import TrainingError
from difftalker.training.checkpoint import load_checkpoint, save_checkpoint
from helpers_training import Killed


def killed_at(line: int, work: Callable[[], None]) -> bool:
    """Do the work up to a line of ``checkpoint.py``; whether there was such a line."""
    count = 0

    def each_line(frame: FrameType, event: str, _: object) -> Any:
        nonlocal count
        count += event == "line"
        if count == line:
            raise Killed
        return each_line

    def each_call(frame: FrameType, _: str, __: object) -> Any:
        return each_line if frame.f_code.co_filename.endswith("checkpoint.py") else None

    sys.settrace(each_call)
    try:
        work()
    except Killed:
        return True
    finally:
        sys.settrace(None)
    return False


def save(folder: Path, number: int) -> None:
    save_checkpoint(folder, {"x": torch.full((3,), float(number))}, {"step": number})


def saved_number(folder: Path) -> int:
    """Which state is there, of tensors and facts alike."""
    saved = load_checkpoint(folder)
    assert saved is not None
    tensors, facts = saved
    assert (tensors["x"] == facts["step"]).all()
    return int(facts["step"])


def test_a_checkpoint_survives_kills_at_any_line_of_a_save(tmp_path: Path) -> None:
    first, lines = 0, 0
    while True:
        first, second = first + 1, 0
        while True:
            second += 1
            folder = tmp_path / f"{first}-{second}" / "checkpoint"
            save(folder, 1)
            was_killed = killed_at(first, lambda folder=folder: save(folder, 2))  # type: ignore[misc]
            between = saved_number(folder)
            assert between in ((1, 2) if was_killed else (2,))
            if not killed_at(second, lambda folder=folder: save(folder, 3)):  # type: ignore[misc]
                break
            # Killed twice, without a whole save in between.
            assert saved_number(folder) in (between, 3)
            save(folder, 4)
            assert saved_number(folder) == 4
        lines = max(lines, second)
        if not was_killed:
            break
    assert lines > 8


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    save(tmp_path / "checkpoint", 1)
    state = tmp_path / "checkpoint" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-4])
    with pytest.raises(TrainingError, match=r"checkpoint is damaged .*delete it"):
        load_checkpoint(tmp_path / "checkpoint")
