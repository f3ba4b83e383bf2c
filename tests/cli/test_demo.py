"""`difftalker demo`: the video and its sheet."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from difftalker.media.video import read_frames
from difftalker.packaged import samples
from difftalker.store import avatars as avatar
from helpers_cli import FACE_FRAMES, Command


def test_demo_makes_video_and_sheet(
    run: Command,
    face: Path,
    speech: Path,
    debug_avatar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(debug_avatar, tmp_path / "packaged" / samples.AVATAR)
    shutil.copy(face, tmp_path / f"{samples.AVATAR}-footage.mp4")
    shutil.copy(speech, tmp_path)
    monkeypatch.setattr(avatar, "PACKAGED", tmp_path / "packaged")
    monkeypatch.setattr(samples, "_FOLDER", tmp_path)
    out = tmp_path / "out" / "demo.mp4"
    ran = run("demo", "--output", out, "--json")
    assert ran.code == 0, ran.err
    assert ran.record["sheet"] == str(out.with_suffix(".png"))
    sheet = cv2.imread(str(out.with_suffix(".png")))
    assert sheet is not None
    height, width = next(read_frames(out)).image.shape[:2]
    assert sheet.shape == (2 * height, FACE_FRAMES * width, 3)
    plain, drawn = sheet[:height].astype(int), sheet[height:].astype(int)
    assert 0.002 < (np.abs(plain - drawn).max(-1) > 40).mean() < 0.2
    assert sorted(path.name for path in out.parent.iterdir()) == ["demo.mp4", "demo.png"]


def test_demo_without_its_samples(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "_FOLDER", tmp_path)
    run("demo", "--output", tmp_path / "out" / "o.mp4").failed(1, "footage.mp4 is missing")
    assert not (tmp_path / "out").exists()
