"""What ``write_results.py`` writes of the figures of ``table1.py``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from difftalker.evaluation.report.measures import described
from difftalker.metrics import interval

Figures = Mapping[str, Any]

OURS = "difftalker"
MEASURES = (
    *("sync_c", "sync_d", "lse_c", "lse_d", "ld_frame", "psnr_crop", "ssim_crop"),
    *("open_corr", "word_error", "closure", "silence_leak", "ld_lower_frame", "psnr_lower"),
    *("ssim_lower", "perceptual", "sharpness", "flicker"),
)
"""Those of the paper's table first; what nobody measured is left out."""
BESIDE = ("real", "copied", "other_audio")
"""Rows of the evaluation that the systems are to be read beside."""


def section(figures: Figures) -> Iterator[str]:
    """The tables of one set of clips, Markdown lines."""
    names, seeds = list(figures["systems"]), figures["seeds"]
    counts = sorted({machine["threads"] for machine in figures["machines"].values()})
    threads = f"{' or '.join(map(str, counts))} threads"
    yield f"### Clips `{figures['score']}`"
    yield ""
    yield (
        f"{len(figures['clips'])} clips, dubbed with their own sound. Each system learned from the"
        f" same {figures['clips_train']} clips in crops of {figures['size_px']} for"
        f" {figures['minutes']:g} minutes on {threads}, once for each of"
        f" {len(seeds)} seeds. The sync expert of `after-wav2lip` took {figures['sync_minutes']:g}"
        " minutes more, once; it is not the one that judges. Mean over clips of the seeds' mean,"
        " half the 95 % interval (bootstrap over clips)"
        + (", in brackets the standard deviation of the seeds." if len(seeds) > 1 else ".")
        + " `other audio` is `difftalker` with the next clip's sound."
    )
    yield ""
    head = ["measure", "better", *BESIDE[:2], *names, BESIDE[2]]
    yield line([one.replace("_", " ") if one in BESIDE else _code(one, names) for one in head])
    yield "|---" * len(head) + "|"
    keys = [key for key in MEASURES if _clips(figures, OURS, key)]
    for key in keys:
        one = described(key)
        columns = (*BESIDE[:2], *names, BESIDE[2])
        cells = [_cell(figures, name, key, one.digits) for name in columns]
        yield line([one.text, one.arrow, *cells])
    facts = [_facts(figures["systems"][name]) for name in names]
    for text in facts[0]:
        yield line([text, "", "", "", *(one[text] for one in facts), ""])
    yield ""
    yield (
        f"Less `{OURS}`, clip by clip: mean and 95 % interval, in bold where it leaves out zero."
    )
    yield ""
    others = [name for name in names if name != OURS]
    yield line(["measure", "better", *(f"`{name}`" for name in others)])
    yield "|---" * (2 + len(others)) + "|"
    for key in keys:
        one = described(key)
        cells = [_difference(figures, name, key, one.digits) for name in others]
        yield line([one.text, one.arrow, *cells])


def _facts(system: Mapping[str, Any]) -> dict[str, str]:
    """What a system is, and what it costs."""
    steps = [sum(each.values()) for each in system["steps"].values()]
    counts = f"{min(steps)}" if len(set(steps)) == 1 else f"{min(steps)} to {max(steps)}"
    return {
        "parameters, 10^6": f"{system['parameters'] / 1e6:.1f}",
        "training, minutes": f"{np.mean(list(system['minutes'].values())):.0f}",
        "training, steps of all stages": counts,
        "frames a second, from file to file": f"{np.median(list(system['fps'].values())):.1f}",
    }


def _clips(figures: Figures, name: str, key: str) -> dict[str, list[float]]:
    """The figures of a system: of each clip that has one, of each seed."""
    found: dict[str, list[float]] = {}
    for by_clip in figures["figures"].get(name, {}).values():
        for clip, measures in by_clip.items():
            if (value := measures.get(key)) is not None and not isinstance(measures, str):
                found.setdefault(clip, []).append(value)
    return found


def _cell(figures: Figures, name: str, key: str, digits: int) -> str:
    clips = _clips(figures, name, key)
    if not clips:
        return "-"
    one = interval([float(np.mean(values)) for values in clips.values()], seed=0)
    text = f"{one.mean:.{digits}f}"
    if math.isfinite(one.low):
        text += f" ± {(one.high - one.low) / 2:.{digits}f}"
    counts = {len(values) for values in clips.values()}
    if name in figures["systems"] and counts == {len(figures["seeds"])} != {1}:
        spread = np.std([np.mean(each) for each in zip(*clips.values(), strict=True)], ddof=1)
        text += f" ({spread:.{digits}f})"
    return text


def _difference(figures: Figures, name: str, key: str, digits: int) -> str:
    theirs, ours = _clips(figures, name, key), _clips(figures, OURS, key)
    gaps = [float(np.mean(theirs[clip]) - np.mean(ours[clip])) for clip in theirs if clip in ours]
    if len(gaps) < 2:
        return "-"
    found = interval(gaps, seed=0)
    text = f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def _code(name: str, systems: Sequence[str]) -> str:
    return f"`{name}`" if name in systems else name


def line(cells: Sequence[str]) -> str:
    """A line of a table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
