"""Webhooks: signed, tried again, and never to a private address unless that is allowed."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from fastapi.testclient import TestClient

from difftalker.server import webhooks
from difftalker.server.problems import Problem
from server.conftest import DUB, Serve, fault, parts


@pytest.fixture
def heard() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]]]]:
    """A little server that hears webhooks; it answers the first one with 500."""
    calls: list[tuple[dict[str, str], bytes]] = []

    class Hearer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            calls.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(500 if len(calls) == 1 else 204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hearer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", calls
    server.shutdown()
    server.server_close()


def ended(client: TestClient, url: str) -> str:
    job: str = client.post("/v1/jobs", json={**DUB, "webhook": url}).json()["id"]
    assert parts(client).store.end_job(job, "succeeded", result={"frames": 3})
    return job


def test_a_call_is_signed_and_tried_again(serve: Serve, heard: Any) -> None:
    url, calls = heard
    client = serve(private_webhooks=True)
    job, server = ended(client, url), parts(client)
    for _ in range(2):
        [call] = server.store.calls()
        asyncio.run(server.webhooks._call(call))
    assert server.store.calls() == []
    assert server.webhooks.failures == 1
    headers, body = calls[1]
    told = json.loads(body)
    assert (told["type"], told["data"]["id"]) == ("job.succeeded", job)
    written = client.get("/v1/webhooks/secret").json()["secret"]
    secret = base64.b64decode(written.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = base64.b64encode(hmac.digest(secret, signed, "sha256")).decode()
    assert headers["webhook-signature"] == f"v1,{digest}"
    assert calls[0][0]["webhook-id"] == headers["webhook-id"]


def test_private_addresses_are_not_called(serve: Serve, heard: Any) -> None:
    url, calls = heard
    client = serve()
    ended(client, url)
    server = parts(client)
    [call] = server.store.calls()
    asyncio.run(server.webhooks._call(call))
    assert calls == []
    assert server.webhooks.failures == 1
    with pytest.raises(Problem, match="private"):
        asyncio.run(webhooks.check_address("http://localhost:1/", private=False))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1",
        "0.0.0.0", "224.0.0.1", "::1", "::", "fe80::1", "fc00::1", "::ffff:127.0.0.1",
        "64:ff9b::7f00:1", "2002:7f00:1::", "ff02::1", "::ffff:169.254.169.254",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not webhooks.is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_that_are_public(address: str) -> None:
    assert webhooks.is_public(address)


def test_a_webhook_is_an_address_of_the_web(client: TestClient) -> None:
    for url in ("ftp://x.example", "x", "http://"):
        fault(client.post("/v1/jobs", json={**DUB, "webhook": url}), 422)


def test_users_have_secrets_of_their_own(client: TestClient) -> None:
    store = parts(client).store
    assert store.secret_of("a") != store.secret_of("b")
    assert store.secret_of("a") == store.secret_of("a")
