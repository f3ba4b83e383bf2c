"""Charts as SVG text, for the report's page: no library, no font, colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from difftalker.metrics import Floats

WIDTH_PX = 430
_LEFT, _RIGHT, _LINE, _HEAD = 120, 24, 22, 36
_SERIES_HEIGHT = 150


def dots(title: str, rows: Mapping[str, Mapping[str, Any]], values: Mapping[str, Sequence[float]],
         digits: int, marks: Mapping[str, float]) -> str:  # fmt: skip
    """One measure: a line a row, its mean with the interval, and every clip as a pale dot.

    ``rows`` gives mean, low and high by row (null where there is none), ``values`` the clips' own
    figures, ``marks`` places to point out, by their name.
    """
    shown = {row: one for row, one in rows.items() if one["mean"] is not None}
    spots = [v for row in shown for v in values[row]] + list(marks.values())
    spots += [v for one in shown.values() for v in (one["low"], one["high"]) if v is not None]
    low, high = _padded(spots)
    height = _HEAD + _LINE * len(shown) + 22

    def x(value: float) -> float:
        return _LEFT + (value - low) / (high - low) * (WIDTH_PX - _LEFT - _RIGHT)

    body = [_text(8, 16, title, "title")]
    bottom = _HEAD + _LINE * len(shown)
    for value in _ticks(low, high):
        body += [_line(x(value), _HEAD, x(value), bottom, "grid")]
        body += [_text(x(value), bottom + 14, _number(value, digits), "tick")]
    for name, value in marks.items():
        body += [_line(x(value), _HEAD - 6, x(value), bottom, "mark")]
        body += [_text(x(value), _HEAD - 8, name, "tick")]
    for i, (row, one) in enumerate(shown.items()):
        y = _HEAD + _LINE * i + _LINE / 2
        body += [_text(_LEFT - 8, y + 4, row, "row")]
        body += [
            f'<circle class="clip" cx="{x(v):.1f}" cy="{y:.1f}" r="2.2"/>' for v in values[row]
        ]
        if one["low"] is not None:
            body += [_line(x(one["low"]), y, x(one["high"]), y, "interval")]
        body += [f'<circle class="mean" cx="{x(one["mean"]):.1f}" cy="{y:.1f}" r="4"/>']
    return _svg(height, body)


def series(title: str, times_s: Floats, lines: Mapping[str, Floats]) -> str:
    """Curves over seconds, (frames,) each, gaps where they are no numbers; a colour a line."""
    known = np.concatenate([line[np.isfinite(line)] for line in lines.values()] or [np.zeros(0)])
    low, high = _padded([0.0, *known.tolist()])
    top, bottom, left = _HEAD + 8, _SERIES_HEIGHT - 20, 44
    end = float(times_s[-1]) or 1.0

    def at(time_s: float, value: float) -> str:
        across = left + time_s / end * (WIDTH_PX - left - _RIGHT)
        return f"{across:.1f},{bottom - (value - low) / (high - low) * (bottom - top):.1f}"

    body = [_text(8, 16, title, "title"), _line(left, bottom, WIDTH_PX - _RIGHT, bottom, "grid")]
    for value in _ticks(low, high):
        y = float(at(0, value).split(",")[1])
        body += [_line(left, y, WIDTH_PX - _RIGHT, y, "grid")]
        body += [_text(left - 6, y + 4, _number(value, 2), "row")]
    for second in range(int(end) + 1):
        place = float(at(second, low).split(",")[0])
        body += [_text(place, bottom + 14, f"{second} s", "tick")]
    for i, (name, line) in enumerate(lines.items()):
        body += [_text(left + 8 + 110 * i, _HEAD, name, f"legend s{i}")]
        for run in _runs(line):
            points = " ".join(at(float(times_s[j]), float(line[j])) for j in run)
            body += [f'<polyline class="s{i}" points="{points}"/>']
    return _svg(_SERIES_HEIGHT, body)


def _runs(line: Floats) -> list[range]:
    """Stretches without gaps."""
    edges = np.flatnonzero(np.diff(np.r_[False, np.isfinite(line), False].astype(np.int8)))
    return [range(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds all finite values, with some room, and is not empty."""
    finite = [v for v in values if np.isfinite(v)] or [0.0]
    low, high = min(finite), max(finite)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers within a range."""
    rough = (high - low) / 4
    power = 10.0 ** np.floor(np.log10(rough))
    step = power * next(m for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = int(np.ceil(low / step))
    return [i * step for i in range(first, int(np.floor(high / step)) + 1)]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".replace("-0.00", "0.00") if digits else f"{value:.0f}"


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _svg(height: float, body: Sequence[str]) -> str:
    size = f'viewBox="0 0 {WIDTH_PX} {height:.0f}" width="{WIDTH_PX}" height="{height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>{"".join(body)}</svg>'
