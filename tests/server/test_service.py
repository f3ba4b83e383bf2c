"""Health, figures, avatars and the voice of a server."""

from __future__ import annotations

import io
import json
import socket
import wave
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from difftalker.errors import DiffTalkerError, UsageError
from difftalker.server.run import _listener
from difftalker.server.settings import Settings
from difftalker.server.store import Store
from server.conftest import DUB, Serve, fault, parts


def test_figures_count_jobs_and_requests(client: TestClient) -> None:
    client.post("/v1/jobs", json=DUB)
    text = client.get("/metrics").text
    assert 'difftalker_jobs{state="queued"} 1.0' in text
    assert 'difftalker_requests_total{method="POST",status="2xx"} 1.0' in text


def test_a_queue_that_does_not_run_is_not_ready(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["why"] == ["the queue does not run"]


def test_avatars_say_who_agreed(client: TestClient) -> None:
    [avatar] = client.get("/v1/avatars").json()
    assert avatar["id"] == "grid-s1"
    assert "GRID" in avatar["consent"]
    assert avatar["live"]
    card = client.get("/v1/avatars/grid-s1").json()
    assert card["card"].startswith("#")
    assert avatar["consent"] in card["card"]
    assert fault(client.delete("/v1/avatars/grid-s1"), 409)["wanted"] == (
        "one of the origin `trained`"
    )
    fault(client.get("/v1/avatars/nobody"), 404)


def test_marks_are_read(client: TestClient) -> None:
    answer = client.post("/v1/verify", json={"file": "sample-footage"})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["verdict"]
    assert str(parts(client).places.folder) not in answer.text
    fault(client.post("/v1/verify", json={"file": "nothing"}), 404)
    queued = client.post("/v1/jobs", json=DUB).json()["id"]
    fault(client.post("/v1/verify", json={"file": queued}), 409)


def test_without_a_voice_nothing_is_said(client: TestClient) -> None:
    assert not client.get("/v1").json()["voice"]
    error = fault(client.post("/v1/audio/speech", json={"input": "hello"}), 404)
    assert "--voice" in error["fix"]


def test_the_packaged_voice_speaks(serve: Serve) -> None:
    pytest.importorskip("hibari", reason="the package hibari-tts is missing")
    client = serve(voice="hibari")
    answer = client.post("/v1/audio/speech", json={"input": "Good morning.", "model": "tts-1"})
    assert answer.headers["content-type"] == "audio/wav"
    with wave.open(io.BytesIO(answer.content)) as sound:
        assert sound.getnframes() / sound.getframerate() > 0.3
    fault(client.post("/v1/audio/speech", json={"input": "a", "response_format": "mp3"}), 422)


@pytest.mark.parametrize("voice", ["ftp://x", "nobody", "/etc/passwd"])
def test_a_voice_is_a_name_or_an_address(serve: Serve, voice: str) -> None:
    with pytest.raises(UsageError, match="--voice"):
        serve(voice=voice)


def test_the_state_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.sqlite3"
    path.write_bytes(b"no database at all, but long enough to be looked at" * 100)
    with pytest.raises(DiffTalkerError, match="cannot be opened"):
        Store(path)


@pytest.mark.parametrize("origin", ["studio.example", "https://x.example/path"])
def test_an_origin_is_an_address_alone(origin: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the origin"):
        Settings(folder=tmp_path, origins=(origin,))


def test_the_description_names_every_path(client: TestClient) -> None:
    described = client.get("/v1/openapi.json").json()
    assert {"/v1/jobs", "/v1/uploads", "/v1/avatars", "/v1/audio/speech", "/healthz"} <= set(
        described["paths"]
    )
    assert json.dumps(described).count("Refused") > 10
    assert parts(client).settings.jobs == 1


def test_an_answer_does_not_wait_for_the_client(tmp_path: Path) -> None:
    with _listener(Settings(folder=tmp_path, port=0)) as listener:
        with socket.create_connection(listener.getsockname()):
            accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
