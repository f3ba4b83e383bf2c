"""`difftalker prepare`: what it leaves out."""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers_cli import Command


def test_prepare_leaves_out_what_shows_no_face(run: Command, noise: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(noise, tmp_path / "in" / "a.mp4")
    (tmp_path / "in" / "notes.txt").write_text("no footage")
    words = ("prepare", tmp_path / "in", "--output", tmp_path / "d", "--features", "mel")
    ran = run(*words, "--workers", "1", "--json")
    assert ran.code == 1
    assert ran.err.count("\n") == 2
    assert "left out a.mp4: no face was found" in ran.err
    assert "none of 1 files" in ran.record["error"]["message"]
    assert not (tmp_path / "d" / "manifest.json").exists()
