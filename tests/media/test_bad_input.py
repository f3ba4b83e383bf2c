"""Files that are no media, lack a track, or break off."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from difftalker.errors import MediaError
from difftalker.media.audio import probe_audio, read_audio
from difftalker.media.video import probe_video, read_frames
from media.made import (
    gradient,
    psnr_db,
    tone,
    write_sound,
    write_video,
    write_with,
)


def _reads(path: Path) -> Iterator[Callable[[], object]]:
    yield from (
        lambda: probe_video(path),
        lambda: list(read_frames(path)),
        lambda: probe_audio(path),
        lambda: read_audio(path),
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.mp4", None, "no such file"),
        ("empty.mp4", b"", "is empty"),
        ("text.txt", b"hello world\n" * 500, "is not a media file"),
        ("text.mp4", b"hello world\n" * 500, "is not a media file"),
        ("noise.mp4", np.random.default_rng(0).bytes(20_000), "is not a media file"),
        ("noise.wav", np.random.default_rng(1).bytes(20_000), "is not a media file"),
        ("noise.mkv", np.random.default_rng(2).bytes(20_000), "is not a media file"),
    ],
)
def test_what_is_no_media_file(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for read in _reads(path):
        with pytest.raises(MediaError, match=message) as error:
            read()
        assert name in str(error.value)
        assert "\n" not in str(error.value)


def test_a_folder_is_no_media_file(tmp_path: Path) -> None:
    for read in _reads(tmp_path):
        with pytest.raises(MediaError, match="is not a file"):
            read()


def test_sound_without_picture_and_picture_without_sound(tmp_path: Path) -> None:
    sound = write_sound(tmp_path / "a.wav", tone(16_000, 0.5), 16_000)
    for read in (probe_video, lambda path: next(read_frames(path))):
        with pytest.raises(MediaError, match="has no video track"):
            read(sound)
    picture = write_with(tmp_path / "a.mp4", [gradient(32, 32)] * 3)
    for read_sound in (probe_audio, read_audio):
        with pytest.raises(MediaError, match="has no sound track"):
            read_sound(picture)


def test_sound_of_zero_length(tmp_path: Path) -> None:
    whole = write_sound(tmp_path / "a.wav", tone(16_000, 0.5), 16_000).read_bytes()
    header = tmp_path / "header.wav"
    header.write_bytes(whole[: whole.index(b"data") + 4] + bytes(4))
    with pytest.raises(MediaError, match="holds no sound"):
        read_audio(header)


@pytest.mark.parametrize("size", [(12, 64), (64, 12), (8, 8), (8400, 16)])
def test_frames_of_a_size_out_of_range(tmp_path: Path, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "a.mkv", [gradient(*size)], "ffv1", "bgr0")
    for read in (probe_video, lambda path: next(read_frames(path))):
        with pytest.raises(MediaError, match=f"{size[0]} x {size[1]}.*16 to 8192"):
            read(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_cut_tail_gives_what_decodes(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    images = [np.repeat(rng.integers(0, 256, (48, 64, 1), dtype=np.uint8), 3, 2) for _ in range(50)]
    path = write_with(tmp_path / name, images)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(path))
    assert 15 <= len(frames) <= 35
    assert path.name in caplog.text
    for frame, image in zip(frames[:10], images, strict=False):
        assert psnr_db(frame.image, image) > 15


def test_an_overwritten_tail_gives_what_decodes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(60)]
    path = write_video(tmp_path / "a.nut", images, options={"bf": "2"})
    content = path.read_bytes()
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    with caplog.at_level(logging.WARNING):
        frames = list(read_frames(path))
    assert 29 <= len(frames) <= 31  # those that wait in the decoder are not lost
    assert "breaks off" in caplog.text


def test_a_file_cut_before_its_first_frame(tmp_path: Path) -> None:
    path = write_with(tmp_path / "a.mp4", [gradient(64, 48)] * 5)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"mdat") + 4])
    for read in (probe_video, lambda path: list(read_frames(path))):
        with pytest.raises(MediaError, match=r"no frame of|is not a media file"):
            read(path)
