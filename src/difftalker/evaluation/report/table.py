"""A report as text, and what failed in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from difftalker.evaluation.report.measures import MEASURES


def measured(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The measures that any row has, in the order of the catalogue; others come last."""
    found = dict.fromkeys(key for figures in rows.values() for key in figures)
    return [*(key for key in MEASURES if key in found), *(k for k in found if k not in MEASURES)]


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


def table(report: Mapping[str, Any]) -> str:
    """A report's rows as text: a line a measure, a column a row, half the interval after ±."""
    rows = report["rows"]
    lines = ["".join([" " * 28, *(f"{row:>18}" for row in rows)])]
    for key in measured(rows):
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
