"""Small jobs that need no footage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:  # torch is loaded once the number of threads is set
    from collections.abc import Callable

    Talk = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained avatar and speech; not to be written to."""
    from helpers_networks import write_untrained
    from synthetic import write_tone

    folder = tmp_path_factory.mktemp("batch")
    write_untrained(folder / "avatar", ("light", "live"))
    write_tone(folder / "speech.wav", 0.2)
    return folder


@pytest.fixture
def talk(folder: Path) -> Talk:
    """The line of a talk of five frames, which ``seed`` tells from others."""

    def line(seed: int = 0, **values: Any) -> dict[str, Any]:
        own = {"audio": str(folder / "speech.wav"), "avatar": str(folder / "avatar")}
        return {"job": "talk", **own, "renderer": "light", "seed": seed, **values}

    return line


@pytest.fixture
def jobs(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of jobs."""

    def write(*lines: dict[str, Any] | str) -> Path:
        texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
        path = tmp_path / "jobs.jsonl"
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
        return path

    return write
