"""Write docs/results.md from the reports of evaluations, never by hand.

    difftalker evaluate grid-s1 GRID/s1 --clips GRID/protocol.json:test --report out/grid-s1
    cp out/grid-s1/report.json docs/reports/grid-s1.json
    python scripts/write_results.py

Each report in docs/reports becomes a section, packaged avatars first; one with ablations has their
table too, and one whose Figures 2 and 3 are there, docs/reports/figures/AVATAR-figure2.jpg, shows
them. Those in docs/reports/earlier, of avatars that were there before, are rows of the table
of quality against training alone. docs/reports/speed has what ``bench_speed.py --json`` wrote.
``--card FOLDER`` puts the figures of the first report on an avatar's card.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

import table1_page
from difftalker.errors import DiffTalkerError, UsageError
from difftalker.evaluation.report.measures import described
from difftalker.evaluation.report.schema import SCHEMA
from difftalker.evaluation.report.table import failures, measured
from difftalker.metrics import interval
from difftalker.store import avatars as avatar
from difftalker.store import experts as expert
from table1_page import line

Report = Mapping[str, Any]

DOCS = Path(__file__).parents[1] / "docs"

PAPER = {
    "LSE-D": ("lse_d", ("7.83", "9.08", "6.98", "10.00", "6.82")),
    "LSE-C": ("lse_c", ("7.81", "5.88", "9.25", "5.04", "9.01")),
    "LD, frame units": ("ld_frame", ("-", "-", "-", "0.102", "0.004")),
    "PSNR, dB": ("psnr_crop", ("-", "-", "-", "15.56", "24.31")),
    "SSIM": ("ssim_crop", ("-", "-", "-", "0.67", "0.94")),
    "landmark completion, frame units": ("landmark_error_frame", ("-", "-", "-", "-", "0.002")),
    "the same without AM-Trans": ("landmark_error_frame", ("-", "-", "-", "-", "0.005")),
}
"""Table 1 and Section 3.3: measure, and the paper's figures in the order of PAPER_COLUMNS."""
PAPER_COLUMNS = (
    *("Wav2Lip", "MakeItTalk", "DAE-Talker"),
    *("DiffTalker without landmarks", "DiffTalker"),
)
WITHOUT_AM_TRANS = "no-am-trans"
WITHOUT_LANDMARKS = "no-landmarks"
"""Rows of the paper's own ablations, as scripts/ablations.py calls them."""
MOUTH_MASK = "mouth-mask"
"""The row of the mask without the jaw."""

ABLATED = (
    *("landmark_error_frame", "landmark_error_mouth_crop", "ld_frame", "ld_lower_frame"),
    *("open_corr", "sync_c", "sync_d", "lse_c", "lse_d", "word_error", "closure"),
    *("psnr_lower", "ssim_lower", "perceptual", "sharpness", "silence_leak"),
)
"""What the table of ablations shows, where it was measured."""

BUDGETED = (
    *("landmark_error_frame", "open_corr", "closure", "psnr_lower", "ssim_lower"),
    *("sharpness", "sync_c", "word_error"),
)
"""What the tables of quality against training and against speed show."""
RENDERERS = ("diffusion", "light")
FIGURES = {
    "figure2": "As the paper's Figure 2: landmarks of the footage, completed with its own sound and"
    " with another clip's, and those of who speaks there.",
    "figure3": "As the paper's Figure 3: the footage, faces generated for it and their completed"
    " landmarks over poses of the head.",
}
"""What ``difftalker evaluate`` draws beside its report, and what the page says of it."""

CAVEATS = (
    "The paper's footage is one politician's addresses at 512 x 512 from another landmark detector,"
    " and its test clips are unpublished; ours are 14 short sentences of GRID in a studio. The two"
    " are no comparison, but a scale: what counts is the order of rows within one table.",
    "PSNR and SSIM are of the whole crop, as nothing else can be meant by Table 1. Most of it is"
    " footage that nobody changed: see the lower region, and `copied`, where PSNR is infinite"
    " (exact).",
    "LD of the paper is taken to be over all 68 points with x over the width and y over the height"
    " of the frame. A face that fills more of the frame has larger errors in this unit.",
    "LSE-C and LSE-D need SyncNet's official weights: without them the cell is empty."
    " `sync_c` and `sync_d` are our own expert's, in the sections below, on another scale.",
)


def read_report(path: Path) -> dict[str, Any]:
    """A report of the layout that this script knows.

    Raises:
        UsageError: it cannot be read, or is of another layout.
    """
    try:
        report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no report: {error}", wanted="a report.json") from error
    if found := problems(report):
        raise UsageError(
            f"{path} has another layout: {found[0]}", fix="run `difftalker evaluate` again"
        )
    return report


def problems(report: Report) -> list[str]:
    """What in a report, as JSON gives it, is not as its schema says; empty where all is."""
    errors = Draft202012Validator(SCHEMA).iter_errors(report)
    return [f"report{error.json_path[1:]}: {error.message[:200]}" for error in errors]


def write_results(
    reports: Sequence[Report],
    earlier: Sequence[Report] = (),
    speeds: Sequence[Report] = (),
    table1: Sequence[Report] = (),
    pictures: Sequence[str] = (),
) -> str:
    """The page, Markdown.

    ``earlier`` reports are compared alone, ``speeds`` are of a benchmark, ``table1`` of the systems
    that were trained beside each other, and ``pictures`` the names of the figures there are.
    """
    lines = [
        "# Results",
        "",
        "Written by `scripts/write_results.py` from the reports in `docs/reports/`, never by hand."
        " Mean over clips with half the 95 % interval (bootstrap over clips)."
        " `docs/guide/evaluate.md` defines rows and measures.",
        "",
        "## Beside the paper",
        "",
        *_beside_the_paper(reports),
        "",
        *(f"- {text}" for text in CAVEATS),
    ]
    if table1:
        lines += ["", "## Table 1 on the same footage"]
        for figures in table1:
            lines += ["", *table1_page.section(figures)]
    lines += ["", "## Quality against training and size", "", *_budgets([*earlier, *reports])]
    if speeds:
        lines += ["", "## Quality against speed", "", *_speeds(speeds, reports)]
    for report in reports:
        lines += ["", f"## {_title(report)}", "", *_section(report, pictures)]
    lines += ["", "## Experts", "", *_experts(reports)]
    return "\n".join(lines) + "\n"


def _beside_the_paper(reports: Sequence[Report]) -> Iterator[str]:
    ours = list(_our_columns(reports))
    head = ["", *(f"{name} (paper)" for name in PAPER_COLUMNS), *(name for name, *_ in ours)]
    yield line(head)
    yield "|---" * len(head) + "|"
    for text, (key, theirs) in PAPER.items():
        cells = [
            _cell(report["rows"][row].get(key), described(key).digits) if _says(text, row) else ""
            for _, report, row in ours
        ]
        yield line([text, *theirs, *cells])


def _budgets(reports: Sequence[Report]) -> Iterator[str]:
    """What more training and larger networks give, each avatar with the clips' own sound."""
    yield (
        "Clips dubbed with their own sound by the diffusion, least training first. An avatar's name"
        " that comes twice is that avatar before and after more training."
    )
    yield ""
    head = ["avatar", "preset", "crop", "parameters, 10^6", "training, minutes", "steps drawn"]
    yield line([*head, *(f"{described(key).text} {described(key).arrow}" for key in BUDGETED)])
    yield "|---" * (len(head) + len(BUDGETED)) + "|"
    for report in sorted((r for r in reports if _renderer(r) == "diffusion"), key=_minutes):
        person, own = report["avatar"], report["rows"]["own_audio"]
        parameters = person.get("parameters")
        yield line(
            [
                f"`{person['name']}`",
                person["preset"],
                str(person["size_px"]),
                f"{parameters / 1e6:.1f}" if parameters else "-",
                f"{_minutes(report):.0f}",
                str(person["steps"]),
                *(_cell(own.get(key), described(key).digits) for key in BUDGETED),
            ]
        )


def _speeds(speeds: Sequence[Report], reports: Sequence[Report]) -> Iterator[str]:
    """What each renderer of an avatar gives for its time."""
    yield (
        "The packaged footage dubbed by `scripts/bench_speed.py`, beside Wav2Lip's generator at 96"
        " pixels (random weights) on the same processor: ratios hold on others, frames a second do"
        " not. Quality is that of the reports below."
    )
    for speed in speeds:
        figures = speed["figures"]
        unit = figures["Wav2Lip's generator, 96 px"]["fps"]
        yield ""
        isa = "" if speed["isa"] == "all" else f" limited to {speed['isa'].upper()}"
        yield f"{speed['processor']}{isa}, {speed['threads']} threads:"
        yield ""
        head = ["renderer", "rendering, times Wav2Lip", "whole dub, frames a second"]
        yield line([*head, *(f"{described(key).text} {described(key).arrow}" for key in BUDGETED)])
        yield "|---" * (len(head) + len(BUDGETED)) + "|"
        for renderer in RENDERERS:
            own = _own_row(reports, renderer)
            yield line(
                [
                    renderer,
                    f"{figures[f'rendering, {renderer}']['fps'] / unit:.2f}",
                    f"{figures[f'whole dub, {renderer}']['fps']:.1f}",
                    *(_cell(own.get(key), described(key).digits) for key in BUDGETED),
                ]
            )
        one = figures["live frame"]
        yield ""
        yield (
            f"A frame of a live session takes {one['ms']:.0f} ms, 95 % of them less than"
            f" {one['p95_ms']:.0f} ms, {one['fps']:.1f} a second."
        )


def _own_row(reports: Sequence[Report], renderer: str) -> Mapping[str, Any]:
    """Clips dubbed with their own sound by a renderer of the first avatar, as far as reported."""
    name = reports[0]["avatar"]["name"]
    for report in reports:
        if (report["avatar"]["name"], _renderer(report)) == (name, renderer):
            own: Mapping[str, Any] = report["rows"]["own_audio"]
            return own
    return {}


def _renderer(report: Report) -> str:
    return str(report["settings"].get("renderer", "diffusion"))


def _minutes(report: Report) -> float:
    return float(sum(facts["minutes"] for facts in report["avatar"]["trained"].values()))


def _says(line: str, row: str) -> bool:
    """Whether a row of ours has something to say in a line of the paper's figures."""
    if line == "the same without AM-Trans":
        return row == WITHOUT_AM_TRANS
    if line.startswith("landmark completion"):
        return row not in (WITHOUT_AM_TRANS, WITHOUT_LANDMARKS)
    return True


def _our_columns(reports: Sequence[Report]) -> Iterator[tuple[str, Report, str]]:
    """Columns of ours beside the paper's: (head, report, row)."""
    for report in reports:
        light = _renderer(report) == "light"
        name = report["avatar"]["name"] + (", light" if light else "")
        for row, text in (
            ("own_audio", f"`{name}`"),
            (WITHOUT_AM_TRANS, f"`{name}` without AM-Trans"),
            (WITHOUT_LANDMARKS, f"`{name}` without landmarks"),
            ("real", f"footage through the codec, with `{name}`"),
        ):
            if row in report["rows"]:
                yield text, report, row


def _title(report: Report) -> str:
    light = ", light renderer" if _renderer(report) == "light" else ""
    return f"Avatar {report['avatar']['name']}{light}"


def _section(report: Report, pictures: Sequence[str]) -> list[str]:
    """Everything about one report: rows, ablations, figures, what failed, how fast it was."""
    ours = {row: each for row, each in report["rows"].items() if row not in report["ablations"]}
    lines = [_setting(report), "", *_table(ours)]
    if report["ablations"]:
        lines += ["", *_ablations(report)]
    for figure, text in FIGURES.items():
        if (picture := f"{report['avatar']['name']}-{figure}.jpg") in pictures:
            lines += ["", text, "", f"![{text}](reports/figures/{picture})"]
    failed = [f"- {' '.join(filter(None, one[:2]))}: {one[2]}" for one in failures(report["clips"])]
    if failed:
        lines += ["", "What failed:", "", *failed]
    return [*lines, "", *_machine(report)]


def _setting(report: Report) -> str:
    person, settings, clips = report["avatar"], report["settings"], report["clips"]
    sampled = f"sampler {settings['sampler']}, {settings['steps']} steps"
    how = "one pass of the light network" if _renderer(report) == "light" else sampled
    return (
        f"Preset `{person['preset']}`, {person['size_px']} x {person['size_px']},"
        f" features `{person['features']}`{_budget(person)}; {how}, seed {settings['seed']};"
        f" {len(clips)} clips that it was not trained on,"
        f" {sum(clip.get('frames', 0) for clip in clips)} frames."
    )


def _budget(person: Mapping[str, Any]) -> str:
    stages = person["trained"]
    if not stages:
        return ""
    steps = ", ".join(f"{stage} {facts['steps']}" for stage, facts in stages.items())
    minutes = sum(facts["minutes"] for facts in stages.values())
    clips = person["clips_train"]
    return f", trained on {clips} clips ({steps} steps; {minutes:.0f} minutes)"


def _table(rows: Mapping[str, Any]) -> Iterator[str]:
    head = ["measure", "better", *(name.replace("_", " ") for name in rows), "paper"]
    yield line(head)
    yield "|---" * len(head) + "|"
    for key in measured(rows):
        one = described(key)
        cells = [_cell(figures.get(key), one.digits) for figures in rows.values()]
        paper = "" if one.paper is None else f"{one.paper:g}"
        yield line([one.text, one.arrow, *cells, paper])


def _ablations(report: Report) -> Iterator[str]:
    """The ablations beside the avatar that they change, and how sure the differences are."""
    names = ["own_audio", *report["ablations"]]
    keys = [key for key in ABLATED if key in report["rows"]["own_audio"]]
    yield "### Ablations"
    yield ""
    yield (
        "Each dubs the same clips with their own sound, measured in the crops of"
        f" `{report['avatar']['name']}` (the row `own_audio` above)."
        + (
            f" `{WITHOUT_LANDMARKS}` completes landmarks as that avatar does, but renders without"
            " them: its errors of completion say nothing of its pictures."
            if WITHOUT_LANDMARKS in report["ablations"]
            else ""
        )
        + (
            f" `{MOUTH_MASK}` leaves most of the lower face as it was, and is scored in the whole"
            " of it like the others: its pictures are better by what it did not have to render."
            if MOUTH_MASK in report["ablations"]
            else ""
        )
    )
    yield ""
    head = ["measure", "better", *(_code(name, report) for name in names)]
    yield line(head)
    yield "|---" * len(head) + "|"
    for key in keys:
        one = described(key)
        cells = [_cell(report["rows"][name].get(key), one.digits) for name in names]
        yield line([one.text, one.arrow, *cells])
    yield ""
    yield (
        "Differences to it, clip by clip: mean and 95 % interval. In bold where the interval leaves"
        " out zero. Clips are shared, so these are surer than the intervals above."
    )
    yield ""
    yield line(["measure", "better", *(f"`{name}`" for name in names[1:])])
    yield "|---" * (len(names) + 1) + "|"
    for key in keys:
        one = described(key)
        cells = [_difference(report, name, key, one.digits) for name in names[1:]]
        yield line([one.text, one.arrow, *cells])
    yield ""
    yield line(["run", "preset", "crop", "features", "sampling", "clips", "steps of training"])
    yield "|---" * 7 + "|"
    for name in names:
        person = report["avatar"] if name == "own_audio" else report["ablations"][name]
        steps = ", ".join(f"{k} {v['steps']}" for k, v in person["trained"].items())
        yield line(
            [
                _code(name, report),
                person["preset"],
                str(person["size_px"]),
                person["features"],
                f"{person['sampler']} {person['steps']}",
                str(person["clips_train"] or "-"),
                steps or "-",
            ]
        )


def _code(row: str, report: Report) -> str:
    return f"`{report['avatar']['name'] if row == 'own_audio' else row}`"


def _difference(report: Report, row: str, key: str, digits: int) -> str:
    """How a row's clips differ from the same clips of the avatar itself."""
    pairs = [
        (clip["rows"].get(row, {}).get(key), clip["rows"].get("own_audio", {}).get(key))
        for clip in report["clips"]
        if "rows" in clip
    ]
    gaps = [a - b for a, b in pairs if a is not None and b is not None]
    if len(gaps) < 2:
        return "-"
    found = interval(gaps, seed=report["settings"]["seed"])
    text = f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"
    return f"**{text}**" if found.low > 0 or found.high < 0 else text


def _experts(reports: Sequence[Report]) -> Iterator[str]:
    """How right the networks are that judge, on clips that they have not seen."""
    yield (
        "Networks of this project that judge dubbings or describe speech, and their figures on"
        " clips held out from their training, by their own facts."
    )
    yield ""
    yield line(["expert", "trained on", "on clips held out", "sha256 of the weights"])
    yield "|---" * 4 + "|"
    for kind in expert.packaged():
        files = expert.read(kind=kind)
        figures = ", ".join(f"{k} {v:.4g}" for k, v in files.facts["unseen"].items())
        yield line([kind, files.facts["corpora"], figures, f"`{files.sha256[:12]}`"])
    packaged = {expert.read(kind=kind).sha256 for kind in expert.packaged()}
    for report in reports:
        for name, facts in report["judges"].items():
            if (found := facts.get("sha256")) and found not in packaged:
                yield line([name, "", f"in {_title(report)}", f"`{found[:12]}`"])


def card_section(report: Report) -> str:
    """The figures of clips dubbed with their own sound, for the avatar's card, Markdown."""
    own = report["rows"]["own_audio"]
    lines = [
        f"## Measured on {len(report['clips'])} clips that it was not trained on",
        "",
        "Dubbed with their own sound; mean over clips with half the 95 % interval. What the numbers"
        " mean, and the rows to read them beside, stand in `docs/guide/evaluate.md` and"
        " `docs/results.md`.",
        "",
        "| measure | value |",
        "|---|---|",
    ]
    for key in measured({"own_audio": own}):
        lines.append(line([described(key).text, _cell(own[key], described(key).digits)]))
    return "\n".join([*lines, "", *_machine(report)])


def _cell(estimate: Mapping[str, Any] | None, digits: int) -> str:
    if estimate is None or estimate["mean"] is None:
        return "exact" if estimate and "note" in estimate else "-"
    if estimate["low"] is None:
        return f"{estimate['mean']:.{digits}f}"
    half = (estimate["high"] - estimate["low"]) / 2
    return f"{estimate['mean']:.{digits}f} ± {half:.{digits}f}"


def _machine(report: Report) -> list[str]:
    speed, machine = report["speed"]["frames_per_second"], report["machine"]
    peak = report["memory"]["peak_mb"]
    if speed is None:
        return []
    return [
        f"Speed of dubbing, from footage to finished file: {speed:.1f} frames a second on"
        f" {machine['device']}, {machine['threads']} threads."
        + f" The whole evaluation took {report['speed']['evaluate_seconds'] / 60:.0f} minutes"
        + (f" and {peak:.0f} MB of memory at its peak." if peak else ".")
    ]


def earlier_reports(folder: Path = DOCS / "reports") -> list[dict[str, Any]]:
    """The reports of avatars that were there before, by their names."""
    return [read_report(path) for path in sorted((folder / "earlier").glob("*.json"))]


def stored(kind: str, folder: Path = DOCS / "reports") -> list[dict[str, Any]]:
    """What ``bench_speed.py --json`` (``speed``) or ``table1.py`` wrote, by the files' names."""
    found = sorted((folder / kind).glob("*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def stored_reports(folder: Path = DOCS / "reports") -> list[dict[str, Any]]:
    """The reports of a folder by their names, packaged avatars first, the diffusion before light.

    Raises:
        UsageError: there is none, or one is of another layout.
    """
    reports = [read_report(path) for path in sorted(folder.glob("*.json"))]
    if not reports:
        raise UsageError(
            f"{folder} has no reports", fix="copy the report.json of evaluations there"
        )
    return sorted(
        reports,
        key=lambda one: (
            one["avatar"]["name"] not in avatar.packaged(),
            RENDERERS.index(_renderer(one)),
        ),
    )


def main(words: Sequence[str] | None = None) -> None:
    """Read the reports, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reports", type=Path, default=DOCS / "reports", help="a folder")
    parser.add_argument("--output", type=Path, default=DOCS / "results.md")
    parser.add_argument("--card", type=Path, help="an avatar's folder")
    options = parser.parse_args(words)
    try:
        reports = stored_reports(options.reports)
        earlier = earlier_reports(options.reports)
        speeds, table1 = (stored(kind, options.reports) for kind in ("speed", "table1"))
        pictures = [path.name for path in (options.reports / "figures").glob("*.jpg")]
        page = write_results(reports, earlier, speeds, table1, pictures)
        options.output.write_text(page, encoding="utf-8")
        if options.card is not None:
            avatar.extend_card(options.card, card_section(reports[0]))
    except DiffTalkerError as error:
        parser.exit(error.exit_code, f"write_results: {error}\n")


if __name__ == "__main__":
    main()
