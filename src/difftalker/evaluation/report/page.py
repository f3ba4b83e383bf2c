"""report.html: a report to read, in one file that needs no other and no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from difftalker.evaluation.report import charts, figures
from difftalker.evaluation.report.figures import Material
from difftalker.evaluation.report.measures import MEASURES, described
from difftalker.evaluation.report.table import failures, measured
from difftalker.evaluation.systems import SYSTEMS

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

NOTES = (
    "PSNR and SSIM of the whole crop reward the upper face, which is the footage's own and"
    " untouched; read them for the lower region, and beside <code>copied</code>, whose PSNR is"
    " infinite (exact). They also reward blur: read sharpness with them.",
    "A synchrony confidence above that of <code>real</code> is no better than real. A measure whose"
    " arrow says <q>→ real</q> is best where it equals that row.",
    "Intervals are 95 % over clips, by bootstrap; pale dots are single clips. Rows share their"
    " clips, so differences between rows are surer than overlapping intervals suggest.",
    "One speaker, one detector: what another detector or another face would say is not known.",
)


def write_page(
    report: Mapping[str, Any], materials: Sequence[Material], scratch: Path
) -> dict[str, bytes]:
    """The files beside report.json, by name: the page, and its figures as PNG.

    ``scratch`` is a folder for clips on their way into the page.
    """
    drawn = {
        "faces": figures.faces(materials),
        "figure2": figures.figure2(materials),
        "figure3": figures.figure3(materials),
    }
    pictures = {name: image for name, image in drawn.items() if image is not None}
    page = render(report, materials, pictures, _clips(materials, scratch))
    return {
        "report.html": page.encode(),
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
    materials: Sequence[Material],
    pictures: Mapping[str, Image],
    clips: Mapping[str, bytes],
) -> str:
    """The page, HTML; everything from outside is escaped."""
    person = report["avatar"]
    title = f"DiffTalker evaluation: {person['name']}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        _head(report),
        "<h2>All rows</h2>",
        _table(report),
        _row_notes(report),
        f"<ul>{''.join(f'<li>{note}</li>' for note in NOTES)}</ul>",
        "<h2>Plots</h2>",
        f'<div class="plots">{"".join(_plots(report))}</div>',
        _curves(materials),
        _played(clips),
        _pictures(pictures),
        _sources(report),
        _failures(report),
        "<h2>Every clip</h2>",
        *(_clip_table(report, row) for row in report["rows"]),
    ]
    return _PAGE.format(title=escape(title), style=_STYLE, body="\n".join(filter(None, sections)))


def _head(report: Mapping[str, Any]) -> str:
    person, settings, clips = report["avatar"], report["settings"], report["clips"]
    speed, machine = report["speed"]["frames_per_second"], report["machine"]
    frames = sum(clip.get("frames", 0) for clip in clips)
    text = (
        f"Preset {person['preset']}, crops of {person['size_px']} pixels, features"
        f" {person['features']}; sampler {settings['sampler']}, {settings['steps']} steps, seed"
        f" {settings['seed']}. {len(clips)} clips, {frames} frames, each measured in every row."
    )
    if speed:
        text += (
            f" Dubbing took {1 / speed:.3f} s a frame ({speed:.1f} frames a second) on"
            f" {machine['device']}, {machine['threads']} threads."
        )
    return f"<p>{escape(text)} <code>report.json</code> holds every figure.</p>"


def _table(report: Mapping[str, Any]) -> str:
    rows = report["rows"]
    head = "".join(f"<th>{escape(row)}</th>" for row in rows)
    lines = []
    for key in measured(rows):
        one = described(key)
        cells = "".join(_cell(figures.get(key), one.digits) for figures in rows.values())
        lines.append(
            f'<tr><th title="{escape(key)}">{escape(one.text)}</th><td>{one.arrow}</td>{cells}</tr>'
        )
    return (
        f'<div class="wide"><table><tr><th>measure</th><th>better</th>{head}</tr>'
        f"{''.join(lines)}</table></div>"
    )


def _cell(estimate: Mapping[str, Any] | None, digits: int) -> str:
    if estimate is None or estimate["mean"] is None:
        if estimate and "note" in estimate:
            return f'<td title="{escape(estimate["note"])}">exact</td>'
        return "<td>-</td>"
    mean, low, high = estimate["mean"], estimate["low"], estimate["high"]
    if low is None:
        return f'<td title="{estimate["n"]} clip">{mean:.{digits}f}</td>'
    title = f"95 % interval {low:.{digits}f} to {high:.{digits}f}, {estimate['n']} clips"
    half = f"<small>±{(high - low) / 2:.{digits}f}</small>"
    return f'<td title="{title}">{mean:.{digits}f} {half}</td>'


def _row_notes(report: Mapping[str, Any]) -> str:
    items = []
    for row in report["rows"]:
        text = SYSTEMS[row].note if row in SYSTEMS else ""
        if row in report["ablations"]:
            text = "another avatar, with the clip's own sound: " + _avatar(report["ablations"][row])
        elif row in report["programs"]:
            text = (
                f"videos of another program, from the folder {report['programs'][row]['folder']},"
                " taken to be dubbed with the clip's own sound"
            )
        items.append(f"<dt>{escape(row)}</dt><dd>{escape(text)}</dd>")
    return f"<dl>{''.join(items)}</dl>"


def _avatar(one: Mapping[str, Any]) -> str:
    steps = ", ".join(f"{stage} {facts['steps']}" for stage, facts in one["trained"].items())
    return (
        f"{one['name']} (preset {one['preset']}, {one['size_px']} pixels, features"
        f" {one['features']}, {one['sampler']} {one['steps']} steps"
        + (f"; trained for {steps} steps" if steps else "")
        + ")"
    )


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


def _curves(materials: Sequence[Material]) -> str:
    plots = []
    for one in materials[:CLIPS]:
        lines = {row: one.openings[row] for row in CURVES if row in one.openings}
        if lines:
            times_s = one.clip.located.track.times_s
            plots.append(charts.series(f"mouth's opening, {one.name}", times_s, lines))
    if not plots:
        return ""
    return (
        "<h2>Mouths over time</h2><p>Opening of the mouth that was found on each video, in face"
        " scales. Own sound should follow <code>real</code>; other sound should not.</p>"
        f'<div class="plots">{"".join(plots)}</div>'
    )


def _played(clips: Mapping[str, bytes]) -> str:
    if not clips:
        return ""
    videos = [
        f"<figure>{_video(content)}<figcaption>{escape(name)}</figcaption></figure>"
        for name, content in clips.items()
    ]
    return (
        "<h2>Side by side</h2><p>Footage, dubbed with its own sound, dubbed with another clip's."
        " What is heard is the clip's own sound: the third mouth has to disagree with it. All"
        f" panels but the footage are AI-generated.</p>{''.join(videos)}"
    )


def _video(content: bytes) -> str:
    return f'<video controls loop preload="metadata" src="{_data(content, "video/mp4")}"></video>'


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


def _pictures(pictures: Mapping[str, Image]) -> str:
    shown = [_figure(pictures[name], text) for name, text in _CAPTIONS.items() if name in pictures]
    return f"<h2>Figures</h2>{''.join(shown)}"


def _figure(image: Image, caption: str) -> str:
    source = _data(_encoded(image, ".jpg"), "image/jpeg")
    return f'<figure><img alt="" src="{source}"><figcaption>{caption}</figcaption></figure>'


def _data(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _sources(report: Mapping[str, Any]) -> str:
    items = [
        f"<dt>{escape(name)}</dt><dd>{escape(', '.join(facts['measures']))}."
        f" {escape('; '.join(_fact(k, v) for k, v in facts.items() if k != 'measures'))}</dd>"
        for name, facts in report["judges"].items()
    ]
    return f"<h2>Judges</h2><dl>{''.join(items)}</dl>" if items else ""


def _fact(name: str, value: Any) -> str:
    if isinstance(value, Mapping):
        inner = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())
        return f"{name}: {', '.join(inner)}"
    return f"{name} {value}"


def _failures(report: Mapping[str, Any]) -> str:
    lines = [
        f"<li>{escape(' '.join(filter(None, (clip, row))))}: {escape(why)}</li>"
        for clip, row, why in failures(report["clips"])
    ]
    notes = [
        f"<li>{escape(' '.join((clip['name'], row)))}: {escape(text)}</li>"
        for clip in report["clips"]
        for row, text in clip.get("notes", {}).items()
    ]
    failed = f"<h2>What failed</h2><ul>{''.join(lines)}</ul>" if lines else ""
    fitted = f"<h2>What was fitted</h2><ul>{''.join(notes)}</ul>" if notes else ""
    return failed + fitted


def _clip_table(report: Mapping[str, Any], row: str) -> str:
    keys = [key for key in measured(report["rows"]) if key in report["rows"][row]]
    head = "".join(f"<th>{escape(key)}</th>" for key in keys)
    lines = [
        f"<tr><th>{escape(clip['name'])}</th>"
        f"{''.join(_value(clip['rows'][row].get(key), described(key).digits) for key in keys)}</tr>"
        for clip in report["clips"]
        if row in clip.get("rows", {})
    ]
    return (
        f'<details><summary>{escape(row)}</summary><div class="wide"><table><tr><th>clip</th>{head}'
        f"</tr>{''.join(lines)}</table></div></details>"
    )


def _value(value: float | None, digits: int) -> str:
    return "<td>-</td>" if value is None else f"<td>{value:.{digits}f}</td>"


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --pale: #4a7fb055; --strong: #2f6ea5; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1360px; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .55rem; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
tr > th:first-child { text-align: left; font-weight: 500; position: sticky; left: 0;
  background: Canvas; }
small { opacity: .65; } .wide { overflow-x: auto; }
dt { font-weight: 600; float: left; clear: left; min-width: 8.5rem; } dd { margin: 0 0 .3rem 9rem; }
figure { margin: 1rem 0; } img, video { max-width: 100%; } figcaption { opacity: .8; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } svg { max-width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: currentColor; text-anchor: middle; }
svg .title { font-size: 12px; font-weight: 600; text-anchor: start; }
svg .row { text-anchor: end; } svg .tick { opacity: .7; font-size: 10px; }
svg .grid { stroke: var(--line); stroke-width: .6; }
svg .mark { stroke: #c60; stroke-dasharray: 3 2; }
svg .clip { fill: var(--pale); } svg .mean { fill: var(--strong); }
svg .interval { stroke: var(--strong); stroke-width: 2; }
svg polyline { fill: none; stroke-width: 1.5; } svg .legend { text-anchor: start; }
polyline.s0 { stroke: #888; } text.s0 { fill: #888; } polyline.s1 { stroke: #2f6ea5; }
svg text.s1 { fill: #2f6ea5; } polyline.s2 { stroke: #c60; } svg text.s2 { fill: #c60; }
svg text.s0 { fill: #888; }
"""
