"""One thread for all tests, a small prepared dataset of a drawn face, and a tiny base model."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # torch is loaded once the number of threads is set
    from helpers_track import ByHand


def pytest_configure() -> None:
    """One thread, for torch reads these when a test file imports it; small tensors want no more."""
    # Tests sign with a key of their own, not with the user's.
    os.environ["DIFFTALKER_CREDENTIALS"] = str(Path(tempfile.mkdtemp()) / "credentials")
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared dataset of three clips for the preset ``debug``; not to be written to."""
    from helpers import write_dataset

    return write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model in the diffusers layout; not to be written to."""
    from helpers_networks import write_base_model

    return write_base_model(tmp_path_factory.mktemp("base-model"))


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> ByHand:
    """Footage whose face is tracked by hand, speech and an untrained avatar."""
    from helpers_track import ByHand

    return ByHand.within(tmp_path_factory.mktemp("track"))
