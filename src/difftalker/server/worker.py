"""The process that computes: one job after the other, as lines of JSON in and out.

A line on standard input is an order (``plans.Planner.order``). Lines on standard output are its
events, and at last its result or its error. The process ends at once, and all that it started with
it, where standard input closes: when the server was killed, another may go on with the job.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from difftalker.core.allocator import steady
from difftalker.core.codec import plain
from difftalker.core.device import use_threads
from difftalker.core.files import write_whole
from difftalker.core.jobs import Event, Job
from difftalker.doctor import missing_library
from difftalker.dubbing.dub import DubResult
from difftalker.dubbing.footage import located_by
from difftalker.dubbing.jobs import DubJob, LandmarksJob, LandmarksResult
from difftalker.dubbing.talk import TalkResult
from difftalker.errors import DiffTalkerError
from difftalker.evaluation.jobs import EvaluateJob
from difftalker.face.lips import relative_opening, set_openings
from difftalker.face.spans import Span
from difftalker.jobs import read_job
from difftalker.landmarks.track_file import LandmarkTrack
from difftalker.media.limits import Limits, limited
from difftalker.server.places import link_tree
from difftalker.server.problems import facts
from difftalker.speech.grid import Word
from difftalker.speech.words import read_words
from difftalker.training.api import Trained

EVENT_S = 0.2
"""Events of one stage are this far apart, seconds."""
_UNDISTURBED_S = 60


def main() -> None:
    """Carry out orders until standard input closes."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # whatever a library prints would spoil the answers
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(orders,), daemon=True).start()
    steady()
    print(json.dumps({"ready": os.getpid()}), file=answers)
    while True:
        _carry_out(orders.get(), answers)


def _listen(orders: queue.SimpleQueue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os.killpg(0, signal.SIGKILL)


def _carry_out(order: dict[str, Any], answers: TextIO) -> None:
    def tell(**answer: Any) -> None:
        print(json.dumps(plain(answer), allow_nan=False), file=answers, flush=True)

    try:
        use_threads(order["threads"])
        # A worker of a server that was killed may be about to end.
        with FileLock(Path(order["folder"], ".lock"), timeout=_UNDISTURBED_S):
            tell(result=_result(order, _Teller(tell)))
    except Exception as error:
        traceback.print_exc()
        tell(error=facts(explained(error)))


class _Teller:
    """Passes events on, not too many of them."""

    def __init__(self, tell: Any) -> None:
        self._tell, self._stage, self._told = tell, "", 0.0

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        is_new = event.stage != self._stage or event.done >= event.total
        if is_new or event.text or now - self._told >= EVENT_S:
            self._stage, self._told = event.stage, now
            self._tell(event=asdict(event))


def _result(order: dict[str, Any], tell: _Teller) -> dict[str, Any]:
    folder, job = Path(order["folder"]), read_job(order["job"])
    if isinstance(job, DubJob):
        job = _prepared(job, order, folder)
    words = read_words(Path(order["words"])) if order.get("words") else []
    with limited(Limits(**order["limits"])):
        return _told(job, job.run(tell), folder, words)


def _prepared(job: DubJob, order: dict[str, Any], folder: Path) -> DubJob:
    """The job with the curve of the mouth drawn into its track, and with earlier pictures."""
    if order["base"]:
        journal = f".{Path(job.output).name}.dubbing"
        link_tree(Path(order["base"], journal), folder / journal)
    if not (order["opening"] and job.landmarks):
        return job
    track = LandmarkTrack.load(Path(job.landmarks))
    opening = np.array([np.nan if x is None else x for x in order["opening"]], np.float32)
    if len(opening) != len(track):
        raise DiffTalkerError(
            f"an opening of {len(opening)} frames", wanted=f"one for each of {len(track)} frames"
        )
    drawn = folder / "drawn.npz"
    points = set_openings(track.points_crop, opening)
    replace(track, points_crop=points).save(drawn)
    return replace(job, landmarks=str(drawn))


def _told(job: Job, result: Any, folder: Path, words: list[Word]) -> dict[str, Any]:
    """What the client is told, and the timeline for what it shows."""
    if isinstance(result, DubResult):
        if isinstance(job, DubJob) and job.landmarks_out:
            track = LandmarkTrack.load(Path(job.landmarks_out))
            _save_timeline(track, result.spans, words, folder)
        return {
            "frames": result.frames,
            "frames_driven": result.frames_driven,
            "seconds": round(result.seconds, 3),
            "avatar": result.avatar,
            **result.rendering.facts(),
        }
    if isinstance(result, TalkResult):
        return {
            "frames": result.frames,
            "seconds": round(result.seconds, 3),
            "avatar": result.avatar,
            **result.rendering.facts(),
        }
    if isinstance(result, LandmarksResult) and isinstance(job, LandmarksJob):
        spans = located_by(result.track, Path(job.video), result.track.size_px).spans
        _save_timeline(result.track, spans, words, folder)
        found = int(result.track.found.sum())
        return {"frames": len(result.track), "frames_driven": found, "avatar": result.track.avatar}
    if isinstance(result, Trained):
        return {"clips": result.clips, "held_out": result.report, "trained": bool(result.avatar)}
    return {"rows": result["rows"]} if isinstance(job, EvaluateJob) else {}


def _save_timeline(
    track: LandmarkTrack, spans: tuple[Span, ...], words: list[Word], folder: Path
) -> None:
    """Write what a timeline shows: words, spans, and opening, crop and mask of each frame."""
    record = {
        "frame_px": track.frame_px,
        "size_px": track.size_px,
        "times_s": _rounded(track.times_s, 4),
        "opening": _rounded(relative_opening(track.points_crop), 4),
        "found": track.found.tolist(),
        "spans": [asdict(span) for span in spans],
        "words": [asdict(word) for word in words],
        "centre_px": _rounded(track.centre_px, 1),
        "side_px": _rounded(track.side_px, 1),
        "boxes": track.boxes.tolist(),
        "points_px": _rounded(track.points_px, 1),
    }
    write_whole(folder / "timeline.json", json.dumps(record, separators=(",", ":")))


def _rounded(values: NDArray[Any], digits: int) -> list[Any]:
    rounded: list[Any] = np.round(values.astype(np.float64), digits).tolist()
    return rounded


def explained(error: Exception) -> DiffTalkerError:
    """Any failure of a job as what was found, what was wanted and what to do."""
    if isinstance(error, DiffTalkerError):
        return error
    if isinstance(error, ImportError | OSError) and (absent := missing_library(error)):
        return absent
    if isinstance(error, OSError) and error.strerror:
        return DiffTalkerError(f"the server's disk: {error.strerror}", fix="tell its owner")
    if isinstance(error, MemoryError):
        return DiffTalkerError("the memory is used up", fix="try shorter or smaller footage")
    return DiffTalkerError(
        f"an unexpected {type(error).__name__}", fix="the server's log says where; report it"
    )


if __name__ == "__main__":
    main()
