"""The parts of a running server, as its routes reach them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import HTTPConnection

from difftalker.server.bodies import JobView, Refused, job_view
from difftalker.server.live import LiveDesk
from difftalker.server.meters import Meters
from difftalker.server.people import People
from difftalker.server.places import Places
from difftalker.server.plans import Planner
from difftalker.server.problems import missing
from difftalker.server.runner import Runner
from difftalker.server.settings import Settings
from difftalker.server.store import JobRow, Store
from difftalker.server.webhooks import Webhooks

_REMEMBERED = 10_000


@dataclass(frozen=True, kw_only=True)
class Server:
    """One of each."""

    settings: Settings
    store: Store
    places: Places
    people: People
    planner: Planner
    runner: Runner
    webhooks: Webhooks
    meters: Meters
    live: LiveDesk

    def job(self, user: str, name: str) -> JobRow:
        """A user's job.

        Raises:
            Problem: there is none of this name.
        """
        job = self.store.job(user, name)
        if job is None:
            raise missing("job", name)
        return job

    def text(self, name: str, version: int) -> str:
        """A job as clients see it, as JSON; it is asked for often and changes seldom."""
        key = name, version
        if key not in self._texts:
            if len(self._texts) >= _REMEMBERED:
                self._texts.clear()
            self._texts[key] = self.view(self.store.found_job(name)).model_dump_json()
        return self._texts[key]

    @cached_property
    def _texts(self) -> dict[tuple[str, int], str]:
        return {}

    def view(self, job: JobRow) -> JobView:
        """A job as clients see it."""
        if job.state == "running":
            return job_view(job, list(self.places.files(job.kind, job.id)))
        ended = job.state in ("succeeded", "failed")
        return job_view(job, self._files(job.kind, job.id) if ended else [])

    @cached_property
    def _files(self) -> Callable[[str, str], list[str]]:
        """Files of a job that has ended; they do not change any more, and lists are asked often."""
        return lru_cache(_REMEMBERED)(lambda kind, name: list(self.places.files(kind, name)))


def _server(connection: HTTPConnection) -> Server:
    server: Server = connection.app.state.server
    return server


def _user(connection: HTTPConnection) -> str:
    user: str = connection.scope["user"]
    return user


Parts = Annotated[Server, Depends(_server)]
"""A route's argument: the server's parts."""
User = Annotated[str, Depends(_user)]
"""A route's argument: who calls."""


def refused(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route may refuse, for the OpenAPI description."""
    return {status: {"model": Refused} for status in (400, 401, 403, 413, 421, 422, *statuses)}
