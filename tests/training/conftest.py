"""A run of all stages at debug size, for all tests of training."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # torch is loaded once the number of threads is set
    from helpers_training import Finished


@pytest.fixture(scope="session")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run that nothing stopped; not to be written to."""
    from difftalker.config import STAGES
    from helpers_training import Finished, in_child

    folder, lines = tmp_path_factory.mktemp("runs") / "left-alone", {}
    for stage in STAGES:
        record = folder.with_name(f"{stage}.json")
        assert in_child(dataset, folder, stage, 0, record) == 0
        lines[stage] = json.loads(record.read_text())
    return Finished(dataset, folder, lines)


@pytest.fixture(scope="session")
def landmarker() -> None:
    """The weights of the face detector, or no test."""
    from difftalker.errors import AssetError
    from difftalker.store import assets

    try:
        assets.path("face_landmarker")
    except AssetError as error:
        pytest.skip(f"the face detector's weights cannot be had: {error}")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Carry out a command line; its exit code, what it printed, and what it told."""
    from difftalker.cli import main

    def carry_out(*words: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return carry_out
