"""Write docs/results.md from the report of an evaluation, never by hand.

difftalker evaluate grid-s1 GRID/s1 --clips GRID/protocol.json:test --report out/report
python scripts/write_results.py out/report/report.json docs/results.md
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difftalker import avatar

MEASURES = {
    "landmark_error_crop": ("completion: landmark error, crop units", 4, None),
    "landmark_error_frame": ("completion: landmark error, frame units", 4, 0.002),
    "landmark_error_contour_crop": ("of it the lower contour, crop units", 4, None),
    "landmark_error_mouth_crop": ("of it the mouth, crop units", 4, None),
    "mouth_rise": ("rise of the mouth's error with the other audio", 2, None),
    "ld_frame": ("LD on the output, all points, frame units", 4, 0.004),
    "ld_lower_frame": ("LD on the output, lower points, frame units", 4, None),
    "found": ("frames in which a face is found again", 3, None),
    "open_corr": ("correlation of the mouth's opening with the speaker of the sound", 3, None),
    "psnr_crop": ("PSNR, whole crop, dB", 2, 24.31),
    "psnr_lower": ("PSNR, lower region, dB", 2, None),
    "ssim_crop": ("SSIM, whole crop", 3, 0.94),
    "ssim_lower": ("SSIM, lower region", 3, None),
    "sharpness": ("sharpness, lower region, footage = 1", 2, None),
    "flicker": ("flicker, lower region, footage = 1", 2, None),
    "seam": ("seam at the mask's edge, footage = 1", 2, None),
    "silence_leak": ("share of silence in which the mouth moves", 3, None),
}
"""Measure: what it is, digits, and the paper's own number where it gives one."""


def write_results(report: Mapping[str, Any]) -> str:
    """The page, Markdown."""
    rows, person, settings = report["rows"], report["avatar"], report["settings"]
    clips = report["clips"]
    head = ["measure", *(name.replace("_", " ") for name in rows), "paper"]
    lines = [
        "# Results",
        "",
        f"Avatar `{person['name']}` (preset `{person['preset']}`, {person['size_px']} x"
        f" {person['size_px']}), sampler {settings['sampler']}, {settings['steps']} steps, seed"
        f" {settings['seed']}; {len(clips)} clips that it was not trained on,"
        f" {sum(clip.get('frames', 0) for clip in clips)} frames. Mean over clips with half the"
        " 95 % interval. `docs/evaluation.md` defines rows and measures.",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    lines += [_line(key, rows) for key in MEASURES]
    lines += ["", *_machine(report), "", *_caveats()]
    return "\n".join(lines) + "\n"


def card_section(report: Mapping[str, Any]) -> str:
    """The figures of clips dubbed with their own sound, for the avatar's card, Markdown."""
    own = report["rows"]["own_audio"]
    lines = [
        f"## Measured on {len(report['clips'])} clips that it was not trained on",
        "",
        "Dubbed with their own sound; mean over clips with half the 95 % interval. What the numbers"
        " mean, and the rows to read them beside, stand in `docs/evaluation.md` and"
        " `docs/results.md`.",
        "",
        "| measure | value |",
        "|---|---|",
    ]
    shown = {key: (text, digits) for key, (text, digits, _) in MEASURES.items() if key in own}
    lines += [f"| {text} | {_cell(own[key], digits)} |" for key, (text, digits) in shown.items()]
    lines += ["", *_machine(report)]
    return "\n".join(lines)


def _line(key: str, rows: Mapping[str, Any]) -> str:
    text, digits, paper = MEASURES[key]
    cells = [_cell(figures.get(key), digits) for figures in rows.values()]
    return "| " + " | ".join([text, *cells, "" if paper is None else str(paper)]) + " |"


def _cell(estimate: Mapping[str, Any] | None, digits: int) -> str:
    if estimate is None or estimate["mean"] is None:
        return "exact" if estimate and "note" in estimate else "-"
    half = "" if estimate["low"] is None else (estimate["high"] - estimate["low"]) / 2
    return f"{estimate['mean']:.{digits}f}" + (f" ± {half:.{digits}f}" if half != "" else "")


def _machine(report: Mapping[str, Any]) -> list[str]:
    speed, machine = report["speed"]["frames_per_second"], report["machine"]
    return [
        f"Speed of dubbing, from footage to finished file: {speed:.1f} frames a second on"
        f" {machine['device']}, {machine['threads']} threads. Peak memory of the whole evaluation:"
        f" {report['memory']['peak_mb']:.0f} MB."
    ]


def _caveats() -> list[str]:
    return [
        "The paper's numbers are of other footage (one politician's addresses, 512 x 512), another"
        " landmark detector and unpublished clips: a scale to read ours by, not a comparison."
        " `real` is what the codec alone costs, `copied` what doing nothing scores.",
    ]


def main() -> None:
    """Read the report, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("report", type=Path)
    parser.add_argument("output", type=Path, nargs="?")
    parser.add_argument("--card", type=Path, help="an avatar's folder")
    options = parser.parse_args()
    report = json.loads(options.report.read_text())
    if options.output is not None:
        options.output.write_text(write_results(report))
    if options.card is not None:
        avatar.extend_card(options.card, card_section(report))


if __name__ == "__main__":
    main()
