"""``difftalker prepare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from difftalker.cli.common import COMMON, GUARDS, Bars, Common, Guards, List, Outcome
from difftalker.core.text import printable


def prepare(
    *video: Path,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    size: Annotated[int, Parameter(validator=validators.Number(gte=64, lte=1024))] = 256,
    features: str = "whisper,whisper-live",
    voices: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=20))] = 0,
    face: str = "largest",
    clips: Annotated[tuple[str, ...], List] = (),
    workers: Annotated[int, Parameter(validator=validators.Number(gte=0))] = 0,
    guards: Guards = GUARDS,
    options: Common = COMMON,
) -> Outcome:
    """Make a dataset of footage: crops, landmarks and speech features, to train on.

    Footage that cannot be used is left out with the reason. A run that was stopped goes on where
    it was.

    Args:
        video: Video files, or folders of them.
        output: The dataset's folder.
        size: Side of the square crops, pixels; what the preset to train asks for.
        features: Speech features, separated by commas: whisper (over short windows), whisper-live
            and mel-live (as speech comes, for live sessions), characters, mel, deepspeech (a model
            file that DIFFTALKER_DEEPSPEECH names), or whisper-padded (over Whisper's own windows
            of 30 s).
        voices: Have each clip's sound also heard in so many other voices, which say the same at
            the same times, for avatars that anyone's speech can drive.
        face: Whose face, of several people: largest, leftmost, rightmost, center, a number
            (counted as they come in, those who come together from left to right), or a picture.
        clips: Only this one of the videos, by its name without suffix; FILE.json:KEY for a list
            of names in a JSON file. May be given several times.
        workers: Files worked on at once; 0 for one a core.
        guards: Limits of what is read.
        options: Those that commands share.
    """
    from difftalker.data.footage import find_footage
    from difftalker.data.prepare import PrepareConfig
    from difftalker.data.prepare import prepare as make_dataset
    from difftalker.face.detect.people import Choice
    from difftalker.speech.registry import features_called

    kinds = tuple(map(features_called, features.split(",")))
    config = PrepareConfig(size_px=size, features=kinds, voices=voices)
    whom = Choice.parse(face)
    videos = find_footage(video, clips)
    with Bars("clip") as bars:
        manifest = make_dataset(
            videos, output, config, face=whom, workers=workers, progress=bars.clip
        )
    frames = sum(clip.frames for clip in manifest.clips)
    record = {
        "output": output,
        "clips": len(manifest.clips),
        "frames": frames,
        "size": size,
        "features": config.features,
        "voices": voices,
        "face": face,
        "rejected": manifest.rejected,
        "seed": options.seed,
    }
    left_out = len(manifest.rejected)
    return Outcome(
        record,
        f"{printable(output)}: {len(manifest.clips)} clips, {frames} frames; {left_out} left out",
    )
