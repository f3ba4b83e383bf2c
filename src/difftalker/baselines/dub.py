"""A dub by a baseline: the same tracking, crops, blending and writing as an avatar's.

track     footage -> where the face is, frame by frame          dubbing.footage
points    speech  -> landmarks, for baselines that draw them    the baseline
render    masked crops -> crops with new lower faces            the baseline
          laid into the frames                                  dubbing.render_loop
write     frames and times as they were, with the new sound     media.video
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker import __version__
from difftalker.baselines.base import BaselineRenderer
from difftalker.baselines.systems import Baseline
from difftalker.config import DEFAULT_CRF
from difftalker.core.jobs import Progress, no_progress
from difftalker.dubbing.footage import TrackedFootage, locate
from difftalker.dubbing.render_loop import CHUNK_FRAMES, RenderInputs, RenderLoop
from difftalker.face.detect.people import Choice
from difftalker.marks.marking import MARKED, Marker, Marks, Work
from difftalker.media.audio import probe_audio
from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.speech.registry import load_encoder
from difftalker.speech.speech import Speech
from difftalker.speech.windows import SpokenWindows
from difftalker.store.journal import Journal, file_hash, key_of


@dataclass(frozen=True, kw_only=True)
class BaselineDub:
    """What a dubbing was."""

    output: Path
    frames: int
    frames_driven: int
    """Number of frames that show a new mouth."""
    landmarks_crop: NDArray[np.float32]
    """(frames, 68, 2): the points that were drawn, crop units; else the footage's."""
    seconds: float


def dub(
    baseline: Baseline,
    video: str | Path,
    audio: str | Path,
    output: str | Path,
    *,
    face: str | int | Path = "largest",
    located: TrackedFootage | None = None,
    crf: int = DEFAULT_CRF,
    lossless: bool = False,
    marks: Marks = MARKED,
    seed: int = 0,
    progress: Progress = no_progress,
) -> BaselineDub:
    """Write the footage with a new mouth and the sound of ``audio``, cut or followed by silence.

    ``located`` is the footage's track, found before. ``marks`` say how the video states that it
    was generated.

    Raises:
        MediaError: input or output cannot be read or written, or another run writes the output.
        FaceError: the footage shows no face, or none of whom ``face`` means.
        UsageError: ``face`` means nobody.
    """
    began, video, audio, output = time.monotonic(), Path(video), Path(audio), Path(output)
    info = probe_video(video)
    info.warn()
    probe_audio(audio)
    whom, renderer = Choice.parse(face), baseline.renderer(seed)
    sources = (file_hash(video), file_hash(audio))
    work = Work(
        comment=f"AI-generated: the mouth in this video was made by DiffTalker's baseline "
        f"{baseline.system.name}.",
        job=key_of("baseline", __version__, *sources, renderer.key, repr(whom)),
        avatar=baseline.system.name,
        footage=video,
        speech=audio,
    )
    marker = Marker(marks, work, info.width, info.height)
    journal = Journal(output)
    writer = VideoWriter.like(
        info,
        output,
        audio=audio,
        crf=crf,
        lossless=lossless,
        comment=marker.comment,
        tags=marker.tags(output),
        finish=marker.finish,
        scratch_folder=journal.folder,
    )
    with journal:
        footage = located or locate(video, renderer.size_px, progress, whom)
        speech = Speech(
            audio,
            lambda: load_encoder(baseline.features, device=baseline.device),
            window=baseline.window,
        )
        inputs = _inputs(renderer, footage, speech)
        loop = RenderLoop(renderer, inputs, journal, seed=seed)
        with writer, closing(loop.frames(read_frames(video))) as rendered:
            for done, (frame, image) in enumerate(rendered, 1):
                writer.write(marker.mark(image, frame.time_s), frame.pts)
                progress("render", done, len(footage))
    return BaselineDub(
        output=output,
        frames=len(footage),
        frames_driven=int((footage.strength > 0).sum()),
        landmarks_crop=inputs.points_crop,
        seconds=time.monotonic() - began,
    )


def _inputs(renderer: BaselineRenderer, footage: TrackedFootage, speech: Speech) -> RenderInputs:
    """The footage as the render loop takes it; nothing follows its light."""
    times_s = footage.track.times_s
    stream, points = speech.windows(times_s), footage.framing.points_crop.copy()
    for start in range(0, len(times_s), CHUNK_FRAMES):
        part = slice(start, start + CHUNK_FRAMES)
        points[part] = renderer.points(points[part], stream.take(times_s[part]))
    never = np.zeros(len(times_s), bool)
    return RenderInputs(
        track=footage.track,
        framing=footage.framing,
        points_crop=points,
        strength=footage.strength,
        windows=SpokenWindows(speech.windows(times_s), times_s, never),
        light_points=None,
    )
