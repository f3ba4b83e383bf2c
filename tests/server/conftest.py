"""A server within this process, whose queue does not run, and files for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from difftalker.packaged import samples
from difftalker.server.app import create_app
from difftalker.server.context import Server
from difftalker.server.settings import Settings

URL = "http://127.0.0.1:8765"
DUB = {"kind": "dub", "avatar": "grid-s1", "video": "sample-footage", "audio": "sample-speech"}

Serve = Callable[..., TestClient]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start a server with settings; its queue stands still."""
    clients: list[TestClient] = []

    def start(**settings: Any) -> TestClient:
        app = create_app(Settings(folder=tmp_path / "server", **settings))
        clients.append(TestClient(app, base_url=URL))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
        parts(client).store.close()


@pytest.fixture
def client(serve: Serve) -> TestClient:
    return serve()


@pytest.fixture
def speech() -> bytes:
    return samples.speech().read_bytes()


def parts(client: TestClient) -> Server:
    """The server behind a client."""
    server: Server = client.app.state.server  # type: ignore[attr-defined]
    return server


def fault(answer: Any, status: int) -> dict[str, str]:
    """Why a request was refused; every refusal says it in three parts."""
    assert answer.status_code == status, answer.text
    error: dict[str, str] = answer.json()["error"]
    assert set(error) == {"kind", "message", "found", "wanted", "fix"}
    assert error["found"]
    return error
