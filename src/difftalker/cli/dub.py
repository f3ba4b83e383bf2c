"""``difftalker dub``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from difftalker.cli.common import (
    COMPUTE,
    GUARDS,
    AtLeast1,
    Bars,
    Compute,
    Guards,
    List,
    Outcome,
    RendererName,
    text_of,
)
from difftalker.cli.marking import MARKING, Marking
from difftalker.cli.train import training_bars
from difftalker.config import DEFAULT_CRF
from difftalker.core.text import printable

if TYPE_CHECKING:
    from difftalker.dubbing.jobs import DubJob


def dub(
    video: Path,
    audio: Path,
    /,
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    avatar: Annotated[str, Parameter(name=("--avatar", "-a"))] = "",
    consent: str = "",
    learn: Annotated[float | None, Parameter(validator=validators.Number(gte=0))] = None,
    renderer: RendererName = "auto",
    sampler: str | None = None,
    steps: AtLeast1 | None = None,
    face: str = "avatar",
    any_face: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    landmarks: Path | None = None,
    edit: Annotated[tuple[str, ...], List] = (),
    fit: Literal["trim", "pad", "loop", "pingpong"] = "trim",
    keep_audio: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    landmarks_out: Path | None = None,
    report: Path | None = None,
    keep_journal: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    crf: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=51))] = DEFAULT_CRF,
    lossless: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    marking: Marking = MARKING,
    guards: Guards = GUARDS,
    options: Compute = COMPUTE,
) -> Outcome:
    """Give footage of a person new speech: the same video, a new mouth.

    Without an avatar the person is first learned from the video itself, once.

    A run that was stopped, by whatever, goes on from where it was with the same command: finished
    work waits in a hidden folder beside the output. Frames that do not show the person, or a face
    that is turned away or covered, pass through as they are.

    Args:
        video: Footage of the avatar's person; any format that FFmpeg decodes.
        audio: The new speech: any file with a sound track, a video too.
        avatar: A packaged avatar's name, or a folder made by `difftalker train`; by default the
            person is learned from the video.
        consent: Who agreed to be learned from the video, and how; not needed with an avatar.
        learn: Minutes that learning may take; by default 15 at most, less for short footage. 0
            learns nothing: the mouth is that of a network of many faces.
        output: The video to write (.mp4, .m4v, .mov or .mkv); its folder has to exist.
        renderer: diffusion, or light: one pass, a fifth of the time, about as good. auto is the
            diffusion where the processor is fast in bfloat16 or there is a GPU, else light.
        sampler: ddpm, ddim or dpm++; by default the avatar's own.
        steps: Steps of denoising, more is slower; by default the avatar's own.
        face: Whom to drive, of several people: avatar (its own person), largest, leftmost,
            rightmost, center, a number (counted as they come in, those who come together from left
            to right), or a picture.
        any_face: Drive a face that is not the avatar's person, too: it gets the avatar's mouth and
            jaw. The video's metadata and the report say that this was given.
        landmarks: Render these (.npz or .json), made of the same footage by `difftalker landmarks`.
        edit: Change the lower face: mouth=GAIN, jaw=GAIN, smooth=SECONDS or shift=SECONDS, all
            along or with @START-STOP in seconds: mouth=1.3@1.0-2.5. May be given several times.
        fit: Where sound and picture differ in length: trim, the picture rules, longer sound is cut
            and shorter sound is followed by silence; pad, the longer one rules, the last picture
            is held; loop and pingpong, the sound rules, the footage is played again and again, or
            forth and back.
        keep_audio: Leave the footage its own sound; the new speech only moves the mouth.
        landmarks_out: Write the landmarks that drive the face too (.npz or .json).
        report: Write which frames got a new mouth, and why the others did not (.json).
        keep_journal: Leave the finished work beside the output, for a run with other landmarks.
        crf: Quality of the picture, 0 to 51; lower is better and larger.
        lossless: Keep every pixel (.mkv with FFV1 and PCM).
        marking: How the video says that it is generated.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.core.allocator import steady
    from difftalker.core.device import use_threads
    from difftalker.dubbing.jobs import DubJob

    job = DubJob(
        video=str(video),
        audio=str(audio),
        avatar=avatar,
        output=str(output),
        renderer=renderer,
        sampler=sampler,
        steps=steps,
        seed=options.seed,
        face=face,
        any_face=any_face,
        landmarks=text_of(landmarks),
        edits=edit,
        fit=fit,
        keep_audio=keep_audio,
        landmarks_out=text_of(landmarks_out),
        report=text_of(report),
        keep_journal=keep_journal,
        crf=crf,
        lossless=lossless,
        marks=marking.marks,
        device=options.device,
        limits=guards.limits,
    )
    steady()
    use_threads(options.threads)
    if not avatar:
        job = replace(job, avatar=_learned(job, consent, learn, options.threads))
    with Bars() as bars:
        result = job.run(bars.event)
    record = {
        "output": result.output,
        "landmarks": landmarks_out,
        "edits": edit,
        "report": report,
        "spans": len(result.spans),
        "face": face,
        "any_face": any_face,
        "people": len(result.located.track.people) or None,
        "avatar": result.avatar,
        "frames": result.frames,
        "frames_driven": result.frames_driven,
        "seconds": result.seconds,
        "frames_per_second": result.frames_per_second,
        **result.rendering.facts(),
        "seed": options.seed,
        "device": result.device,
    }
    return Outcome(
        record,
        f"{printable(output)}: {result.frames} frames, {result.frames_driven} with a new mouth, "
        f"{result.rendering.renderer} renderer, {result.frames_per_second:.1f} frames a second",
    )


def _learned(job: DubJob, consent: str, minutes: float | None, threads: int) -> str:
    """The avatar of the person in the job's own video."""
    from difftalker.training.learned import learn

    job.check()  # before minutes of learning
    face = job.face if job.face != "avatar" else "largest"
    with Bars("clip") as clip_bars, Bars("step") as bars:
        folder = learn(
            job.video,
            consent=consent,
            minutes=minutes,
            face=face,
            seed=job.seed,
            device=job.device,
            threads=threads,
            on_event=training_bars(clip_bars, bars),
        )
    return str(folder)
