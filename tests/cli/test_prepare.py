"""`difftalker prepare`: what it leaves out."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest

from difftalker.data.dataset import load_dataset
from difftalker.media.video import read_frames
from difftalker.packaged import samples
from helpers_cli import ODD_NAMES, Command, write_video


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


@pytest.mark.parametrize("name", ODD_NAMES[:2], ids=ascii)
def test_footage_and_datasets_of_any_name_work(run: Command, name: str, tmp_path: Path) -> None:
    images = [frame.image for frame in itertools.islice(read_frames(samples.footage()), 12)]
    footage = write_video(tmp_path / "plain.mp4", images, samples.speech())
    footage = footage.rename(tmp_path / f"{name}.mp4")
    dataset = tmp_path / f"{name}-data"
    ran = run("prepare", footage, "--output", dataset, "--features", "mel", "--workers", "1")
    assert ran.code == 0, ran.err
    assert ran.out.rstrip("\n").isprintable()
    (clip,) = load_dataset(dataset, validation_clips=0).train
    assert clip.name == name
