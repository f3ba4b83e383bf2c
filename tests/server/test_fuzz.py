"""Requests made from the server's own description: none may end in an error of the server."""

from __future__ import annotations

import pytest

from server.conftest import Serve, parts
from server_fuzz import fuzz


def test_no_request_ends_in_an_error_of_the_server(serve: Serve) -> None:
    pytest.importorskip("schemathesis", reason="the package schemathesis is missing")
    client = serve(upload_gb=1e-4)
    before = {path.name for path in parts(client).places.folder.iterdir()}
    outcome = fuzz(client, client.get("/v1/openapi.json").json(), examples=10)
    assert outcome.requests > 150
    assert outcome.failures == []
    after = {path.name for path in parts(client).places.folder.iterdir()}
    assert after - before <= {"state.sqlite3-wal", "state.sqlite3-shm"}
