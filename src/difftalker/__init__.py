"""DiffTalker: talking faces from speech, by way of facial landmarks and latent diffusion.

    import difftalker

    avatar = difftalker.load("grid-s1")
    avatar.dub("footage.mp4", "speech.wav").save("out.mp4")

    track = avatar.landmarks("footage.mp4", "speech.wav")
    track = track.edited([difftalker.Edit.parse("mouth=1.3@1.0-2.5")])
    avatar.dub("footage.mp4", "speech.wav", landmarks=track).save("out.mp4")

    avatar.talk("speech.wav").save("out.mp4")

Names are loaded when they are first used: ``import difftalker`` alone loads nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from difftalker.core.jobs import Event
    from difftalker.data.prepare import prepare
    from difftalker.dubbing.avatar import Avatar, load
    from difftalker.dubbing.dub import Dub, DubResult
    from difftalker.dubbing.jobs import DubJob, LandmarksJob, TalkJob
    from difftalker.dubbing.talk import Talk, TalkResult
    from difftalker.errors import Cancelled, DiffTalkerError
    from difftalker.evaluation.jobs import EvaluateJob
    from difftalker.evaluation.run import evaluate
    from difftalker.jobs import read_job, run
    from difftalker.landmarks.edits import Edit
    from difftalker.landmarks.track_file import LandmarkTrack
    from difftalker.training.api import train
    from difftalker.training.jobs import TrainJob
    from difftalker.training.learned import learn

__version__ = "0.1.0"

__all__ = [
    "Avatar",
    "Cancelled",
    "DiffTalkerError",
    "Dub",
    "DubJob",
    "DubResult",
    "Edit",
    "EvaluateJob",
    "Event",
    "LandmarkTrack",
    "LandmarksJob",
    "Talk",
    "TalkJob",
    "TalkResult",
    "TrainJob",
    "__version__",
    "evaluate",
    "learn",
    "load",
    "prepare",
    "read_job",
    "run",
    "train",
]

_HOMES = {
    "Cancelled": "errors",
    "DubJob": "dubbing.jobs",
    "EvaluateJob": "evaluation.jobs",
    "Event": "core.jobs",
    "LandmarksJob": "dubbing.jobs",
    "TalkJob": "dubbing.jobs",
    "TrainJob": "training.jobs",
    "read_job": "jobs",
    "run": "jobs",
    "Avatar": "dubbing.avatar",
    "DiffTalkerError": "errors",
    "Dub": "dubbing.dub",
    "DubResult": "dubbing.dub",
    "Edit": "landmarks.edits",
    "LandmarkTrack": "landmarks.track_file",
    "Talk": "dubbing.talk",
    "TalkResult": "dubbing.talk",
    "evaluate": "evaluation.run",
    "load": "dubbing.avatar",
    "prepare": "data.prepare",
    "learn": "training.learned",
    "train": "training.api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
