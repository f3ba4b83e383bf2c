"""A run of all stages at debug size, for all tests of training."""

from __future__ import annotations

import json
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
