"""The run: an avatar dubs held-out footage in several rows, each is measured, a report is written.

DIR/report.json             every figure; docs/evaluation.md says what each field means
   /faces.png               lower faces of the footage above those made for it
   /videos/ROW/CLIP.mp4     the videos that were measured
"""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import sys
import tempfile
import time
import wave
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from difftalker.errors import MediaError, UsageError
from difftalker.evaluation import metrics
from difftalker.evaluation.judges import Judge
from difftalker.evaluation.scoring import Figures, Footage, Output, lower_faces, reason, score
from difftalker.face.draw import contact_sheet
from difftalker.hashing import sha256_of
from difftalker.media.audio import SAMPLE_RATE_HZ
from difftalker.media.video import VideoWriter, read_frames
from difftalker.pipeline import Avatar, DubResult, Progress, locate

logger = logging.getLogger(__name__)

VERSION = 2
"""Of the layout of report.json."""

STAGE = "evaluate"
"""What progress is reported of."""

SHEET_CLIPS = 14
SHEET_COLUMNS = 6
SHEET_ROWS = ("own_audio", "other_audio", "silence", "real", "copied")
"""What the contact sheet shows under the footage: the first of these that was made."""


@dataclass(frozen=True, kw_only=True)
class Studio:
    """Where and how the videos of the rows are made."""

    avatar: Avatar
    videos: Path
    scratch: Path
    sampler: str
    steps: int
    seed: int

    def place(self, row: str, clip: Footage) -> Path:
        """The file for a clip's video; its folder is made."""
        folder = self.videos / row
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{clip.path.stem}.mp4"

    def dub(self, row: str, clip: Footage, audio: Path, voice: Footage | None) -> Output:
        """Dub the clip with the sound of a file."""
        sampling: dict[str, Any] = {
            "sampler": self.sampler, "steps": self.steps, "seed": self.seed,
        }  # fmt: skip
        dub = self.avatar.dub(clip.path, audio, located=clip.located, **sampling)
        result = dub.save(self.place(row, clip))
        return Output(video=result.output, audio=audio, voice=voice, dub=result)


def _real(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    """The footage through the encoder that dubbed videos go through."""
    out, info = studio.place("real", clip), clip.located.info
    writer = VideoWriter(
        out,
        width=info.width,
        height=info.height,
        fps=info.fps,
        time_base=info.time_base,
        audio=clip.path,
        sample_aspect_ratio=info.sample_aspect_ratio,
    )
    with writer:
        for frame in read_frames(clip.path):
            writer.write(frame.image, frame.pts)
    return Output(video=out, audio=clip.path, voice=clip)


def _copied(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    """The footage itself, under another clip's sound."""
    voice = _needed(other)
    return Output(video=clip.path, audio=voice.path, voice=voice)


def _own_audio(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    return studio.dub("own_audio", clip, clip.path, clip)


def _other_audio(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    voice = _needed(other)
    return studio.dub("other_audio", clip, voice.path, voice)


def _silence(studio: Studio, clip: Footage, other: Footage | None) -> Output:
    silent = studio.scratch / f"{clip.path.stem}.wav"
    seconds = float(clip.located.track.times_s[-1]) + 1
    with wave.open(str(silent), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(bytes(2 * round(seconds * SAMPLE_RATE_HZ)))
    return studio.dub("silence", clip, silent, None)


def _needed(other: Footage | None) -> Footage:
    if other is None:
        raise MediaError("there is no other clip to take speech from", wanted="two clips at least")
    return other


_MAKERS: dict[str, Callable[[Studio, Footage, Footage | None], Output]] = {
    "real": _real,
    "copied": _copied,
    "own_audio": _own_audio,
    "other_audio": _other_audio,
    "silence": _silence,
}
ROWS = tuple(_MAKERS)
"""All rows, in the order of the report."""


def evaluate(
    avatar: Avatar,
    clips: Sequence[Path],
    report_dir: Path,
    *,
    rows: Sequence[str] = ROWS,
    judges: Sequence[Judge] = (),
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure an avatar on held-out clips, each with its own sound; write and return the report.

    The other audio of a clip is that of the next one. A clip that fails is reported with the
    reason. A step of ``progress`` is finding one clip's face, or one row of it. Apart from
    ``speed``, ``memory`` and ``machine``, the same seed gives the same report. ``judges`` add their
    measures to every row (``judges.open_judges``).

    Raises:
        UsageError: no clip, two of one name, or an unknown row, sampler or number of steps.
        MediaError: the folder cannot be written, or not one clip could be measured.
    """
    named = _named(clips)
    if unknown := [row for row in rows if row not in ROWS] or ([] if rows else ["nothing"]):
        raise UsageError(f"no row is called {unknown[0]!r}", wanted=" or ".join(ROWS))
    _make_folder(report_dir / "videos")
    defaults = avatar.config.sampling
    with tempfile.TemporaryDirectory(prefix="difftalker-") as scratch:
        studio = Studio(
            avatar=avatar,
            videos=report_dir / "videos",
            scratch=Path(scratch),
            sampler=sampler or defaults.sampler,
            steps=defaults.steps if steps is None else steps,
            seed=seed,
        )
        run = _Run(studio, [row for row in ROWS if row in rows], judges, progress)
        run.measure(named)
    report = run.report()
    _write(report_dir / "faces.png", run.sheet())
    _write(report_dir / "report.json", (json.dumps(report, indent=1) + "\n").encode())
    return report


def _named(clips: Sequence[Path]) -> dict[str, Path]:
    if not clips:
        raise UsageError("no footage was given", wanted="one video file or more")
    named = {Path(clip).stem: Path(clip) for clip in clips}
    if len(named) < len(clips):
        raise UsageError("two clips share a name", wanted="footage with different names")
    return named


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(
            f"the folder {folder} cannot be made: {error.strerror}", fix="choose another folder"
        ) from error


class _Run:
    """One evaluation on its way: what was found so far."""

    def __init__(
        self, studio: Studio, rows: Sequence[str], judges: Sequence[Judge], progress: Progress
    ) -> None:
        self.studio, self.rows, self.judges, self.progress = studio, rows, judges, progress
        self.records: dict[str, dict[str, Any]] = {}
        self.figures: dict[str, dict[str, Figures]] = {row: {} for row in rows}
        self.dubs: list[tuple[DubResult, float]] = []
        self.tiles: list[NDArray[np.uint8]] = []
        self.done = self.total = 0

    def measure(self, named: Mapping[str, Path]) -> None:
        """All rows of all clips."""
        self.total = len(named) * (1 + len(self.rows))
        footage = {n: clip for n, path in named.items() if (clip := self._find(n, path))}
        usable = list(footage.values())
        for i, (name, clip) in enumerate(footage.items()):
            other = usable[(i + 1) % len(usable)] if len(usable) > 1 else None
            made = {row: self._measure_row(row, name, clip, other) for row in self.rows}
            self._add_rise(name)
            self._add_tiles(name, clip, made)
        self.progress(STAGE, self.total, self.total)
        if not any(self.figures.values()):
            first = next(message for *_, message in failures(list(self.records.values())))
            raise MediaError(f"none of {len(named)} clips could be measured; the first: {first}")

    def _step(self, what: str) -> None:
        logger.info("%s", what)
        self.progress(STAGE, self.done, self.total)
        self.done += 1

    def _find(self, name: str, path: Path) -> Footage | None:
        self._step(f"locate {name}")
        record = self.records[name] = {"name": name, "source": path.name}
        size_px, began = self.studio.avatar.config.size_px, time.monotonic()
        try:
            located = locate(path, size_px)
            seconds = time.monotonic() - began
            record |= {"sha256": sha256_of(path), "frames": len(located), "rows": {}}
        except Exception as error:
            record["error"] = reason(error)
            self.done += len(self.rows)
            return None
        record["frames_with_face"] = int(located.track.found.sum())
        return Footage(path=path, size_px=size_px, located=located, locate_seconds=seconds)

    def _measure_row(
        self, row: str, name: str, clip: Footage, other: Footage | None
    ) -> Output | None:
        """Make and measure one video; what goes wrong with it does not end the run."""
        self._step(f"{row} {name}")
        try:
            output = _MAKERS[row](self.studio, clip, other)
            scored = score(clip, output, self.judges)
        except UsageError:
            raise
        except Exception as error:
            self.records[name]["rows"][row] = {"error": reason(error)}
            return None
        self.figures[row][name] = scored.figures
        if scored.failed:
            self.records[name].setdefault("failed", {})[row] = dict(scored.failed)
        if output.dub:
            self.dubs.append((output.dub, clip.locate_seconds))
        return output

    def _add_rise(self, name: str) -> None:
        own, other = (self.figures.get(row, {}).get(name) for row in ("own_audio", "other_audio"))
        if own and other:
            key = "landmark_error_mouth_crop"
            other["mouth_rise"] = other[key] / own[key] - 1

    def _add_tiles(self, name: str, clip: Footage, made: Mapping[str, Output | None]) -> None:
        shown = next(((r, out) for r in SHEET_ROWS if (out := made.get(r))), None)
        if shown is None or len(self.tiles) >= SHEET_CLIPS * 2 * SHEET_COLUMNS:
            return
        for label, video in ((name, clip.path), (shown[0], shown[1].video)):
            tiles = lower_faces(clip, video, SHEET_COLUMNS)
            cv2.putText(tiles[0], label, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (255, 255, 255))
            self.tiles += tiles

    def sheet(self) -> bytes:
        """The contact sheet as a PNG file."""
        image = contact_sheet(self.tiles, SHEET_COLUMNS)
        return cv2.imencode(".png", image[..., ::-1])[1].tobytes()

    def report(self) -> dict[str, Any]:
        """What report.json holds."""
        studio, config = self.studio, self.studio.avatar.config
        for row, clips in self.figures.items():
            for name, figures in clips.items():
                self.records[name]["rows"][row] = {k: _number(v) for k, v in figures.items()}
        return {
            "version": VERSION,
            "avatar": {
                "name": studio.avatar.name, "preset": config.preset, "size_px": config.size_px,
            },
            "settings": {
                "sampler": studio.sampler, "steps": studio.steps, "seed": studio.seed,
            },
            "judges": {
                judge.name: {"measures": list(judge.measures), **judge.facts}
                for judge in self.judges
            },
            "rows": {row: self._summary(row) for row in self.rows},
            "clips": list(self.records.values()),
            "speed": _speed(self.dubs),
            "memory": {"peak_mb": peak_memory_mb()},
            "machine": _machine(studio.avatar.device),
        }  # fmt: skip

    def _summary(self, row: str) -> dict[str, dict[str, Any]]:
        clips = list(self.figures[row].values())
        values = {key: [c[key] for c in clips if key in c] for c in clips for key in c}
        summary = {
            key: _described(metrics.interval(each, seed=self.studio.seed), each)
            for key, each in values.items()
        }
        if "mouth_rise" in summary:
            summary["mouth_rise"] = _described(self._rise(), values["mouth_rise"])
        return summary

    def _rise(self) -> metrics.Estimate:
        """Over all clips: the mean error with other audio over that with their own, less one."""
        own, other = self.figures["own_audio"], self.figures["other_audio"]
        key, both = "landmark_error_mouth_crop", [name for name in own if name in other]
        over, under = [other[n][key] for n in both], [own[n][key] for n in both]
        return metrics.ratio_interval(over, under, seed=self.studio.seed, less=1)


def failures(clips: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, str]]:
    """(clip, row, reason) of what failed, from a report's ``clips``; row is "" for a whole clip."""
    for clip in clips:
        if "error" in clip:
            yield clip["name"], "", clip["error"]
        for row, figures in clip.get("rows", {}).items():
            if "error" in figures:
                yield clip["name"], row, figures["error"]
        for row, judges in clip.get("failed", {}).items():
            yield from ((clip["name"], f"{row} {judge}", why) for judge, why in judges.items())


def _described(estimate: metrics.Estimate, values: Sequence[float]) -> dict[str, Any]:
    """A summary for JSON, which knows neither infinity nor "not a number"."""
    described: dict[str, Any] = {key: _number(v) for key, v in asdict(estimate).items()}
    if infinite := sum(map(math.isinf, values)):
        described["note"] = f"infinite for {infinite} clips, left out: equal to the footage"
    return described


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _speed(dubs: Sequence[tuple[DubResult, float]]) -> dict[str, Any]:
    """Of all dubbings: finding the face, sound and picture encoded; loading of the avatar apart."""
    frames = sum(dub.frames for dub, _ in dubs)
    dub_seconds, locate_seconds = sum(d.seconds for d, _ in dubs), sum(s for _, s in dubs)
    seconds = dub_seconds + locate_seconds
    return {
        "frames_per_second": frames / seconds if seconds else None,
        "frames": frames,
        "locate_seconds": locate_seconds,
        "dub_seconds": dub_seconds,
    }


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, 10^6 bytes; None where no system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _machine(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _write(path: Path, content: bytes) -> None:
    """Write a file that is complete or not there."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MediaError(
            f"could not write {path}: {error.strerror}", fix="free space, or choose another folder"
        ) from error


def table(report: Mapping[str, Any]) -> str:
    """A report's rows as text: a line a measure, a column a row, half the interval after ±."""
    rows = report["rows"]
    fullest_first = sorted(rows.values(), key=len, reverse=True)
    measures = dict.fromkeys(key for figures in fullest_first for key in figures)
    lines = ["".join([" " * 28, *(f"{row:>18}" for row in rows)])]
    for key in measures:
        cells = (_cell(figures.get(key)) for figures in rows.values())
        lines.append("".join([f"{key:<28}", *(f"{cell:>18}" for cell in cells)]))
    speed = report["speed"]["frames_per_second"]
    lines.append(
        f"{len(report['clips'])} clips" + (f", {speed:.1f} frames a second" if speed else "")
    )
    for clip, row, why in failures(report["clips"]):
        lines.append(f"failed: {' '.join(filter(None, (clip, row)))}: {why}")
    return "\n".join(lines)


def _cell(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None or estimate["mean"] is None:
        return "-"
    if estimate["low"] is None:
        return f"{estimate['mean']:.4g}"
    return f"{estimate['mean']:.4g} ±{(estimate['high'] - estimate['low']) / 2:.2g}"
