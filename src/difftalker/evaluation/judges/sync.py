"""Do mouth and sound belong together? Our own sync expert, and SyncNet's LSE for its weights file.

Both look at windows of 5 frames at 25 Hz and the sound of the same 0.2 s, move the sound by up to
15 frames either way, and report the least mean distance and how far below the median it lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker.core.hashing import sha256_of
from difftalker.evaluation.footage import Figures, Footage, Output
from difftalker.evaluation.judges.base import JudgeOptions
from difftalker.experts.sync_net import (
    REACH_FRAMES,
    SyncConfig,
    SyncNet,
    frames_at_rate,
    grey_mouth,
    offset_distances,
    read_score,
    sound_of_frames,
    whole_windows,
)
from difftalker.experts.syncnet_v2 import (
    CEPSTRA_A_FRAME,
    PICTURE_PX,
    WINDOW_CEPSTRA,
    WINDOW_FRAMES,
    load_syncnet,
    padded_offset_distances,
)
from difftalker.face.detect.track import FaceTrack
from difftalker.face.landmarks import BROWS, NOSE_BASE
from difftalker.media.audio import read_audio, stream_audio
from difftalker.media.video import read_frames
from difftalker.speech.encoder import LogMelEncoder, encode_all
from difftalker.speech.mfcc import mfcc
from difftalker.store import experts as expert

SILENT = 1e-3
"""Sound that nowhere exceeds this, of full scale, has no sync to be judged (-60 dB)."""

FRAME_SAMPLES = 640
"""Samples of sound in a frame at 25 Hz."""

CROP_SCALE = 0.4
"""Margin around a face's box, in half sides, as in SyncNet's pipeline."""
MEDIAN_FRAMES = 13
BORDER_GREY = 110
FOREHEAD = 0.9
"""Height of the forehead that a face detector's box takes in, over brows to the base of the nose:
WIDER FACE, which S3FD learned from, draws boxes from the hairline to the chin."""


class SyncJudge:
    """``sync_c`` and ``sync_d``: confidence and distance of our own expert."""

    name = "sync"
    measures = ("sync_c", "sync_d")

    def __init__(self, folder: str | Path = "", *, device: str = "cpu") -> None:
        """The packaged expert, or that in ``folder``.

        Raises:
            AssetError: it is missing or altered, or does not fit.
        """
        files = expert.read(folder, kind="sync")
        self._net = files.load_network(SyncNet, SyncConfig).to(device)
        self._device, self._encoder = device, LogMelEncoder(device)
        unseen = files.facts.get("unseen")
        self.facts: Mapping[str, Any] = {"sha256": files.sha256, "unseen": unseen}

    @classmethod
    def opened(cls, options: JudgeOptions) -> Self | None:
        """The judge of an evaluation's options; None where it has no expert."""
        if options.sync is None and "sync" not in expert.packaged():
            return None
        return cls(options.sync or "", device=options.device)

    def judge(self, clip: Footage, output: Output, made: FaceTrack) -> Figures:
        """The figures of one video; see ``judges.base.Judge``. Not numbers where all is silent."""
        distances = self.distances(clip, output)
        if distances is None:
            return {}
        score = read_score(distances)
        return {"sync_c": score.confidence, "sync_d": score.distance}

    def distances(self, clip: Footage, output: Output) -> Tensor | None:
        """Mean distance at each offset, (31,); None where there is no sound to judge by."""
        if _is_silent(output.audio):
            return None
        mouths = np.stack([grey_mouth(crop) for crop in clip.crops(output.video)])
        shown = frames_at_rate(clip.located.track.times_s)
        mel = sound_of_frames(encode_all(self._encoder, stream_audio(output.audio)), len(shown))
        with torch.inference_mode():
            picture = self._net.picture(torch.from_numpy(mouths[shown])[None].to(self._device))
            sound = self._net.sound(torch.from_numpy(mel)[None].to(self._device))
        seen = torch.from_numpy(whole_windows(clip.found[shown]))
        picture = torch.where(seen[:, None], picture[0].cpu(), torch.nan)
        return offset_distances(picture, sound[0].cpu())


class OfficialSyncJudge:
    """``lse_c`` and ``lse_d``: LSE-C and LSE-D with SyncNet's official weights.

    Source: Prajwal et al., "A lip sync expert is all you need" (2020), 4.1, for the names; the
    evaluation is SyncNet's published one.
    """

    name = "syncnet"
    measures = ("lse_c", "lse_d")

    def __init__(self, weights: Path, *, device: str = "cpu") -> None:
        """``weights`` is the official file syncnet_v2.model.

        Raises:
            AssetError: it is missing or no SyncNet.
        """
        self._net = load_syncnet(weights).to(device)
        self._device = device
        self.facts: Mapping[str, Any] = {"sha256": sha256_of(weights)}

    @classmethod
    def opened(cls, options: JudgeOptions) -> Self | None:
        """The judge of an evaluation's options; None where its weights are not given."""
        return cls(options.syncnet, device=options.device) if options.syncnet else None

    def judge(self, clip: Footage, output: Output, made: FaceTrack) -> Figures:
        """The figures of one video; not numbers without face or sound."""
        if not made.found.any() or _is_silent(output.audio):
            return {}
        faces = _faces(output.video, made)
        score = read_score(self.distances(faces, read_audio(output.audio)))
        return {"lse_c": score.confidence, "lse_d": score.distance}

    def distances(self, faces: Iterable[NDArray[np.uint8]], samples: NDArray[np.float32]) -> Tensor:
        """Mean distance at each offset, (31,), of faces (224, 224, 3), RGB at 25 Hz, and sound.

        ``samples`` (n,) are 16 kHz mono from -1 to 1. The published evaluation leaves out the last
        window that would fit. Not numbers below six frames.
        """
        with torch.inference_mode():
            picture = self._net.picture(faces)
            count = min(len(picture) - 1, len(samples) // FRAME_SAMPLES - WINDOW_FRAMES)
            if count < 1:
                return torch.full((2 * REACH_FRAMES + 1,), torch.nan)
            cepstra = mfcc(np.clip(np.round(samples * 2.0**15), -(2**15), 2**15 - 1))
            places = np.arange(count)[:, None] * CEPSTRA_A_FRAME + np.arange(WINDOW_CEPSTRA)
            heard = torch.from_numpy(cepstra[places]).float()
            sound = self._net.sound(heard.to(self._device)).cpu()
        return padded_offset_distances(picture[:count], sound, reach=REACH_FRAMES)


def _faces(video: Path, made: FaceTrack) -> Iterator[NDArray[np.uint8]]:
    """The faces of a video at 25 Hz, as the pipeline cuts them; none is kept."""
    boxes = smooth_boxes(face_boxes(made.points_px))
    times = np.bincount(frames_at_rate(made.times_s), minlength=len(boxes))
    for frame, box, shown in zip(read_frames(video), boxes, times, strict=True):
        yield from itertools.repeat(face_crop(frame.image, box), int(shown))


@dataclass(frozen=True, kw_only=True)
class FaceBox:
    """A square face: its centre and half of its side, pixels of the frame."""

    x: float
    y: float
    half: float


def face_boxes(points_px: NDArray[np.float32]) -> list[FaceBox]:
    """Boxes such as a face detector draws, from landmarks (F, 68, 2) with a face in one frame.

    From the hairline to the chin and from cheek to cheek; in frames without a face interpolated.
    """
    brow, nose = points_px[:, BROWS, 1].mean(1), points_px[:, NOSE_BASE, 1]
    top = points_px[:, BROWS, 1].min(1) - FOREHEAD * (nose - brow)
    low, high = points_px.min(1), points_px.max(1)
    edges = np.stack([low[:, 0], top, high[:, 0], high[:, 1]], 1)
    found = np.flatnonzero(np.isfinite(edges).all(1))
    left, top, right, bottom = (
        np.interp(np.arange(len(edges)), found, column[found]) for column in edges.T
    )
    halves = np.maximum(bottom - top, right - left) / 2
    columns = zip((left + right) / 2, (top + bottom) / 2, halves, strict=True)
    return [FaceBox(x=float(x), y=float(y), half=float(half)) for x, y, half in columns]


def smooth_boxes(boxes: Sequence[FaceBox]) -> list[FaceBox]:
    """Each number the median of 13 frames, zeros beyond the ends, as SyncNet's pipeline has it."""
    from scipy.signal import medfilt

    frames = min(MEDIAN_FRAMES, len(boxes) - 1 + len(boxes) % 2)
    rows = np.array([(box.x, box.y, box.half) for box in boxes])
    smooth = np.stack([medfilt(column, frames) for column in rows.T], 1)
    return [FaceBox(x=float(x), y=float(y), half=float(half)) for x, y, half in smooth]


def face_crop(image: NDArray[np.uint8], box: FaceBox) -> NDArray[np.uint8]:
    """The face as SyncNet's pipeline cuts it, (H, W, 3) -> (224, 224, 3).

    From the top of the box to 0.8 half sides below it and 0.4 half sides beyond it on the left and
    the right; grey outside the frame.
    """
    half, margin = box.half, int(box.half * (1 + 2 * CROP_SCALE))
    edges = (margin, margin, margin, margin)
    padded = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=(BORDER_GREY,) * 3)
    x, y, reach = box.x + margin, box.y + margin, half * (1 + CROP_SCALE)
    face = padded[
        int(y - half) : int(y + half * (1 + 2 * CROP_SCALE)), int(x - reach) : int(x + reach)
    ]
    return cv2.resize(face, (PICTURE_PX, PICTURE_PX))  # type: ignore[return-value]


def _is_silent(audio: Path) -> bool:
    return all(np.abs(block).max() < SILENT for block in stream_audio(audio))
