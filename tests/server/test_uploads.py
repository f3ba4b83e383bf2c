"""Uploads: kept as they are sent, hashed, bounded, and never by a client's name."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from server.conftest import DUB, Serve, fault, parts

HOSTILE = [
    "../../etc/passwd",
    "..\\..\\windows\\system32",
    "/etc/passwd",
    "a\x00b.mp4",
    "a\nb.mp4",
    "\x1b[31m.mp4",
    "con",
    ".htaccess",
    "x.mp4/../../y",
    "<script>alert(1)</script>.html",
    "%2e%2e%2fpasswd",
    "file:///etc/passwd",
    "a" * 255,
    "💥.mp4",
    "x.svg",
    "x.html",
    "x.mp4 ",
    "x.tar.gz",
]


def send(client: TestClient, content: bytes, name: str = "a.wav") -> str:
    answer = client.post("/v1/uploads", params={"name": name}, content=content)
    assert answer.status_code == 201, answer.text
    upload: str = answer.json()["id"]
    return upload


def files_of(client: TestClient) -> list[str]:
    return sorted(path.name for path in parts(client).places.uploads.iterdir())


def test_a_file_is_kept_and_given_back(client: TestClient, speech: bytes) -> None:
    upload = send(client, speech, "My speech.WAV")
    view = client.get(f"/v1/uploads/{upload}").json()
    assert view["name"] == "My speech.WAV"
    assert view["bytes"] == len(speech)
    assert view["sha256"] == hashlib.sha256(speech).hexdigest()
    assert files_of(client) == [f"{upload}.wav"]
    content = client.get(f"/v1/uploads/{upload}/content")
    assert content.content == speech
    assert content.headers["content-type"] == "audio/wav"
    assert client.delete(f"/v1/uploads/{upload}").status_code == 204
    assert files_of(client) == []
    fault(client.get(f"/v1/uploads/{upload}"), 404)


def test_samples_are_there_for_everybody_and_cannot_be_deleted(client: TestClient) -> None:
    listed = {one["id"] for one in client.get("/v1/uploads").json() if one["sample"]}
    assert listed == {"sample-footage", "sample-speech"}
    assert client.get("/v1/uploads/sample-speech/content").status_code == 200
    fault(client.delete("/v1/uploads/sample-speech"), 404)


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_name_leads_out_of_the_folder(client: TestClient, name: str, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if "uploads" not in path.parts}
    upload = send(client, b"content", name)
    [kept] = files_of(client)
    assert kept.startswith(upload)
    after = {path for path in tmp_path.rglob("*") if "uploads" not in path.parts}
    assert {path.name for path in after - before} <= {"state.sqlite3-wal", "state.sqlite3-shm"}
    content = client.get(f"/v1/uploads/{upload}/content")
    assert content.headers["x-content-type-options"] == "nosniff"
    assert content.headers["content-security-policy"] == "sandbox"
    assert not content.headers["content-type"].startswith(("text/html", "image/svg"))


def test_a_file_that_is_too_large_leaves_nothing(serve: Serve) -> None:
    client = serve(upload_gb=1e-6)
    answer = client.post("/v1/uploads", params={"name": "a"}, content=b"x" * 1001)
    assert fault(answer, 413)["wanted"] == "at most 1e-06 GB"

    def chunks() -> Iterator[bytes]:  # without Content-Length
        for _ in range(3):
            yield b"x" * 500

    fault(client.post("/v1/uploads", params={"name": "a"}, content=chunks()), 413)
    fault(client.post("/v1/uploads", params={"name": "a"}, content=b""), 422)
    assert files_of(client) == []
    send(client, b"x" * 1000)


def test_the_files_of_a_user_have_a_limit_and_the_disk_stays_free(serve: Serve) -> None:
    client = serve(stored_gb=1e-6)
    send(client, b"x" * 600)
    answer = client.post("/v1/uploads", params={"name": "a"}, content=b"x" * 600)
    assert fault(answer, 413)["fix"] == "delete some of them"
    full = serve(free_gb=1e9)
    answer = full.post("/v1/uploads", params={"name": "a"}, content=b"x")
    assert "nearly full" in fault(answer, 507)["found"]
    assert full.get("/readyz").status_code == 503


def test_a_file_that_a_job_waits_for_is_kept(client: TestClient, speech: bytes) -> None:
    upload = send(client, speech)
    job = client.post("/v1/jobs", json={**DUB, "audio": upload}).json()["id"]
    assert job in fault(client.delete(f"/v1/uploads/{upload}"), 409)["found"]
    client.delete(f"/v1/jobs/{job}")
    assert client.delete(f"/v1/uploads/{upload}").status_code == 204


def test_a_large_body_is_refused_elsewhere(client: TestClient) -> None:
    answer = client.post("/v1/jobs", content=b" " * 8_000_001)
    assert answer.status_code == 413
