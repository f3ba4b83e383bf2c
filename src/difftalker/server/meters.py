"""What Prometheus reads at /metrics."""

from __future__ import annotations

import time
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from difftalker.server.runner import Runner
from difftalker.server.store import Store

JOB_SECONDS = (1, 5, 15, 60, 300, 1800, 7200, 43200)
"""Upper ends of the classes of how long jobs took, seconds."""


class Meters:
    """Counts what happens."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        kept: dict[str, Any] = {"registry": self.registry}
        self._jobs = Gauge("difftalker_jobs", "Jobs in each state", ["state"], **kept)
        self._ended = Histogram(
            "difftalker_job_seconds",
            "From start to end",
            ["kind", "state"],
            buckets=JOB_SECONDS,
            **kept,
        )
        self._free = Gauge("difftalker_disk_free_bytes", "Free on the disk of the folder", **kept)
        self.live = Gauge("difftalker_live_sessions", "Live sessions that are open", **kept)
        self.uploaded = Counter("difftalker_uploaded_bytes", "Bytes of uploads", **kept)
        self.requests = Counter(
            "difftalker_requests", "Requests answered", ["method", "status"], **kept
        )
        self.seconds = Histogram("difftalker_request_seconds", "Until the answer began", **kept)

    def text(self, store: Store, runner: Runner, free_bytes: int) -> bytes:
        """All of it, as Prometheus reads it."""
        counts = store.counts()
        for state in ("queued", "running", "succeeded", "failed", "cancelled"):
            self._jobs.labels(state).set(counts.get(state, 0))
        while runner.ended:
            kind, end, seconds = runner.ended.pop()
            self._ended.labels(kind, end).observe(seconds)
        self._free.set(free_bytes)
        return generate_latest(self.registry)


class Metered:
    """ASGI middleware that counts requests."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app, self._meters = app, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.monotonic()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                method, status = scope["method"], f"{message['status'] // 100}xx"
                known = method if method in ("GET", "POST", "DELETE", "HEAD") else "other"
                self._meters.requests.labels(known, status).inc()
                self._meters.seconds.observe(time.monotonic() - began)
            await send(message)

        await self._app(scope, receive, answer)
