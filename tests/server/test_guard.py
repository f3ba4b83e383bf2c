"""Who is let in: tokens, hosts and origins."""

from __future__ import annotations

from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from difftalker.errors import UsageError
from difftalker.server import run
from difftalker.server.guard import check_reach
from difftalker.server.settings import Settings
from server.conftest import Serve, fault, parts


def test_as_soon_as_there_is_a_token_everybody_needs_one(client: TestClient) -> None:
    assert client.get("/v1").json()["user"] == "local"
    store = parts(client).store
    token = store.new_token("ann")
    for path in ("/v1", "/v1/jobs", "/metrics", "/v1/openapi.json"):
        answer = client.get(path)
        assert "difftalker serve --new-token" in fault(answer, 401)["fix"]
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").status_code == 200
    good = {"Authorization": f"Bearer {token}"}
    assert client.get("/v1", headers=good).json()["user"] == "ann"
    fault(client.get("/v1", headers={"Authorization": f"Bearer {token}x"}), 401)
    assert store.drop_tokens("ann") == 1


def test_only_hashes_of_tokens_are_kept(client: TestClient) -> None:
    server = parts(client)
    token = server.store.new_token("ann")
    for path in server.places.folder.glob("state.sqlite3*"):
        assert token.encode() not in path.read_bytes()


def test_a_browser_keeps_its_token_in_a_cookie(client: TestClient) -> None:
    token = parts(client).store.new_token("ann")
    fault(client.post("/v1/session", json={"token": "wrong"}), 401)
    answer = client.post("/v1/session", json={"token": token})
    assert answer.status_code == 204
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert client.get("/v1").json()["user"] == "ann"
    client.delete("/v1/session")
    fault(client.get("/v1"), 401)


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "", "a b", "x@y", "[::"]
)
def test_another_name_of_the_machine_is_refused(client: TestClient, host: str) -> None:
    fault(client.get("/v1/jobs", headers={"Host": host}), 421)


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8765", "studio.example:80"])
def test_known_names_are_answered(serve: Serve, host: str) -> None:
    client = serve(hosts=("studio.example",))
    assert client.get("/v1/jobs", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_are_refused_unless_they_are_named(serve: Serve) -> None:
    client = serve(origins=("https://studio.example/",))
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9"):
        fault(client.get("/v1/jobs", headers={"Origin": origin}), 403)
    assert client.get("/v1/jobs", headers={"Origin": "http://127.0.0.1:8765"}).status_code == 200
    allowed = client.get("/v1/jobs", headers={"Origin": "https://studio.example"})
    assert allowed.headers["access-control-allow-origin"] == "https://studio.example"


def test_a_live_session_of_another_site_is_refused(client: TestClient) -> None:
    page = {"Host": "127.0.0.1", "Origin": "https://evil.example"}
    with (
        pytest.raises(WebSocketDisconnect) as refused,
        client.websocket_connect("/v1/live?avatar=x", headers=page),
    ):
        pass
    assert refused.value.code == 4403


def test_other_machines_are_answered_only_with_tokens(serve: Serve, tmp_path: Path) -> None:
    store = parts(serve()).store
    for host, is_local in (("127.0.0.1", True), ("::1", True), ("0.0.0.0", False)):
        settings = Settings(folder=tmp_path / "server", host=host)
        assert settings.is_loopback == is_local
        if is_local:
            check_reach(settings, store)
        else:
            with pytest.raises(UsageError, match="new-token"):
                check_reach(settings, store)
            with pytest.raises(UsageError, match="new-token"):
                run.run_server(settings)
    store.new_token("ann")
    check_reach(Settings(folder=tmp_path / "server", host="0.0.0.0"), store)


def test_tokens_are_made_and_revoked_by_name(tmp_path: Path) -> None:
    settings = Settings(folder=tmp_path / "server")
    assert run.new_token(settings, "ann").startswith("dt_")
    assert run.revoke_tokens(settings, "ann") == 1
    with pytest.raises(UsageError, match="has no token"):
        run.revoke_tokens(settings, "ann")
    with pytest.raises(UsageError, match="letters, digits"):
        run.new_token(settings, "a\nb")


def test_answers_carry_the_headers_that_browsers_heed(client: TestClient) -> None:
    headers = client.get("/healthz").headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in headers["content-security-policy"]
