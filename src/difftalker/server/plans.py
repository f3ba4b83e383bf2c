"""From what a client asked for to the job that a worker runs: names become files of the server."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from difftalker import config
from difftalker.errors import UsageError
from difftalker.packaged import samples
from difftalker.server.bodies import (
    AnyRequest,
    DubRequest,
    EvaluateRequest,
    LandmarksRequest,
    TalkRequest,
    TrainRequest,
)
from difftalker.server.people import People
from difftalker.server.places import Places
from difftalker.server.problems import Problem, missing, refusal
from difftalker.server.settings import Settings
from difftalker.server.store import JobRow, Store

SAMPLES: dict[str, Callable[[], Path]] = {
    "sample-footage": samples.footage,
    "sample-speech": samples.speech,
}
"""Uploads that everybody has: what comes with DiffTalker."""
_REQUEST: TypeAdapter[Any] = TypeAdapter(AnyRequest)


class Planner:
    """Checks requests, and turns them into orders for workers."""

    def __init__(self, settings: Settings, store: Store, places: Places, people: People) -> None:
        self._settings, self._store = settings, store
        self._places, self._people = places, people

    def check(self, user: str, request: AnyRequest) -> None:
        """Refuse what is known to fail without any work.

        Raises:
            Problem: the request names something that there is not, or does not hold together.
        """
        try:
            self._record(user, request, Path("job"))
            if isinstance(request, DubRequest | LandmarksRequest) and request.words:
                self.file(user, request.words)
            if isinstance(request, TrainRequest):
                chosen = config.preset(request.preset)
                config.override(chosen, request.settings)
        except UsageError as error:
            raise Problem(422, error) from error

    def order(self, job: JobRow) -> dict[str, Any]:
        """What a worker is told: the job as plain data, and what is to be done around it.

        Raises:
            Problem: a file that it needs has been deleted.
        """
        request = _REQUEST.validate_python(job.request)
        folder = self._places.job(job.id)
        folder.mkdir(parents=True, exist_ok=True)
        order: dict[str, Any] = {
            "id": job.id,
            "folder": str(folder),
            "job": self._record(job.user, request, folder),
            "threads": self._settings.threads,
            "limits": asdict(self._settings.limits),
        }
        if isinstance(request, DubRequest | LandmarksRequest):
            order["words"] = request.words and str(self.file(job.user, request.words))
        if isinstance(request, DubRequest):
            order["opening"] = request.opening
            order["base"] = request.base and str(self._places.job(request.base))
        return order

    def _record(self, user: str, request: AnyRequest, folder: Path) -> dict[str, Any]:
        record: dict[str, Any] = {"job": request.kind, "device": self._settings.device}
        if isinstance(request, TrainRequest):
            return record | self._train(user, request, folder)
        record["avatar"] = str(self._people.find(user, request.avatar).folder)
        record["limits"] = asdict(self._settings.limits)
        if isinstance(request, DubRequest):
            return record | self._dub(user, request, folder)
        if isinstance(request, TalkRequest):
            return record | self._talk(user, request, folder)
        if isinstance(request, LandmarksRequest):
            return record | self._landmarks(user, request, folder)
        return record | self._evaluate(user, request, folder)

    def _dub(self, user: str, request: DubRequest, folder: Path) -> dict[str, Any]:
        if request.opening and not request.landmarks:
            raise refusal(422, "opening without landmarks", wanted="the track that it belongs to")
        if request.base:
            self._check_base(user, request.base)
        tracks = {} if request.fit != "trim" else {"landmarks_out": str(folder / "track.npz")}
        return {
            **self._footage(user, request, folder),
            **tracks,
            **_rendered(request),
            "landmarks": request.landmarks and str(self._track(user, request.landmarks)),
            "edits": request.edits,
            "fit": request.fit,
            "keep_audio": request.keep_audio,
            "keep_journal": request.keep_work,
            **_shown(request),
            "output": str(folder / "video.mp4"),
            "report": str(folder / "report.json"),
        }

    def _talk(self, user: str, request: TalkRequest, folder: Path) -> dict[str, Any]:
        return {
            **_rendered(request),
            "audio": str(self.file(user, request.audio)),
            "fps": float(request.fps),
            **_shown(request),
            "output": str(folder / "video.mp4"),
        }

    def _landmarks(self, user: str, request: LandmarksRequest, folder: Path) -> dict[str, Any]:
        return {
            **self._footage(user, request, folder),
            "edits": request.edits,
            "output": str(folder / "track.npz"),
            "preview": str(folder / "preview.mp4"),
        }

    def _footage(
        self, user: str, request: DubRequest | LandmarksRequest, folder: Path
    ) -> dict[str, Any]:
        return {
            "video": str(self.file(user, request.video)),
            "audio": str(self.file(user, request.audio)),
            "face": self.face(user, request.face),
            "any_face": request.any_face,
        }

    def _train(self, user: str, request: TrainRequest, folder: Path) -> dict[str, Any]:
        start = request.start
        if start and start != "none":
            start = str(self._people.find(user, start).folder)
        return {
            "footage": [str(self.file(user, one)) for one in request.footage],
            "output": str(self._places.avatar(folder.name)),
            "run_folder": str(folder / "run"),
            "consent": request.consent,
            "name": request.name or "avatar",
            "source": request.source,
            "preset": request.preset,
            "start": start,
            "settings": request.settings,
            "face": self.face(user, request.face),
            "seed": request.seed,
            "threads": self._settings.threads,
            "command": "difftalker serve",
        }

    def _evaluate(self, user: str, request: EvaluateRequest, folder: Path) -> dict[str, Any]:
        return {
            **_rendered(request),
            "footage": [str(self.file(user, one)) for one in request.footage],
            "face": self.face(user, request.face),
            "rows": request.rows,
            "report": str(folder / "report"),
            "threads": self._settings.threads,
        }

    def file(self, user: str, name: str) -> Path:
        """The file of an upload, or of a sample.

        Raises:
            Problem: the user has no such upload.
        """
        if name in SAMPLES:
            return SAMPLES[name]()
        upload = self._store.upload(user, name)
        if upload is None:
            raise missing("upload", name)
        return self._places.uploads / upload.file

    def face(self, user: str, face: str) -> str:
        """Whom jobs are to drive: a picture that was uploaded becomes its file.

        Raises:
            Problem: the user has no such upload.
        """
        kind, _, name = face.partition("upload:")
        return str(self.file(user, name)) if name else kind

    def _track(self, user: str, name: str) -> Path:
        job = self._store.job(user, name)
        if job is None:
            return self.file(user, name)
        track = self._places.files(job.kind, job.id).get("track.npz")
        if job.state != "succeeded" or track is None:
            raise refusal(
                409,
                f"the job {name} has no track of landmarks",
                wanted="a job of landmarks, or a dub, that has succeeded",
            )
        return track

    def _check_base(self, user: str, name: str) -> None:
        job = self._store.job(user, name)
        if job is None:
            raise missing("job", name)
        if job.kind != "dub" or job.state != "succeeded" or not job.request["keep_work"]:
            raise refusal(
                409,
                f"the job {name} has no pictures to go on from",
                wanted="a dub that has succeeded, made with keep_work",
            )


def _shown(request: DubRequest | TalkRequest) -> dict[str, Any]:
    return {"crf": request.crf, "marks": {"aigc": request.aigc}}


def _rendered(request: DubRequest | TalkRequest | EvaluateRequest) -> dict[str, Any]:
    names = ("renderer", "sampler", "steps", "seed")
    return {name: getattr(request, name) for name in names}
