"""`difftalker dub`: what it prints, how it exits, and what it leaves behind."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from difftalker.media.decoder import end_idle
from difftalker.media.video import read_frames
from helpers_cli import FACE_FRAMES, Command, Ran, noise_images, write_video, write_wav


def test_an_unknown_sampler_is_wrong_use(
    run: Command, noise: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    ran = run("dub", noise, speech, "-a", debug_avatar, "-o", tmp_path / "o.mp4", "--sampler", "x")
    ran.failed(2, "'x'", "ddim")


def test_outputs_are_checked_before_work(
    run: Command, noise: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").touch()
    good = tmp_path / "o.mp4"

    def dub(output: Path, *more: str | Path) -> Ran:
        return run("dub", noise, speech, "--avatar", debug_avatar, "--output", output, *more)

    dub(tmp_path / "none" / "o.mp4").failed(1, "none", "mkdir -p")
    dub(tmp_path / "file" / "o.mp4").failed(1, "file")
    dub(tmp_path / "folder.mp4").failed(1, "folder.mp4", "is a folder")
    dub(tmp_path / "o.gif").failed(1, "'.gif'", ".mp4")
    dub(good, "--lossless").failed(1, "'.mp4'", ".mkv")
    dub(good, "--landmarks-out", tmp_path / "none" / "l.npz").failed(1, "none", "mkdir -p")
    dub(good, "--landmarks-out", tmp_path / "l.txt").failed(1, "'.txt'", ".npz")
    dub(noise).failed(2, "noise.mp4", "both input and output")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is open to the superuser")
def test_an_output_folder_closed_to_writing(
    run: Command, noise: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    tmp_path.chmod(0o500)
    ran = run("dub", noise, speech, "--avatar", debug_avatar, "--output", tmp_path / "o.mp4")
    tmp_path.chmod(0o700)
    ran.failed(1, "closed to writing")


@pytest.fixture
def tiny_files() -> Iterator[None]:
    """Every file ends at 192 kB, as on a disk that fills up on the way."""
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (192 << 10, usual[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    end_idle()  # those that began meanwhile have that limit


@pytest.mark.usefixtures("face", "tiny_files")  # the footage is written before the disk is full
def test_a_full_disk_leaves_no_video(
    run: Command, face: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    output = tmp_path / "o.mkv"  # lossless, and so larger than that
    ran = run("dub", face, speech, "--avatar", debug_avatar, "--output", output, "--lossless")
    assert "Matroska cannot carry content credentials" in ran.err
    assert ran.code == 1
    line = ran.err.strip().splitlines()[-1]
    assert all(text in line for text in ("could not write", "o.mkv", "free space"))
    # The hidden folder holds finished work, from which the same command goes on.
    assert {path.name for path in tmp_path.iterdir()} <= {".o.mkv.dubbing"}


def test_a_full_disk_leaves_no_landmarks(
    run: Command,
    face: Path,
    speech: Path,
    debug_avatar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"begun")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez_compressed", full)
    video, points = tmp_path / "o.mp4", tmp_path / "l.npz"
    words = ("dub", face, speech, "--avatar", debug_avatar, "--output", video)
    run(*words, "--landmarks-out", points).failed(1, "l.npz", "No space left", "free space")
    assert list(tmp_path.iterdir()) == [video]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda a: shutil.rmtree(a), "there is no avatar"),
        (lambda a: (a / "config.json").unlink(), "config.json is missing"),
        (lambda a: (a / "config.json").write_text("{"), "is damaged"),
        (lambda a: (a / "synthesis.safetensors").unlink(), "lacks its file synthesis.safetensors"),
        (lambda a: os.truncate(a / "completion.safetensors", 1000), "truncated or altered"),
        (lambda a: (a / "card.md").write_text("another"), "truncated or altered"),
    ],
    ids=["folder", "config", "json", "missing", "truncated", "altered"],
)
def test_a_damaged_avatar(
    run: Command,
    noise: Path,
    speech: Path,
    debug_avatar: Path,
    tmp_path: Path,
    damage: Callable[[Path], Any],
    said: str,
) -> None:
    damaged = shutil.copytree(debug_avatar, tmp_path / "damaged")
    damage(damaged)
    run("dub", noise, speech, "-a", damaged, "-o", tmp_path / "o.mp4").failed(1, "damaged", said)
    assert not (tmp_path / "o.mp4").exists()


def test_footage_that_cannot_be_used(
    run: Command, noise: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("these are words " * 100)
    (tmp_path / "cut.mp4").write_bytes(noise.read_bytes()[:200])
    write_video(tmp_path / "small.mp4", noise_images(5, 16, 16))

    def dub(video: Path) -> Ran:
        return run("dub", video, speech, "-a", debug_avatar, "-o", tmp_path / "out" / "o.mp4")

    (tmp_path / "out").mkdir()
    dub(tmp_path / "none.mp4").failed(1, "no such file")
    dub(tmp_path).failed(1, "is not a file")
    dub(tmp_path / "empty.mp4").failed(1, "empty")
    dub(tmp_path / "text.mp4").failed(1, "text.mp4", "not a media file")
    dub(tmp_path / "cut.mp4").failed(1, "cut.mp4")
    dub(speech).failed(1, "no video track")
    dub(noise).failed(1, "no face", "noise.mp4")
    dub(tmp_path / "small.mp4").failed(1, "small.mp4", "wanted")
    assert list((tmp_path / "out").iterdir()) == []


def test_sound_that_cannot_be_used(
    run: Command, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    mute = write_video(tmp_path / "mute.mp4", noise_images(2, 32, 32))
    nothing = write_wav(tmp_path / "nothing.wav", np.zeros(0))

    def dub(audio: Path) -> Ran:
        return run("dub", face, audio, "-a", debug_avatar, "-o", tmp_path / "out" / "o.mp4")

    (tmp_path / "out").mkdir()
    dub(tmp_path / "none.wav").failed(1, "no such file")
    dub(mute).failed(1, "no sound track")
    dub(nothing).failed(1, "nothing.wav", "wanted")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_network_at_the_first_start(
    run: Command,
    noise: Path,
    speech: Path,
    debug_avatar: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DIFFTALKER_OFFLINE", "1")
    monkeypatch.setenv("DIFFTALKER_CACHE", str(tmp_path / "cache"))
    ran = run("dub", noise, speech, "-a", debug_avatar, "-o", tmp_path / "o.mp4")
    ran.failed(1, "face_landmarker.task", "python -m difftalker.store.assets")
    assert not (tmp_path / "o.mp4").exists()


def test_dub_reports_what_it_made(
    run: Command, face: Path, speech: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    video, points = tmp_path / "o.mp4", tmp_path / "l.npz"
    words = ("dub", face, speech, "--avatar", debug_avatar, "--output", video, "--threads", "1")
    ran = run(*words, "--landmarks-out", points, "--steps", "1", "--seed", "3", "--json")
    assert ran.code == 0, ran.err
    record = ran.record
    assert (record["output"], record["landmarks"]) == (str(video), str(points))
    assert (record["frames"], record["frames_driven"]) == (FACE_FRAMES, FACE_FRAMES)
    assert (record["seed"], record["steps"], record["avatar"]) == (3, 1, "nobody")
    assert len(list(read_frames(video))) == FACE_FRAMES
    with np.load(points) as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
        side, centre = arrays["side_px"][:, None, None], arrays["centre_px"][:, None]
        back = (arrays["points_crop"] - 0.5) * side + centre
        np.testing.assert_allclose(back, arrays["points_px"], atol=1e-3)
    assert (
        shapes.items()
        >= {
            "times_s": (FACE_FRAMES,),
            "points_crop": (FACE_FRAMES, 68, 2),
            "points_px": (FACE_FRAMES, 68, 2),
            "found": (FACE_FRAMES,),
            "centre_px": (FACE_FRAMES, 2),
            "side_px": (FACE_FRAMES,),
            "boxes": (FACE_FRAMES, 4),
        }.items()
    )


def test_silence_and_large_pictures_work(
    run: Command, face: Path, debug_avatar: Path, tmp_path: Path
) -> None:
    images = [frame.image for frame in itertools.islice(read_frames(face), 2)]
    large = [np.asarray(cv2.resize(image, (3840, 2160)), np.uint8) for image in images]
    video = write_video(tmp_path / "large.mp4", large)
    silence = write_wav(tmp_path / "silence.wav", np.zeros(8000))
    ran = run("dub", video, silence, "-a", debug_avatar, "-o", tmp_path / "o.mp4")
    assert ran.code == 0, ran.err
    assert next(read_frames(tmp_path / "o.mp4")).image.shape == (2160, 3840, 3)
