"""The run: an avatar dubs held-out footage in several rows, each is measured, a report is written.

DIR/report.json             every figure; docs/format/report.md says what each field means
   /report.html             the same to read, in one file that needs no other: tables, plots, clips
   /faces.png               lower faces of the footage above those made for it
   /figure2.png             landmarks: truth, completed, and with mismatched sound
   /figure3.png             generated faces and their landmarks over head poses
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from difftalker import metrics
from difftalker.core.hashing import sha256_of
from difftalker.core.jobs import Progress
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.dub import DubResult
from difftalker.dubbing.footage import locate
from difftalker.errors import MediaError, UsageError
from difftalker.evaluation.footage import Figures, Footage
from difftalker.evaluation.judges.base import Judge
from difftalker.evaluation.report.figures import Material
from difftalker.evaluation.report.page import write_page
from difftalker.evaluation.report.table import failures
from difftalker.evaluation.scoring import Score, reason, score
from difftalker.evaluation.systems import SYSTEMS, Dubber, System, chosen_systems
from difftalker.face.detect.people import Choice
from difftalker.face.lips import relative_opening
from difftalker.media.container import complete_file

logger = logging.getLogger(__name__)

VERSION = 2
"""Version of the layout of report.json."""

STAGE = "evaluate"
"""What progress is reported of."""


def evaluate(
    avatar: Avatar,
    clips: Sequence[Path],
    report_dir: Path,
    *,
    rows: Sequence[str] | None = None,
    ablations: Mapping[str, Avatar] | None = None,
    predictions: Mapping[str, Path] | None = None,
    judges: Sequence[Judge] = (),
    face: Choice | None = None,
    renderer: str = "auto",
    sampler: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure an avatar on held-out clips, each with its own sound; write and return the report.

    ``rows`` are names of ``systems.SYSTEMS``, all of them by default; the other audio of a clip is
    that of the next one. ``ablations`` are other avatars that dub the
    same clips with their own sound, ``predictions`` folders of videos that other programs made of
    them (CLIP.mp4); each is a row of its name, measured in the avatar's crops. ``judges`` add their
    measures to every row (``judges.table.open_judges``). ``face`` says whose face is dubbed and
    measured, where there are several people; by default the largest. ``renderer``, ``sampler`` and
    ``steps`` hold for all avatars; where they are not given each has its own.

    A clip or row that fails is reported with the reason. A step of ``progress`` is finding one
    clip's face, or one row of it. Apart from ``speed``, ``memory`` and ``machine``, the same seed
    gives the same report.

    Raises:
        UsageError: no clip, two clips or rows of one name, or an unknown row, sampler or number of
            steps.
        MediaError: a folder is missing or cannot be written, or not one clip could be measured.
    """
    named = _named(clips)
    with tempfile.TemporaryDirectory(prefix="difftalker-") as scratch:
        dubbers = {
            name: Dubber(
                avatar=one,
                videos=report_dir / "videos",
                scratch=Path(scratch),
                rendering=one.rendering(renderer, sampler=sampler, steps=steps),
                seed=seed,
            )
            for name, one in {"": avatar, **(ablations or {})}.items()
        }
        dubber = dubbers.pop("")
        systems = chosen_systems(rows, dubbers, predictions or {})
        _make_folder(report_dir / "videos")
        run = _Run(dubber, systems, judges, face or Choice(place="largest"), progress)
        run.measure(named)
        report = run.report(dubbers, predictions or {})
        text = json.dumps(report, indent=1, allow_nan=False) + "\n"
        _write(report_dir / "report.json", text.encode())
        notes = {row: system.note for row, system in systems.items()}
        for name, content in write_page(report, notes, run.materials, Path(scratch)).items():
            _write(report_dir / name, content)
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
        self,
        dubber: Dubber,
        systems: Mapping[str, System],
        judges: Sequence[Judge],
        face: Choice,
        progress: Progress,
    ) -> None:
        self.dubber, self.systems, self.judges = dubber, systems, judges
        self.face, self.progress = face, progress
        self.records: dict[str, dict[str, Any]] = {}
        self.figures: dict[str, dict[str, Figures]] = {row: {} for row in systems}
        self.dubs: list[tuple[DubResult, float]] = []
        self.materials: list[Material] = []
        self.done = self.total = 0
        self.began = time.monotonic()

    def measure(self, named: Mapping[str, Path]) -> None:
        """All rows of all clips."""
        self.total = len(named) * (1 + len(self.systems))
        footage = {n: clip for n, path in named.items() if (clip := self._find(n, path))}
        usable = list(footage.values())
        for i, (name, clip) in enumerate(footage.items()):
            other = usable[(i + 1) % len(usable)] if len(usable) > 1 else None
            self._measure_clip(name, clip, other)
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
        size_px, began = self.dubber.avatar.config.size_px, time.monotonic()
        try:
            located = locate(path, size_px, face=self.face)
            seconds = time.monotonic() - began
            record |= {"sha256": sha256_of(path), "frames": len(located), "rows": {}}
        except Exception as error:
            record["error"] = reason(error)
            self.done += len(self.systems)
            return None
        record["frames_with_face"] = int(located.track.found.sum())
        return Footage(
            path=path, size_px=size_px, located=located, locate_seconds=seconds, face=self.face
        )

    def _measure_clip(self, name: str, clip: Footage, other: Footage | None) -> None:
        outputs, openings = {}, {}
        for row, system in self.systems.items():
            self._step(f"{row} {name}")
            try:
                output = system.make(self.dubber, clip, other)
                scored = score(clip, output, self.judges)
            except UsageError:
                raise
            except Exception as error:  # what goes wrong with one video does not end the run
                self.records[name]["rows"][row] = {"error": reason(error)}
                continue
            self._note(row, name, scored, output.note)
            outputs[row] = output
            openings[row] = relative_opening(scored.made.points_px)
            if output.dub and row in SYSTEMS:
                self.dubs.append((output.dub, clip.locate_seconds))
        self._add_rise(name)
        clip.forget()
        self.materials.append(Material(name=name, clip=clip, outputs=outputs, openings=openings))

    def _note(self, row: str, name: str, scored: Score, note: str) -> None:
        record = self.records[name]
        self.figures[row][name] = scored.figures
        if scored.failed:
            record.setdefault("failed", {})[row] = dict(scored.failed)
        if note:
            record.setdefault("notes", {})[row] = note

    def _add_rise(self, name: str) -> None:
        own, other = (self.figures.get(row, {}).get(name) for row in ("own_audio", "other_audio"))
        if own and other:
            key = "landmark_error_mouth_crop"
            other["mouth_rise"] = other[key] / own[key] - 1

    def report(
        self, ablations: Mapping[str, Dubber], predictions: Mapping[str, Path]
    ) -> dict[str, Any]:
        """What report.json holds."""
        dubber = self.dubber
        for row, clips in self.figures.items():
            for name, figures in clips.items():
                self.records[name]["rows"][row] = {k: _number(v) for k, v in figures.items()}
        return {
            "version": VERSION,
            "avatar": _avatar_facts(dubber),
            "settings": {**dubber.rendering.facts(), "seed": dubber.seed, "face": self.face.key},
            "ablations": {name: _avatar_facts(one) for name, one in ablations.items()},
            "programs": {name: {"folder": one.resolve().name} for name, one in predictions.items()},
            "judges": {
                judge.name: {"measures": list(judge.measures), **_plain(judge.facts)}
                for judge in self.judges
            },
            "rows": {row: self._summary(row) for row in self.systems},
            "clips": list(self.records.values()),
            "speed": {**_speed(self.dubs), "evaluate_seconds": time.monotonic() - self.began},
            "memory": {"peak_mb": peak_memory_mb()},
            "machine": _machine(dubber.avatar.device),
        }

    def _summary(self, row: str) -> dict[str, dict[str, Any]]:
        clips = list(self.figures[row].values())
        values = {key: [c[key] for c in clips if key in c] for c in clips for key in c}
        summary = {
            key: _described(metrics.interval(each, seed=self.dubber.seed), each)
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
        return metrics.ratio_interval(over, under, seed=self.dubber.seed, less=1)


def _avatar_facts(dubber: Dubber) -> dict[str, Any]:
    """What an avatar is, how it draws, and how long it was trained, where its card says so."""
    avatar, config = dubber.avatar, dubber.avatar.config
    stages = avatar.facts.get("stages", {})
    return {
        "name": avatar.name,
        "preset": config.preset,
        "size_px": config.size_px,
        "features": config.completion.features,
        **dubber.rendering.facts(),
        "trained": {
            stage: {"steps": facts["steps"], "minutes": round(facts["minutes"], 1)}
            for stage, facts in stages.items()
        },
        "clips_train": avatar.facts.get("clips_train"),
        "parameters": sum(
            t.numel() for part in avatar.networks.state().values() for t in part.values()
        ),
    }


def _described(estimate: metrics.Estimate, values: Sequence[float]) -> dict[str, Any]:
    """A summary for JSON, which knows neither infinity nor "not a number"."""
    described: dict[str, Any] = {key: _number(v) for key, v in asdict(estimate).items()}
    if infinite := sum(map(math.isinf, values)):
        described["note"] = f"infinite for {infinite} clips, left out: equal to the footage"
    return described


def _plain(value: Any) -> Any:
    """The facts of a judge, as JSON knows them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return _number(float(value))
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _speed(dubs: Sequence[tuple[DubResult, float]]) -> dict[str, Any]:
    """Speed over all dubbings, from detection to the encoded file, without loading the avatar."""
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
    """The most memory that this process has held, 10^6 bytes; None where that is not known."""
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
    with complete_file(path, (path.suffix,)) as file:
        file.write(content)
