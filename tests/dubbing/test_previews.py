"""docs/results.md: written from reports, with every figure that they have."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import write_results
from difftalker.errors import UsageError
from difftalker.store import experts as expert
from write_results import RENDERERS

CLIPS = ("a", "b", "c")


def estimate(values: list[float]) -> dict[str, Any]:
    return {"mean": float(np.mean(values)), "low": min(values), "high": max(values), "n": 3}


def person(name: str) -> dict[str, Any]:
    trained = {"landmarks": {"steps": 40, "minutes": 1.5}, "prior": {"steps": 60, "minutes": 2.5}}
    return {
        "name": name,
        "preset": "half",
        "size_px": 128,
        "features": "mel",
        "sampler": "ddim",
        "steps": 4,
        "trained": trained,
        "clips_train": 93,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    """A report as `difftalker evaluate` writes it, with figures made up here."""
    psnr = {
        "real": [40.0, 41.0, 42.0],
        "own_audio": [29.0, 30.0, 31.0],
        "no-am-trans": [28.0, 29.5, 31.5],  # may be better or worse
        "no-landmarks": [26.9, 28.0, 29.1],  # two less, each time
    }
    errors = {"own_audio": [0.003] * 3, "no-am-trans": [0.005] * 3, "no-landmarks": [0.003] * 3}
    figures = {
        row: {"psnr_lower": values}
        | ({"landmark_error_frame": errors[row], "word_error": [0.25] * 3} if row in errors else {})
        for row, values in psnr.items()
    }
    return {
        "version": 2,
        "avatar": person("reference"),
        "settings": {"sampler": "ddim", "steps": 4, "seed": 0},
        "ablations": {name: person(name) for name in ("no-am-trans", "no-landmarks")},
        "programs": {},
        "judges": {"lips": {"measures": ["word_error"], "sha256": "ab" * 32}},
        "rows": {row: {key: estimate(v) for key, v in one.items()} for row, one in figures.items()},
        "clips": [
            {
                "name": clip,
                "source": f"{clip}.mpg",
                "sha256": "0" * 64,
                "frames": 75,
                "frames_with_face": 75,
                "rows": {
                    row: {key: v[i] for key, v in one.items()} for row, one in figures.items()
                },
            }
            for i, clip in enumerate(CLIPS)
        ],
        "speed": {
            "frames_per_second": 7.5,
            "frames": 225,
            "locate_seconds": 3.0,
            "dub_seconds": 27.0,
            "evaluate_seconds": 600.0,
        },
        "memory": {"peak_mb": 900.0},
        "machine": {"device": "cpu", "threads": 2},
    }


def cells(page: str, start: str) -> list[str]:
    """The first line of a table that begins with a text, as its cells."""
    line = next(one for one in page.splitlines() if one.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_report_here_is_one(report: dict[str, Any]) -> None:
    assert write_results.problems(report) == []


def test_ours_stand_beside_the_papers(report: dict[str, Any]) -> None:
    page = write_results.write_results([report])
    head = cells(page, " | Wav2Lip")
    completion = dict(zip(head, cells(page, "landmark completion"), strict=True))
    without = dict(zip(head, cells(page, "the same without AM-Trans"), strict=True))
    assert completion["DiffTalker (paper)"] == "0.002"
    assert completion["`reference`"] == "0.0030 ± 0.0000"
    assert completion["`reference` without AM-Trans"] == ""
    assert without["DiffTalker (paper)"] == "0.005"
    assert without["`reference` without AM-Trans"] == "0.0050 ± 0.0000"
    assert completion["`reference` without landmarks"] == ""
    assert dict(zip(head, cells(page, "LSE-C"), strict=True))["Wav2Lip (paper)"] == "7.81"


def test_rows_and_ablations_have_their_figures(report: dict[str, Any]) -> None:
    page = write_results.write_results([report])
    assert cells(page, "PSNR, lower region")[2:4] == ["41.00 ± 1.00", "30.00 ± 1.00"]
    ablations = page[page.index("### Ablations") :]
    assert cells(ablations, "PSNR, lower region")[2:] == [
        "30.00 ± 1.00",
        "29.67 ± 1.75",
        "28.00 ± 1.10",
    ]
    differences = ablations[ablations.index("Differences") :]
    uncertain, worse = cells(differences, "PSNR, lower region")[2:]
    assert uncertain.startswith("-0.33 (")
    assert worse.startswith("**-2.00 (-2.10 to -1.90)")
    assert cells(differences, "`no-landmarks`")[1:4] == ["half", "128", "mel"]
    assert "landmarks 40, prior 60" in cells(differences, "`reference`")[-1]


def test_renderers_are_compared_at_their_speeds(report: dict[str, Any]) -> None:
    light = copy.deepcopy(report)
    light["settings"]["renderer"] = "light"
    light["rows"]["own_audio"]["psnr_lower"]["mean"] = 31.0
    fast = {"rendering, diffusion": 10.0, "rendering, light": 90.0}
    fast |= {"whole dub, diffusion": 5.0, "whole dub, light": 25.0}
    figures: dict[str, Any] = {name: {"fps": fps, "ms": 1000 / fps} for name, fps in fast.items()}
    figures["Wav2Lip's generator, 96 px"] = {"fps": 30.0, "ms": 33.3}
    figures["live frame"] = {"fps": 28.0, "ms": 35.0, "p95_ms": 39.0}
    speed = {"isa": "avx2", "threads": 2, "processor": "a processor", "figures": figures}
    page = write_results.write_results([report, light], (), [speed])
    compared = page[page.index("## Quality against speed") :]
    assert "a processor limited to AVX2, 2 threads:" in compared
    head, diffusion, passed = (cells(compared, name) for name in ("renderer", *RENDERERS))
    psnr = head.index("PSNR, lower region, dB ↑")
    assert (diffusion[1], diffusion[2], diffusion[psnr]) == ("0.33", "5.0", "30.00 ± 1.00")
    assert (passed[1], passed[2], passed[psnr]) == ("3.00", "25.0", "31.00 ± 1.00")
    assert "35 ms, 95 % of them less than 39 ms" in compared
    assert "## Avatar reference, light renderer" in page


def test_the_page_tells_experts_failures_and_speed(report: dict[str, Any]) -> None:
    report["clips"][1]["rows"]["no-landmarks"] = {"error": "the disk is full"}
    page = write_results.write_results([report])
    assert "- b no-landmarks: the disk is full" in page
    assert "7.5 frames a second" in page
    assert "10 minutes and 900 MB" in page
    assert "`abababababab`" in page
    for kind in expert.packaged():
        assert expert.read(kind=kind).sha256[:12] in page


def test_reports_are_read_from_a_folder_and_checked(
    report: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packaged = copy.deepcopy(report)
    packaged["avatar"]["name"] = "grid-s1"
    for name, one in (("a", report), ("b", packaged)):
        (tmp_path / f"{name}.json").write_text(json.dumps(one))
    write_results.main(["--reports", str(tmp_path), "--output", str(tmp_path / "r.md")])
    page = (tmp_path / "r.md").read_text()
    assert page.index("## Avatar grid-s1") < page.index("## Avatar reference")
    report["version"] = 1
    (tmp_path / "a.json").write_text(json.dumps(report))
    with pytest.raises(SystemExit) as stopped:
        write_results.main(["--reports", str(tmp_path), "--output", str(tmp_path / "r.md")])
    assert stopped.value.code == 2
    assert "report.version: 2 was expected" in capsys.readouterr().err
    with pytest.raises(UsageError, match="no reports"):
        write_results.stored_reports(tmp_path / "none")


def test_the_card_says_what_own_sound_gives(report: dict[str, Any]) -> None:
    card = write_results.card_section(report)
    assert cells(card, "PSNR, lower region") == ["PSNR, lower region, dB", "30.00 ± 1.00"]
    assert "41.00" not in card


def test_the_stored_page_is_that_of_the_stored_reports(tmp_path: Path) -> None:
    write_results.main(["--output", str(tmp_path / "results.md")])
    stored, now = (
        f.read_text() for f in (write_results.DOCS / "results.md", tmp_path / "results.md")
    )
    assert stored == now, "run python scripts/write_results.py"
    for picture in re.findall(r"\]\((reports/[^)]+)\)", stored):
        assert (write_results.DOCS / picture).is_file()


def test_figures_that_are_there_are_shown(report: dict[str, Any]) -> None:
    page = write_results.write_results([report], pictures=["reference-figure2.jpg"])
    assert "](reports/figures/reference-figure2.jpg)" in page
    assert "figure3" not in page


def test_quality_stands_beside_time_and_size(report: dict[str, Any]) -> None:
    before = copy.deepcopy(report)
    before["avatar"]["trained"]["prior"]["minutes"] = 0.5
    report["avatar"]["parameters"] = 12_340_000
    assert not write_results.problems(report)
    page = write_results.write_results([report], [before])
    table = page.split("## Quality against training and size")[1].split("## ")[0].splitlines()
    rows = [line for line in table if line.startswith("| `reference`")]
    assert rows[0].startswith("| `reference` | half | 128 | - | 2 | 4 | 0.0030")
    assert rows[1].startswith("| `reference` | half | 128 | 12.3 | 4 | 4 | 0.0030")
    assert page.count("## Avatar reference") == 1
