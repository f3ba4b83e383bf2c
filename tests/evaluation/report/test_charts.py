"""Charts as SVG."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from difftalker.evaluation.report import charts


def test_a_chart_has_a_place_for_every_figure() -> None:
    rows: dict[str, dict[str, Any]] = {
        "real": {"mean": 2.0, "low": 1.5, "high": 2.5, "n": 3},
        "copied": {"mean": None, "low": None, "high": None, "n": 0},
        "own & other": {"mean": 1.0, "low": None, "high": None, "n": 1},
    }
    values = {"real": [1.5, 2.0, 2.5], "own & other": [1.0]}
    root = ElementTree.fromstring(charts.dots("t <i>", rows, values, 2, {"paper": 4.0}))
    named = {
        kind: [one for one in root.iter() if one.get("class") == kind]
        for kind in ("mean", "clip", "interval", "mark", "row")
    }
    assert {kind: len(found) for kind, found in named.items()} == {
        "mean": 2,
        "clip": 4,
        "interval": 1,
        "mark": 1,
        "row": 2,
    }
    assert [one.text for one in named["row"]] == ["real", "own & other"]
    mean, interval = named["mean"][0], named["interval"][0]
    middle = (float(interval.get("x1", 0)) + float(interval.get("x2", 0))) / 2
    assert float(mean.get("cx", 0)) == pytest.approx(middle, abs=0.1)
    assert float(named["mark"][0].get("x1", 0)) > float(interval.get("x2", 0))


def test_a_curve_breaks_where_it_is_unknown() -> None:
    line = np.array([0.1, 0.2, np.nan, 0.3, 0.1])
    root = ElementTree.fromstring(charts.series("m", np.arange(5) / 25, {"real": line}))
    curves = [one for one in root.iter() if one.tag.endswith("polyline")]
    assert [len(one.get("points", "").split()) for one in curves] == [2, 2]
    heights = [float(p.split(",")[1]) for p in curves[0].get("points", "").split()]
    assert heights[1] < heights[0]  # up is more
