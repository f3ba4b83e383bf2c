"""What clients send and get, as the OpenAPI description has it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AnyHttpUrl, BaseModel, ConfigDict, Field, field_validator, model_validator

from difftalker.config import DEFAULT_CRF, DEFAULT_FPS, MAX_FPS
from difftalker.server.store import JobRow, Upload

Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
"""The name of an upload, a job or an avatar, as the server gave it."""
Text = Annotated[str, Field(max_length=2000)]
PLACES = "avatar|largest|leftmost|rightmost|center"
Face = Annotated[
    str,
    Field(
        pattern=rf"^({PLACES}|[1-9][0-9]{{0,2}}|upload:[a-z0-9-]{{1,64}})$",
        description="Whom, of several people: avatar, largest, leftmost, rightmost, center, a"
        " number (people are counted as they come in), or upload:ID, a picture of the person.",
    ),
]
_NUMBER = r"(\d+\.?\d*|\.\d+)"
Words = Annotated[
    Id | None,
    Field(
        description="An upload that says when each word of `audio` is said, for the timeline:"
        " WebVTT, SubRip, GRID's .align, or JSON."
    ),
]
Edits = Annotated[
    list[
        Annotated[
            str,
            Field(
                max_length=100,
                pattern=rf"^(mouth|jaw|smooth|shift)=[+-]?{_NUMBER}(@{_NUMBER}?-{_NUMBER}?)?$",
            ),
        ]
    ],
    Field(max_length=1000),
]
Seed = Annotated[int, Field(ge=0, lt=1 << 31)]
Renderer = Literal["auto", "diffusion", "light"]
Sampler = Literal["ddpm", "ddim", "dpm++"]
Steps = Annotated[int, Field(ge=1, le=1000)]


class Body(BaseModel):
    """Strict: a key that is not known is refused."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Asked(Body):
    """What all kinds of jobs take."""

    webhook: AnyHttpUrl | None = Field(
        None, max_length=2000, description="Called when the job has ended; signed."
    )
    label: Annotated[str, Field(max_length=200)] = ""


class Rendered(Asked):
    """What jobs take that make pictures."""

    avatar: Id
    renderer: Renderer = "auto"
    sampler: Sampler | None = None
    steps: Steps | None = None
    seed: Seed = 0

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        if self.renderer == "light" and (self.sampler or self.steps):
            raise ValueError("the light renderer takes one pass: leave sampler and steps out")
        return self


class Shown(Rendered):
    """What jobs take that make a video to be shown; it carries marks in any case."""

    crf: Annotated[int, Field(ge=0, le=51)] = DEFAULT_CRF
    aigc: bool = Field(
        False, description="Add the label of GB 45438, in the metadata and to be seen for 3 s."
    )


class DubRequest(Shown):
    """Give footage of the avatar's person new speech."""

    kind: Literal["dub"] = "dub"
    video: Id = Field(description="An upload: footage of the avatar's person.")
    audio: Id = Field(description="An upload: any file with a sound track.")
    face: Face = "avatar"
    any_face: bool = False
    words: Words = None
    landmarks: Id | None = Field(
        None, description="A job with a track of landmarks, or an upload of one, to render."
    )
    opening: Annotated[
        list[Annotated[float, Field(ge=0, le=2)] | None], Field(max_length=250_000)
    ] = Field(
        default_factory=list,
        description="How far the mouth is open in each frame of `landmarks`, in face scales as in"
        " that job's timeline.json; null: as it is.",
    )
    edits: Edits = Field(default_factory=list, description="Such as mouth=1.3@1.0-2.5.")
    fit: Literal["trim", "pad", "loop", "pingpong"] = "trim"
    keep_audio: bool = False
    keep_work: bool = Field(
        False, description="Keep finished pictures, for a later job with this one as its `base`."
    )
    base: Id | None = Field(
        None, description="A finished dub, kept with `keep_work`: only what differs is rendered."
    )


class TalkRequest(Shown):
    """Let an avatar speak without any footage."""

    kind: Literal["talk"] = "talk"
    audio: Id = Field(description="An upload: any file with a sound track.")
    fps: Annotated[float, Field(ge=1, le=MAX_FPS)] = DEFAULT_FPS


class LandmarksRequest(Asked):
    """Complete the landmarks that would drive the face, and draw them over the footage."""

    kind: Literal["landmarks"] = "landmarks"
    avatar: Id
    video: Id = Field(description="An upload: footage of the avatar's person.")
    audio: Id = Field(description="An upload: any file with a sound track.")
    face: Face = "avatar"
    any_face: bool = False
    words: Words = None
    edits: Edits = Field(default_factory=list)


class TrainRequest(Asked):
    """Train an avatar on footage of one person who agreed to it."""

    kind: Literal["train"] = "train"
    footage: Annotated[list[Id], Field(min_length=1, max_length=1000)] = Field(
        description="Uploads."
    )
    consent: Annotated[str, Field(min_length=1, max_length=2000)] = Field(
        description="Who agreed to this avatar, and how; it stands on the avatar's card."
    )
    name: Annotated[str, Field(max_length=100)] = ""
    source: Text = Field("", description="Corpus and licence of the footage, for the card.")
    preset: Literal["debug", "half", "tiny", "base", "paper"] = "tiny"
    start: Annotated[str, Field(pattern=r"^[a-z0-9-]{0,64}$")] = Field(
        "", description="An avatar to begin from; by default the packaged one; none: at random."
    )
    settings: dict[
        Annotated[str, Field(pattern=r"^(training|model)\.[a-z0-9_.]{1,80}$")],
        Annotated[str, Field(max_length=100)],
    ] = Field(default_factory=dict, max_length=100)
    face: Face = "largest"
    seed: Seed = 0

    @field_validator("consent")
    @classmethod
    def _says_something(cls, consent: str) -> str:
        if not consent.strip():
            raise ValueError("consent has to say who agreed to this avatar, and how")
        return consent

    @field_validator("settings")
    @classmethod
    def _reads_no_file(cls, settings: dict[str, str]) -> dict[str, str]:
        if "model.base_model" in settings:
            raise ValueError("model.base_model names a file: it cannot be set over the network")
        return settings


class EvaluateRequest(Rendered):
    """Measure an avatar on footage that it has not seen."""

    kind: Literal["evaluate"] = "evaluate"
    footage: Annotated[list[Id], Field(min_length=1, max_length=1000)]
    face: Face = "largest"
    rows: list[Literal["real", "copied", "own_audio", "other_audio", "silence"]] = Field(
        default_factory=list, max_length=5
    )


AnyRequest = Annotated[
    DubRequest | TalkRequest | LandmarksRequest | TrainRequest | EvaluateRequest,
    Field(discriminator="kind"),
]


class Spoken(Body):
    """A text to be spoken, as OpenAI's API has it."""

    input: Annotated[str, Field(min_length=1, max_length=4096)]
    model: Annotated[str, Field(max_length=100)] = "tts-1"
    voice: Annotated[str, Field(max_length=100)] = "heart"
    response_format: Literal["wav", "pcm", "mp3", "opus", "aac", "flac"] = "wav"
    speed: Annotated[float, Field(ge=0.25, le=4)] = 1.0


class Fault(BaseModel):
    """Why something failed."""

    kind: str
    message: str
    found: str
    wanted: str
    fix: str


class Refused(BaseModel):
    """The body of every refusal."""

    error: Fault


class Progress(BaseModel):
    """How far a job is."""

    stage: str
    done: int
    total: int
    remaining_s: float | None = None
    """An estimate for the whole job, once there is one."""
    text: str = ""


class JobView(BaseModel):
    """A job, as it is now."""

    id: str
    number: int
    kind: str
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    request: dict[str, Any]
    progress: Progress | None = None
    error: Fault | None = None
    result: dict[str, Any] | None = None
    files: list[str] = []
    """What ``/v1/jobs/ID/files/NAME`` gives."""
    made_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class UploadView(BaseModel):
    """A file that was sent."""

    id: str
    name: str
    bytes: int
    sha256: str
    made_at: datetime | None = None
    sample: bool = False
    """Whether it comes with DiffTalker."""


class AvatarView(BaseModel):
    """A person who can be made to speak."""

    id: str
    name: str
    consent: str
    source: str
    origin: Literal["packaged", "offered", "trained"]
    live: bool
    """Whether it can speak live."""
    fast: bool
    """Whether it has a light renderer."""


class AvatarCard(AvatarView):
    """An avatar with its card."""

    card: str
    """Markdown."""
    facts: dict[str, Any]


def job_view(job: JobRow, files: list[str]) -> JobView:
    """A job as clients see it."""
    values = {
        name: getattr(job, name)
        for name in ("id", "number", "kind", "state", "request", "progress", "error", "result")
    }
    return JobView(
        **values,
        files=files,
        made_at=moment(job.made),
        started_at=None if job.started is None else moment(job.started),
        ended_at=None if job.ended is None else moment(job.ended),
    )


def upload_view(upload: Upload) -> UploadView:
    """An upload as clients see it."""
    return UploadView(
        id=upload.id,
        name=upload.name,
        bytes=upload.bytes,
        sha256=upload.sha256,
        made_at=moment(upload.made),
    )


def moment(seconds: float) -> datetime:
    """Seconds since 1970 as JSON has times."""
    return datetime.fromtimestamp(seconds, UTC)
