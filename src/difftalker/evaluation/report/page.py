"""report.html: a report to read, in one file that needs no other and no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from difftalker.evaluation.report import charts, figures
from difftalker.evaluation.report.figures import Material
from difftalker.evaluation.report.measures import MEASURES, described
from difftalker.evaluation.report.table import failures, measured

Image = NDArray[np.uint8]

CLIPS = 3
"""How many clips there are to play, at most."""
CLIP_BYTES = 5 * 2**20
"""A clip that takes more than this is left out, so that the page stays below 30 MB."""
JPEG_QUALITY = 85
PLOTTED = (
    *("landmark_error_crop", "ld_lower_frame", "open_corr", "sync_c", "lse_c", "word_error"),
    *("psnr_lower", "ssim_lower", "perceptual", "sharpness", "flicker_static", "flicker_moving"),
    *("seam", "silence_leak", "closure"),
)
CURVES = ("real", "own_audio", "other_audio")
"""Rows whose mouths are drawn over time."""

_CAPTIONS = {
    "figure2": "Figure 2. Landmarks of the footage (green) and completed ones (orange), over the"
    " same frame: with its own sound and with another clip's. At the right is the speaker of that"
    " other sound, whose mouth the third column should have. Each clip shows the moment at which"
    " the two mouths differ most in truth.",
    "figure3": "Figure 3. Footage, generated faces and their predicted landmarks over head poses,"
    " from one side to the other; the poses that differ most in yaw and pitch, chosen without a"
    " look at the result.",
    "faces": "Lower faces of the footage above those made for it.",
}


def write_page(
    report: Mapping[str, Any],
    notes: Mapping[str, str],
    materials: Sequence[Material],
    scratch: Path,
) -> dict[str, bytes]:
    """The files beside report.json, by name: the page, and its figures as PNG.

    ``notes`` says what each row is; ``scratch`` is a folder for clips on their way into the page.
    """
    drawn = {
        "faces": figures.faces(materials),
        "figure2": figures.figure2(materials),
        "figure3": figures.figure3(materials),
    }
    pictures = {name: image for name, image in drawn.items() if image is not None}
    page = render(report, notes, materials, pictures, _clips(materials, scratch))
    return {
        "report.html": page.encode(errors="backslashreplace"),
        **{f"{name}.png": _encoded(image, ".png") for name, image in pictures.items()},
    }


def _clips(materials: Sequence[Material], scratch: Path) -> dict[str, bytes]:
    """Clips to play, MP4, by name: the first ones, and the first of those that are not too big."""
    clips: dict[str, bytes] = {}
    for one in materials:
        path = scratch / "side_by_side.mp4"
        if len(clips) < CLIPS and figures.save_comparison(one, path):
            content = path.read_bytes()
            if len(content) <= CLIP_BYTES:
                clips[one.name] = content
    return clips


def _encoded(image: Image, suffix: str) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if suffix == ".jpg" else []
    return cv2.imencode(suffix, image[..., ::-1], options)[1].tobytes()


def render(
    report: Mapping[str, Any],
    notes: Mapping[str, str],
    materials: Sequence[Material],
    pictures: Mapping[str, Image],
    clips: Mapping[str, bytes],
) -> str:
    """The page, HTML, from its template; everything from outside is escaped there."""
    template = _environment().get_template("page.html")
    return template.render(
        title=f"DiffTalker evaluation: {report['avatar']['name']}",
        report=report,
        notes=notes,
        frames=sum(clip.get("frames", 0) for clip in report["clips"]),
        measures={key: described(key) for key in measured(report["rows"])},
        plots=_plots(report),
        curves=_curves(materials),
        clips={name: _data(content, "video/mp4") for name, content in clips.items()},
        pictures=[
            (_data(_encoded(pictures[name], ".jpg"), "image/jpeg"), caption)
            for name, caption in _CAPTIONS.items()
            if name in pictures
        ],
        failed=list(failures(report["clips"])),
        fitted=[
            (clip["name"], row, note)
            for clip in report["clips"]
            for row, note in clip.get("notes", {}).items()
        ],
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("difftalker.evaluation.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"fixed": _fixed, "fact": _fact}
    return environment


def _fixed(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def _fact(value: Any) -> str:
    """A fact of a judge's."""
    if isinstance(value, Mapping):
        inner = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        return ", ".join(inner)
    return str(value)


def _plots(report: Mapping[str, Any]) -> list[str]:
    plots = []
    for key in PLOTTED:
        rows = {row: each[key] for row, each in report["rows"].items() if key in each}
        if not any(one["mean"] is not None for one in rows.values()):
            continue
        one = MEASURES[key]
        values = {row: _clip_values(report, row, key) for row in rows}
        title = one.text if one.better == "one" else f"{one.text}  {one.arrow}"
        plots.append(charts.dots(title, rows, values, one.digits, _marks(key)))
    return plots


def _marks(key: str) -> dict[str, float]:
    one = MEASURES[key]
    if one.better == "one":
        return {"footage": 1.0}
    return {} if one.paper is None else {"paper": one.paper}


def _clip_values(report: Mapping[str, Any], row: str, key: str) -> list[float]:
    each = [clip.get("rows", {}).get(row, {}).get(key) for clip in report["clips"]]
    return [value for value in each if value is not None]


def _curves(materials: Sequence[Material]) -> list[str]:
    plots = []
    for one in materials[:CLIPS]:
        lines = {row: one.openings[row] for row in CURVES if row in one.openings}
        if lines:
            times_s = one.clip.located.track.times_s
            plots.append(charts.series(f"mouth's opening, {one.name}", times_s, lines))
    return plots


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
