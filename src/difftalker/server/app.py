"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

import difftalker
from difftalker.errors import DiffTalkerError, UsageError
from difftalker.server.context import Server
from difftalker.server.guard import Guard
from difftalker.server.live import LiveDesk
from difftalker.server.meters import Metered, Meters
from difftalker.server.people import People
from difftalker.server.places import Places
from difftalker.server.plans import Planner
from difftalker.server.problems import Problem, facts
from difftalker.server.routes import avatars, jobs, live, marks, rtc, service, speech, uploads
from difftalker.server.runner import Runner
from difftalker.server.settings import Settings
from difftalker.server.store import Store
from difftalker.server.voices import check_voice
from difftalker.server.webhooks import Webhooks, text_of

STUDIO = Path(__file__).parent / "studio"
MOST_JSON_BYTES = 8_000_000
"""The largest body of a request, uploads apart."""


def open_server(settings: Settings) -> Server:
    """The parts of a server; nothing runs yet.

    Raises:
        DiffTalkerError: its folder cannot be used, or an avatar is damaged.
    """
    check_voice(settings)
    places = Places(settings.folder)
    store = Store(places.state)
    people = People(settings.avatars, places, store)
    planner = Planner(settings, store, places, people)
    runner = Runner(settings, store, places, planner)

    def body(job: str) -> str | None:
        found = store.find_job(job)
        return None if found is None else text_of(server.view(found).model_dump(mode="json"))

    server = Server(
        settings=settings,
        store=store,
        places=places,
        people=people,
        planner=planner,
        runner=runner,
        webhooks=Webhooks(store, body, private=settings.private_webhooks),
        meters=Meters(),
        live=LiveDesk(settings, planner, people),
    )
    return server


def create_app(settings: Settings) -> FastAPI:
    """The application; jobs run from its start to its end.

    Raises:
        DiffTalkerError: see :func:`open_server`.
    """
    server = open_server(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await server.runner.start()
        calls = asyncio.create_task(server.webhooks.run())
        try:
            yield
        finally:
            calls.cancel()
            with suppress(asyncio.CancelledError):
                await calls
            await server.runner.stop()
            server.store.close()

    app = FastAPI(
        title="DiffTalker",
        version=difftalker.__version__,
        description="Talking faces from speech: jobs, uploads, avatars and live sessions.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/v1/openapi.json",
        max_body_size=MOST_JSON_BYTES,
        middleware=[
            Middleware(Metered, meters=server.meters),
            Middleware(Guard, settings=settings, store=server.store),
            Middleware(
                CORSMiddleware,
                allow_origins=[one.rstrip("/") for one in settings.origins],
                allow_methods=["GET", "POST", "DELETE"],
                allow_headers=["authorization", "content-type", "idempotency-key", "range"],
                allow_credentials=False,
            ),
        ],
    )
    app.state.server = server
    for part in (service, uploads, jobs, avatars, speech, marks, live, rtc):
        app.include_router(part.router)
    if STUDIO.is_dir():
        app.mount("/", StaticFiles(directory=STUDIO, html=True))
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(DiffTalkerError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    return app


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return _answer(error.status, error.error)


async def _on_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, DiffTalkerError)
    return _answer(422, error)


async def _on_invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    one = error.errors()[0]
    where = ".".join(str(part) for part in one["loc"][1:]) or str(one["loc"][0])
    return _answer(
        422, UsageError(f"{where:.200}: {one['msg']}", wanted="what /v1/openapi.json says")
    )


async def _on_http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    found = UsageError(f"{request.method} {request.url.path:.200}: {error.detail}")
    return JSONResponse({"error": facts(found)}, error.status_code, headers=error.headers)


def _answer(status: int, error: DiffTalkerError) -> JSONResponse:
    return JSONResponse({"error": facts(error)}, status)
