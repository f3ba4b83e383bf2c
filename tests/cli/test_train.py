"""`difftalker train`: stages, the avatar, and other folders."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import difftalker
from difftalker.config import STAGES
from difftalker.data.prepare import VERSION, Clip
from difftalker.store import avatars as avatar
from helpers_cli import ODD_NAMES, Command


def test_train_writes_an_avatar_once_all_stages_are_done(run: Command, tmp_path: Path) -> None:
    dataset, out = write_dataset(tmp_path / "dataset"), tmp_path / "new" / "anna"
    words = ("train", dataset, "--output", out, "--preset", "debug", "--json")
    first = run(*words, "--stage", "landmarks", "--stage", "autoencoder")
    assert first.code == 0, first.err
    assert first.record["avatar"] is None
    assert first.record["unfinished"] == [*STAGES[2:]]
    assert not out.exists()
    steps = ("--set", "training.synthesis.steps=2")
    ran = run(*words, *steps, "--consent", "Anna, in person", "--source", "noise, CC0")
    assert ran.code == 0, ran.err
    assert ran.record["avatar"] == str(out)
    assert ran.record["unfinished"] == []
    assert ran.record["run"] == str(tmp_path / "new" / "anna-run")
    written = avatar.read(out)
    assert written.name == "anna"
    assert written.facts["stages"]["synthesis"]["steps"] == 2
    card = (out / "card.md").read_text()
    assert "Anna, in person" in card
    assert "noise, CC0" in card
    assert difftalker.load(out).config.preset == "debug"


def test_train_leaves_other_folders_alone(run: Command, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "config.json").write_text('{"mine": 1}')
    words = ("train", tmp_path / "d", "--consent", "c", "--preset", "debug", "--output")
    run(*words, tmp_path / "letters").failed(1, "letters", "other things")
    run(*words, tmp_path / "letters" / "config.json").failed(1, "is a file")
    run(*words, tmp_path / "new").failed(1, "no such file")
    assert (tmp_path / "letters" / "config.json").read_text() == '{"mine": 1}'
    assert [path.name for path in tmp_path.iterdir()] == ["letters"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_folders_of_any_name_work_or_are_refused_before_the_work(
    run: Command, name: str, tmp_path: Path
) -> None:
    dataset, folder = write_dataset(tmp_path / f"{name}-data"), tmp_path / f"{name}-run"
    words = ("train", dataset, "--preset", "debug", "--start", "none", "--stage", "landmarks")
    more = ("--consent", name, "--source", name, "--set", "training.landmarks.steps=1")
    ran = run(*words, *more, "--output", tmp_path / "out", "--run", folder)
    if ran.code:
        ran.failed(1, "not UTF-8")
        assert [path.name for path in tmp_path.iterdir()] == [dataset.name]
    else:
        assert folder.is_dir()
    assert ran.out.rstrip("\n").isprintable()
    refused = run(*words, *more, "--output", tmp_path / "out", "--name", name)
    refused.failed(2, "printable", "--name")


def write_dataset(path: Path, clips: int = 3, frames: int = 24, size: int = 64) -> Path:
    """A prepared dataset of noise."""
    rng = np.random.default_rng(0)
    points = rng.uniform(0.2, 0.8, (68, 2))
    found = []
    for name in (f"clip{i}" for i in range(clips)):
        clip = path / "clips" / name
        clip.mkdir(parents=True)
        np.save(clip / "frames.npy", rng.integers(0, 256, (frames, size, size, 3), np.uint8))
        for features in ("mel", "mel-live"):
            heard = rng.normal(size=(2 * frames, 80)).astype(np.float16)
            np.save(clip / f"{features}.npy", heard)
        np.savez(
            clip / "track.npz",
            points_crop=(points + rng.normal(0, 0.01, (frames, 68, 2))).astype(np.float32),
            boxes=np.tile(np.array([32, 64, 8, 56], np.int32), (frames, 1)),
            centre_px=np.full((frames, 2), 32, np.float32),
            side_px=np.full(frames, 64, np.float32),
            times_s=np.arange(frames) / 25,
            found=np.ones(frames, bool),
        )
        facts = Clip(
            name=name, source="", sha256="", frames=frames, found=frames, fps=25.0, files={}
        )
        found.append(asdict(facts))
    manifest = {"version": VERSION, "config": {"size_px": size, "features": ["mel", "mel-live"]}}
    text = json.dumps({**manifest, "clips": found, "rejected": []})
    (path / "manifest.json").write_text(text)
    return path
