"""Pictures of an evaluation: lower faces side by side, the paper's Figures 2 and 3, and clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.dubbing.dub import DubResult
from difftalker.evaluation.footage import Footage, Output
from difftalker.evaluation.predictions import nearest_frames
from difftalker.face.draw import contact_sheet, overlay
from difftalker.face.landmarks import BROWS, NOSE_BASE
from difftalker.face.lips import relative_opening
from difftalker.face.spans import turn
from difftalker.marks.marking import MARKED, Marker, Work
from difftalker.media.video import VideoWriter
from difftalker.metrics import Floats
from difftalker.store.journal import file_hash, key_of

Image = NDArray[np.uint8]

SHEET_CLIPS = 14
SHEET_COLUMNS = 6
SHEET_ROWS = ("own_audio", "other_audio", "silence", "real", "copied")
"""What the sheet of faces shows under the footage: the first of these that was made."""
FIGURE2_CLIPS = 4
FIGURE3_POSES = 8
TILE_PX = 224
"""The largest side of a crop in Figures 2 and 3."""
PANEL_PX = 256
"""The largest side of a panel in a clip to play."""
PANELS = ("footage", "own_audio", "other_audio")
CLIP_S = 10.0
"""The longest that a clip to play is."""
CLIP_CRF = 25

_TRUE, _COMPLETED = (80, 255, 80), (255, 190, 60)
_LABEL_PX = 20
_NOSE_TIP = 30


@dataclass(frozen=True, kw_only=True)
class Material:
    """One measured clip: what its pictures are made of."""

    name: str
    clip: Footage
    outputs: Mapping[str, Output]
    """By row; rows that failed are not there."""
    openings: Mapping[str, Floats]
    """By row, (frames,): opening of the mouth that was found on the output, in face scales."""

    def dub(self, row: str) -> DubResult | None:
        """How a row's video was dubbed, if it was."""
        return self.outputs[row].dub if row in self.outputs else None


def faces(materials: Sequence[Material]) -> Image | None:
    """Lower faces of the footage above those made for it; clips in the order of the report.

    None where no clip has a row of ours.
    """
    tiles: list[Image] = []
    for one in materials[:SHEET_CLIPS]:
        shown = next((row for row in SHEET_ROWS if row in one.outputs), None)
        if shown is None:
            continue
        for label, video in ((one.name, one.clip.path), (shown, one.outputs[shown].video)):
            row = _lower_faces(one.clip, video)
            cv2.putText(row[0], label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255))
            tiles += row
    return contact_sheet(tiles, SHEET_COLUMNS) if tiles else None


def _lower_faces(clip: Footage, video: Path) -> list[Image]:
    """The lower half of the face in frames spread over a video of the clip."""
    found = np.flatnonzero(clip.found)
    wanted = found[np.linspace(0, len(found) - 1, SHEET_COLUMNS).round().astype(int)]
    top = clip.size_px * 3 // 8
    return [crop[top:].copy() for crop in _picked(clip, video, wanted.tolist())]


def _picked(clip: Footage, video: Path, frames: Sequence[int]) -> list[Image]:
    """The crops of some frames of a video of the clip."""
    shown = {i: crop for i, crop in enumerate(clip.crops(video)) if i in frames}
    clip.forget()
    return [shown[i] for i in frames]


def figure2(materials: Sequence[Material]) -> Image | None:
    """Completion beside truth beside mismatched sound, as the paper's Figure 2; a clip a row.

    Each clip shows the frame at which the two speakers' mouths differ most in truth, before
    anything was completed. None where no clip was dubbed with its own and with other sound.
    """
    rows = [tiles for one in materials if (tiles := _figure2_row(one)) is not None]
    labels = ("footage", "completed, own sound", "completed, other sound", "who speaks it")
    return _labelled(rows[:FIGURE2_CLIPS], labels) if rows else None


def _figure2_row(one: Material) -> list[Image] | None:
    own, other = one.dub("own_audio"), one.dub("other_audio")
    if own is None or other is None or (voice := one.outputs["other_audio"].voice) is None:
        return None
    track, theirs = one.clip.located.track, voice.located.track
    partner = nearest_frames(theirs.times_s, track.times_s)
    gap = relative_opening(track.points_px) - relative_opening(theirs.points_px)[partner]
    if not np.isfinite(gap).any():
        return None
    here = int(np.nanargmax(np.abs(gap)))
    there = int(partner[here])
    [mine] = _picked(one.clip, one.clip.path, [here])
    [speaker] = _picked(voice, voice.path, [there])
    return [
        _drawn(mine, one.clip.located.framing.points_crop[here], _TRUE),
        _drawn(mine, own.landmarks_crop[here], _COMPLETED),
        _drawn(mine, other.landmarks_crop[here], _COMPLETED),
        _drawn(speaker, voice.located.framing.points_crop[there], _TRUE),
    ]


def figure3(materials: Sequence[Material]) -> Image | None:
    """Footage, generated faces and their landmarks over head poses, as the paper's Figure 3.

    The poses are as different in yaw and pitch as the clips offer, chosen without a look at the
    result; from left to right the head turns. None where no clip was dubbed with its own sound.
    """
    poses = _poses(materials)
    columns = [_figure3_column(materials[m], frame) for m, frame in spread(poses, FIGURE3_POSES)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return np.vstack(
        [_labelled([row], [label]) for row, label in zip(rows, _FIGURE3_ROWS, strict=False)]
    ) if rows else None  # fmt: skip


_FIGURE3_ROWS = ("footage", "generated, own sound", "predicted landmarks")


def _figure3_column(one: Material, frame: int) -> list[Image]:
    dub = one.dub("own_audio")
    assert dub is not None
    [true] = _picked(one.clip, one.clip.path, [frame])
    [made] = _picked(one.clip, dub.output, [frame])
    blank = np.zeros_like(made)
    return [_tile(true), _tile(made), _drawn(blank, dub.landmarks_crop[frame], _COMPLETED)]


def _poses(materials: Sequence[Material]) -> dict[tuple[int, int], tuple[float, float]]:
    """Yaw and pitch of all frames with a wholly new mouth, by (clip, frame)."""
    poses = {}
    for m, one in enumerate(materials):
        if one.dub("own_audio") is None:
            continue
        points = one.clip.located.track.points_px
        yaw, pitch = turn(points), nod(points)
        for i in np.flatnonzero(one.clip.located.strength == 1):
            poses[m, int(i)] = float(yaw[i]), float(pitch[i])
    return poses


def nod(points_px: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far a face looks down, (frames, 68, 2) -> (frames,).

    The tip of the nose between brows (0) and base of the nose (1), along the line that joins them:
    it rises as the head nods. Not a number without a face.
    """
    brows = points_px[:, BROWS].mean(1)
    along = points_px[:, NOSE_BASE] - brows
    place: NDArray[np.float32] = ((points_px[:, _NOSE_TIP] - brows) * along).sum(-1) / np.square(
        along
    ).sum(-1)
    return place


def spread(
    poses: Mapping[tuple[int, int], tuple[float, float]], count: int
) -> list[tuple[int, int]]:
    """Up to ``count`` keys whose poses lie far apart, by yaw from low to high.

    Farthest-point sampling in units of each angle's deviation, begun at the pose nearest the mean.
    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985).
    """
    keys = sorted(poses)
    if not keys:
        return []
    places = np.array([poses[key] for key in keys])
    places = (places - places.mean(0)) / np.maximum(places.std(0), 1e-9)
    chosen = [int(np.square(places).sum(1).argmin())]
    while len(chosen) < min(count, len(keys)):
        gaps = np.square(places[:, None] - places[chosen]).sum(-1).min(1)
        chosen.append(int(gaps.argmax()))
    return [keys[i] for i in sorted(chosen, key=lambda i: (places[i][0], i))]


def _tile(crop: Image) -> Image:
    side = min(TILE_PX, crop.shape[0])
    return np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def _drawn(crop: Image, points_crop: Floats, colour: tuple[int, int, int]) -> Image:
    """A tile of the darkened crop with landmarks (68, 2), crop units, over it."""
    tile = (_tile(crop) * 0.6).astype(np.uint8)
    return overlay(tile, (points_crop * tile.shape[0]).astype(np.float32), colour)


def _labelled(rows: Sequence[Sequence[Image]], labels: Sequence[str]) -> Image:
    """Rows of tiles under a line of labels, one a column or one for all."""
    sheet = contact_sheet([tile for row in rows for tile in row], len(rows[0]))
    head = np.full((_LABEL_PX, sheet.shape[1], 3), 24, np.uint8)
    for i, label in enumerate(labels):
        place = (6 + i * rows[0][0].shape[1], 14)
        cv2.putText(
            head, label, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (235, 235, 235), 1, cv2.LINE_AA
        )
    return np.vstack([head, sheet])


def save_comparison(one: Material, path: Path) -> bool:
    """Write footage, own and other speech side by side, with the clip's own sound; whether it did.

    The first ten seconds at most; nothing is written where the clip was not dubbed with its own
    sound.

    Raises:
        MediaError: the video cannot be written.
    """
    if "own_audio" not in one.outputs:
        return False
    shown = [row for row in PANELS if row == "footage" or row in one.outputs]
    times, info = one.clip.located.track.times_s, one.clip.located.info
    side = min(PANEL_PX, one.clip.size_px) // 2 * 2
    width, height = side * len(shown), side + _LABEL_PX
    marker = _marker(one, shown, width, height)
    with VideoWriter(
        path,
        width=width,
        height=height,
        fps=info.fps,
        time_base=info.time_base,
        audio=one.clip.path,
        crf=CLIP_CRF,
        comment=marker.comment,
        finish=marker.finish,
    ) as writer:
        for time_s, tiles in zip(times, _panels(one, shown, side), strict=True):
            if time_s < CLIP_S:
                pts = round(float(time_s) / float(info.time_base))
                writer.write(marker.mark(_labelled([tiles], shown), time_s), pts)
    one.clip.forget()
    return True


def _marker(one: Material, shown: Sequence[str], width: int, height: int) -> Marker:
    """What marks panels side by side."""
    made = [one.outputs[row] for row in shown if row != "footage"]
    work = Work(
        comment="Side by side by DiffTalker: all panels but the footage are AI-generated.",
        job=key_of("comparison", file_hash(one.clip.path), *(file_hash(o.video) for o in made)),
        avatar=next((dub.avatar for row in shown if (dub := one.dub(row))), ""),
        footage=one.clip.path,
    )
    return Marker(MARKED, work, width, height)


def _panels(one: Material, shown: Sequence[str], side: int) -> Iterator[list[Image]]:
    videos = [one.clip.path if row == "footage" else one.outputs[row].video for row in shown]
    for crops in zip(*(one.clip.crops(video) for video in videos), strict=True):
        yield [np.asarray(cv2.resize(crop, (side, side)), np.uint8) for crop in crops]
