"""One video against the footage that it was made from: every measure of one row for one clip."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from difftalker import metrics
from difftalker.dubbing.dub import DubResult
from difftalker.dubbing.footage import TrackedFootage
from difftalker.errors import DiffTalkerError, FaceError, MediaError
from difftalker.evaluation.footage import Figures, Footage, Output
from difftalker.evaluation.judges.base import Judge
from difftalker.face.detect.track import FaceTrack, track
from difftalker.face.landmarks import CONTOUR, LOWER, MOUTH, POINTS
from difftalker.media.audio import SAMPLE_RATE_HZ, stream_audio
from difftalker.media.video import read_frames
from difftalker.speech.silence import silent_at

logger = logging.getLogger(__name__)

Image = NDArray[np.uint8]
Mask = NDArray[np.bool_]

_ALL = tuple(range(POINTS))


@dataclass(frozen=True, kw_only=True)
class Score:
    """What was found out about one video."""

    figures: Figures
    made: FaceTrack
    """The landmarks found on it, at the times of the footage."""
    failed: Mapping[str, str]
    """Name of a judge that could not judge, and why; its measures are not numbers."""


def score(clip: Footage, output: Output, judges: Sequence[Judge] = ()) -> Score:
    """All measures of one video, those of the judges included.

    Raises:
        MediaError: the video has not as many frames as the footage, or its sound cannot be read.
    """
    made = _track_again(output.video, clip)
    silent = silent_at(stream_audio(output.audio), made.times_s, rate_hz=SAMPLE_RATE_HZ)
    figures = {
        **_completion_errors(clip.located, output.dub),
        **_found_again(clip.located, made),
        "open_corr": _opening_correlation(made, output.voice),
        **_picture_figures(clip, output.video, made),
        "silence_leak": metrics.silence_leak(made.points_px, made.times_s, silent),
    }
    failed: dict[str, str] = {}
    for judge in judges:
        figures |= dict.fromkeys(judge.measures, np.nan)
        try:
            figures |= judge.judge(clip, output, made)
        except Exception as error:
            failed[judge.name] = reason(error)
    clip.forget(output.video)
    return Score(figures=figures, made=made, failed=failed)


def reason(error: Exception) -> str:
    """Why something failed, for a report; what nobody foresaw is logged too."""
    if isinstance(error, DiffTalkerError):
        return str(error)
    logger.warning("an unexpected failure", exc_info=error)
    return f"{type(error).__name__}: {error}"


def _track_again(video: Path, clip: Footage) -> FaceTrack:
    """The landmarks found on an output; all missing where no frame shows the face."""
    times = clip.located.track.times_s
    try:
        made = track(read_frames(video), source=video, face=clip.face)
    except FaceError:
        missing = np.full((len(times), POINTS, 2), np.nan, np.float32)
        return FaceTrack(times_s=times, points_px=missing)
    if len(made) != len(times):
        raise MediaError(f"{video} has {len(made)} frames", wanted=f"the footage's {len(times)}")
    # Containers round times; those of the footage serve both.
    return FaceTrack(times_s=times, points_px=made.points_px)


def _completion_errors(located: TrackedFootage, dub: DubResult | None) -> Figures:
    """How far the completed points lie from those of the footage."""
    if dub is None:
        return {}
    found, true_px = dub.landmarks_crop, located.track.points_px
    found_px, true = located.points_px(found), located.framing.crop.to_crop(true_px)
    size, figures = _frame_size_px(located), {}
    for part, indices in (("", LOWER), ("_contour", CONTOUR), ("_mouth", MOUTH)):
        name = f"landmark_error{part}"
        figures[f"{name}_crop"] = metrics.landmark_error(found, true, indices)
        figures[f"{name}_frame"] = metrics.landmark_error_frame(found_px, true_px, size, indices)
    return figures


def _found_again(located: TrackedFootage, made: FaceTrack) -> Figures:
    """How far the landmarks of the output lie from those of the footage."""
    true, size = located.track, _frame_size_px(located)
    return {
        "ld_frame": metrics.landmark_error_frame(made.points_px, true.points_px, size, _ALL),
        "ld_lower_frame": metrics.landmark_error_frame(made.points_px, true.points_px, size),
        "found": float(made.found[true.found].mean()),
    }


def _frame_size_px(located: TrackedFootage) -> tuple[int, int]:
    return located.info.width, located.info.height


def _opening_correlation(made: FaceTrack, voice: Footage | None) -> float:
    if voice is None:
        return np.nan
    true = voice.located.track
    return metrics.mouth_opening_correlation(
        made.points_px, made.times_s, true.points_px, true.times_s
    )


def _picture_figures(clip: Footage, video: Path, made: FaceTrack) -> Figures:
    """Pixels of a video against its footage's, in the same crops, in frames with a face."""
    frames = list(_frame_figures(clip, video, made))
    columns = {key: np.array([frame[key] for frame in frames]) for key in frames[0]}
    ratios = [key for key in columns if f"{key}_true" in columns]
    means = [key for key in columns if key.startswith(("psnr", "ssim"))]
    return {
        **{key: float(columns[key].mean()) for key in means},
        **{key: _ratio(columns[key], columns[f"{key}_true"]) for key in ratios},
    }


def _frame_figures(clip: Footage, video: Path, track: FaceTrack) -> Iterator[Figures]:
    """The figures of each frame with a face; what is later a ratio, for both videos."""
    before: tuple[Image, Image] | None = None
    moving = _moving_parts(clip, track)
    pairs = zip(clip.crops(video), clip.crops(), strict=True)
    for i, (made, true) in enumerate(pairs):
        if not clip.found[i]:
            before = None
            continue
        box = clip.located.framing.boxes[i]
        lower = _inside(box, clip.size_px)
        yield {
            **_likeness(made, true, lower, _face(clip, i)),
            **_beside("sharpness", *(metrics.detail_energy(one, lower) for one in (made, true))),
            **_beside("seam", *(metrics.seam_step(one, box) for one in (made, true))),
            **_flicker((made, true), before, lower, moving[i] | moving[max(i - 1, 0)]),
        }
        before = made, true


def _likeness(made: Image, true: Image, lower: Mask, face: Mask) -> Figures:
    """PSNR and SSIM over the whole crop, the lower region and the face."""
    similarity = metrics.ssim_map(made, true)
    places = {"crop": None, "lower": lower, "face": face}
    return {
        **{f"psnr_{part}": metrics.psnr(made, true, mask) for part, mask in places.items()},
        **{f"ssim_{part}": metrics.masked_mean(similarity, mask) for part, mask in places.items()},
    }


def _flicker(
    now: tuple[Image, Image], before: tuple[Image, Image] | None, lower: Mask, moving: Mask
) -> Figures:
    """Changes since the frame before in the lower region, and in its parts apart."""
    parts = {"": lower, "_static": lower & ~moving, "_moving": lower & moving}
    figures: Figures = {}
    for part, mask in parts.items():
        changes = [np.nan, np.nan]
        if before is not None:
            pairs = zip(now, before, strict=True)
            changes = [metrics.frame_change(*pair, mask) for pair in pairs]
        figures |= _beside(f"flicker{part}", *changes)
    return figures


def _beside(name: str, made: float, true: float) -> Figures:
    return {name: made, f"{name}_true": true}


def _face(clip: Footage, frame: int) -> Mask:
    """The hull of all landmarks of the footage: the face from the brows to the chin."""
    return metrics.hull_mask(clip.located.framing.points_crop[frame] * clip.size_px, clip.size_px)


def _moving_parts(clip: Footage, made: FaceTrack) -> list[Mask]:
    """Where chin and mouth are in each frame, of the footage or of the output."""
    framing, size = clip.located.framing, clip.size_px
    of_made = framing.crop.to_crop(made.points_px)
    return [
        metrics.hull_mask(true[list(metrics.MOVING)] * size, size)
        | metrics.hull_mask(seen[list(metrics.MOVING)] * size, size)
        for true, seen in zip(framing.points_crop, of_made, strict=True)
    ]


def _inside(box: NDArray[np.int32], size_px: int) -> NDArray[np.bool_]:
    mask = np.zeros((size_px, size_px), bool)
    mask[box[0] : box[1], box[2] : box[3]] = True
    return mask


def _ratio(made: NDArray[np.float64], true: NDArray[np.float64]) -> float:
    """The mean of one over the mean of the other, over the frames that have both."""
    both = np.isfinite(made) & np.isfinite(true)
    top, bottom = made[both].sum(), true[both].sum()
    return float(top / bottom) if bottom > 0 else np.nan
