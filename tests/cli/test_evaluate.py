"""`difftalker evaluate`: what it prints, and its rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers_cli import ODD_NAMES, Command


def test_evaluate_prints_its_report(
    run: Command, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    words = ("evaluate", debug_avatar, face, "--report", tmp_path / "r", "--rows", "own_audio")
    others = ("--ablation", f"again={debug_avatar}", "--predictions", f"copy={face.parent}")
    ran = run(*words, *others, "--steps", "1", "--json")
    assert ran.code == 0, ran.err
    stored = json.loads((tmp_path / "r" / "report.json").read_text())
    assert ran.record == {"report": str(tmp_path / "r" / "report.json"), **stored}
    rows = stored["rows"]
    assert list(rows) == ["own_audio", "again", "copy"]
    assert rows["again"]["psnr_lower"] == rows["own_audio"]["psnr_lower"]
    assert rows["copy"]["ssim_crop"]["mean"] == 1
    assert (tmp_path / "r" / "report.html").is_file()


def test_evaluate_wants_rows_of_different_names(
    run: Command, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    words = ("evaluate", debug_avatar, face, "--report", tmp_path / "r")
    ran = run(*words, "--predictions", f"real={face.parent}")
    ran.failed(2, "two rows are called 'real'", "NAME=")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_footage_and_reports_of_any_name_work_or_are_refused_before_the_work(
    run: Command, name: str, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    footage, report = tmp_path / f"{name}.mp4", tmp_path / f"{name}-report"
    footage.write_bytes(face.read_bytes())
    words = ("evaluate", debug_avatar, footage, "--report", report, "--steps", "1")
    ran = run(*words, "--rows", "own_audio", "--predictions", f"{name}={tmp_path}")
    assert ran.code in (0, 1, 2), ran.err
    assert ran.out.isprintable() or ran.code == 0
    assert "unexpected" not in ran.err
    assert report.is_dir() == (ran.code == 0)
