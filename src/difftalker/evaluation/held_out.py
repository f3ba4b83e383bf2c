"""The report at the end of training: the new avatar on footage that was held out of it.

RUN/held-out.json    the table below, and which footage it is of
   /held-out/        the whole report of these clips, as ``report.evaluate`` writes it
"""

from __future__ import annotations

import json
import math
import tempfile
import wave
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from difftalker.core.files import write_whole
from difftalker.core.jobs import Progress
from difftalker.data.footage import Part
from difftalker.dubbing.avatar import Avatar
from difftalker.errors import DiffTalkerError
from difftalker.evaluation.report.measures import described
from difftalker.evaluation.report.table import failures
from difftalker.evaluation.run import evaluate
from difftalker.face.detect.people import Choice
from difftalker.media.audio import SAMPLE_RATE_HZ, stream_audio
from difftalker.media.video import VideoWriter, probe_video, read_frames

MEASURES = (
    *("landmark_error_crop", "landmark_error_frame", "open_corr", "silence_leak"),
    *("psnr_lower", "ssim_lower", "sharpness", "flicker"),
)
"""What the short table shows."""
LEAD_S = 3.0
"""How long before a piece its sound begins: a second of it alone is heard as something else."""
_TINY_S, _GREY = 1e-3, 128  # containers round times
PIECE_S, PIECES = 6.0, 4
"""The longest that one measured clip is, and how many there are at most."""


def report_held_out(
    avatar: Avatar,
    parts: Sequence[Part],
    run: Path,
    *,
    face: Choice | None = None,
    seed: int = 0,
    progress: Progress = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Dub what was held out with its own and with other sound, and measure it beside real footage.

    Of long footage some pieces are taken. The other sound is that of the next piece; with one piece
    alone that row is left out. No network of experts is asked. Returns ``frames``, ``clips`` (file,
    ``start_s``, ``stop_s``), ``rows`` (row, measure: mean, low, high, n) and ``failures``, or
    ``error`` alone where nothing could be measured.
    """
    pieces = _pieces(parts)
    rows = ("real", "own_audio", *(("other_audio",) if len(pieces) > 1 else ()))
    try:
        with tempfile.TemporaryDirectory(prefix="difftalker-") as scratch:
            clips = [cut_piece(piece, Path(scratch)) for piece in pieces]
            folder = run / "held-out"
            report = evaluate(
                avatar, clips, folder, rows=rows, face=face, seed=seed, progress=progress
            )
    except DiffTalkerError as error:
        return {"error": str(error)}
    record = {
        "report": "held-out/report.html",
        "frames": sum(clip.get("frames_with_face", 0) for clip in report["clips"]),
        "clips": [{**asdict(piece), "footage": piece.footage.name} for piece in pieces],
        "rows": {
            row: {key: figures[key] for key in MEASURES if key in figures}
            for row, figures in report["rows"].items()
        },
        "failures": [" ".join(filter(None, one)) for one in failures(report["clips"])],
    }
    write_whole(run / "held-out.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    return record


def text(record: Mapping[str, Any]) -> str:
    """The report for people: what was held out, and its table."""
    if "error" in record:
        return f"no held-out report: {record['error']}"
    rows = [["", *(_ROWS[row] for row in record["rows"])], *_table(record)]
    lines = ["".join([f"{name:<42}", *(f"{cell:>20}" for cell in cells)]) for name, *cells in rows]
    return "\n".join([*_about(record), *lines, *(f"failed: {one}" for one in record["failures"])])


def card_section(record: Mapping[str, Any]) -> str:
    """The same as a section of the avatar's card, Markdown."""
    head = ["measure", *(_ROWS[row] for row in record["rows"])]
    rows = [head, ["---"] * len(head)]
    lines = [f"| {' | '.join(cells)} |" for cells in [*rows, *_table(record)]]
    about = "\n".join(_about(record))
    return "\n".join(["## On footage held out of its training", "", about, "", *lines])


_ROWS = {
    "real": "real footage",
    "own_audio": "dubbed",
    "other_audio": "under other sound",
}


def _about(record: Mapping[str, Any]) -> Iterator[str]:
    clips = ", ".join(
        f"{one['footage']} from {one['start_s']:.1f} to {one['stop_s']:.1f} s"
        for one in record["clips"]
    )
    yield f"Held out of training: {clips}; {record['frames']} frames."
    if "other_audio" not in record["rows"]:
        yield "There is one piece alone, so no other sound to dub it with."


def _table(record: Mapping[str, Any]) -> Iterator[list[str]]:
    """A row a measure: its name, and a cell for each row of the report."""
    for key in MEASURES:
        found = [figures.get(key) for figures in record["rows"].values()]
        yield [described(key).text, *(_cell(one, described(key).digits) for one in found)]


def _cell(estimate: Mapping[str, Any] | None, digits: int) -> str:
    if estimate is None or estimate["mean"] is None:
        return "-"
    return f"{estimate['mean']:.{digits}f}"


def _pieces(parts: Sequence[Part]) -> list[Part]:
    """Pieces short enough to be measured, spread over the parts."""
    pieces = [piece for part in parts for piece in _split(part)]
    count = min(len(pieces), PIECES)
    return [pieces[int((i + 0.5) * len(pieces) / count)] for i in range(count)]


def _split(part: Part) -> Iterator[Part]:
    count = max(1, math.ceil((part.stop_s - part.start_s) / PIECE_S - 0.01))
    if count == 1:
        yield part
        return
    edges = np.linspace(part.start_s, part.stop_s, count + 1).tolist()
    for start_s, stop_s in pairwise(edges):
        yield Part(footage=part.footage, start_s=start_s, stop_s=stop_s, whole=False)


def cut_piece(part: Part, folder: Path, lead_s: float | None = None) -> Path:
    """A video file of the part, its frames as they are, its sound mono and at 16 kHz.

    Of the sound before it ``lead_s`` are there too (None: ``LEAD_S``), over grey pictures: they
    show no face, so that nothing is dubbed or measured in them.
    """
    if part.whole:
        return part.footage
    heard_from_s = max(0.0, part.start_s - (LEAD_S if lead_s is None else lead_s))
    info, path = probe_video(part.footage), folder / f"{part.footage.stem}-{part.start_s:.1f}s.mkv"
    with VideoWriter(
        path,
        width=info.width,
        height=info.height,
        fps=info.fps,
        time_base=info.time_base,
        audio=_cut_sound(part, heard_from_s, path.with_suffix(".wav")),
        sample_aspect_ratio=info.sample_aspect_ratio,
        lossless=True,
    ) as writer:
        first = None
        for frame in read_frames(part.footage):
            if heard_from_s - _TINY_S <= frame.time_s < part.stop_s - _TINY_S:
                first = frame.pts if first is None else first
                seen = frame.time_s >= part.start_s - _TINY_S
                image = frame.image if seen else np.full_like(frame.image, _GREY)
                writer.write(image, frame.pts - first)
    return path


def _cut_sound(part: Part, heard_from_s: float, path: Path) -> Path:
    first, last = (round(t * SAMPLE_RATE_HZ) for t in (heard_from_s, part.stop_s))
    at = 0
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        for block in stream_audio(part.footage):
            samples = block[max(first - at, 0) : max(last - at, 0)]
            file.writeframes((samples * 32767).round().astype("<i2").tobytes())
            at += len(block)
    return path
