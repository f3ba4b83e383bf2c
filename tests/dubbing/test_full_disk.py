"""A disk that fills up: the earlier output stays, and the same call goes on."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from difftalker.core.files import whole_file
from difftalker.dubbing.avatar import Avatar
from difftalker.errors import MediaError
from difftalker.store import journal as journal_module
from helpers_dub import CHUNKS, FRAMES
from synthetic import located, still_track


def test_a_full_disk_is_reported_and_the_same_call_goes_on(
    tmp_path: Path,
    clip: tuple[Path, Path],
    avatar: Avatar,
    rendered: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    room = [4]  # landmarks, light, and two chunks

    def fills_up(path: Path, data: bytes) -> None:
        with whole_file(path) as file:
            file.write(data[: len(data) // 2])
            room[0] -= 1
            if room[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            file.write(data[len(data) // 2 :])

    with monkeypatch.context() as patch:
        patch.setattr(journal_module, "write_whole", fills_up)
        with pytest.raises(MediaError, match=r"No space left.*same command"):
            job.save(tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == [".out.mp4.dubbing"]
    assert not list((tmp_path / ".out.mp4.dubbing").glob(".*")), "half a piece"
    kept = len(list((tmp_path / ".out.mp4.dubbing").glob("faces-*")))
    assert kept == 2
    rendered.clear()
    job.save(tmp_path / "out.mp4")
    assert len(rendered) == CHUNKS - kept


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, in memory; only the superuser may mount it."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        how = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
        subprocess.run(how, check=True, capture_output=True, timeout=30)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"no small disk can be mounted: {error}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True, timeout=30)


def leave_free(disk: Path, room: int) -> None:
    """Fill a disk but for so many bytes."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    there = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, there.f_bavail * there.f_frsize - room)))


def test_a_disk_that_is_really_full(
    tmp_path: Path,
    small_disk: Path,
    clip: tuple[Path, Path],
    avatar: Avatar,
    rendered: list[int],
) -> None:
    """More and more room: the journal's pieces stop it, then the video, then nothing does."""
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    job.save(tmp_path / "out.mkv", lossless=True)
    output, messages, room = small_disk / "out.mkv", list[str](), 0
    output.write_bytes(b"earlier")
    rendered.clear()
    while output.read_bytes() == b"earlier":
        leave_free(small_disk, room)
        try:
            job.save(output, lossless=True)
        except MediaError as error:
            messages.append(str(error))
            assert not list(small_disk.glob(".*.dubbing/*.mkv")), "half a video"
        room += 130_000
    assert output.read_bytes() == (tmp_path / "out.mkv").read_bytes()
    assert {path.name for path in small_disk.iterdir()} == {"out.mkv", "filler"}
    of_the_journal = [one for one in messages if ".out.mkv.dubbing: No space left" in one]
    of_the_video = [one for one in messages if "/out.mkv: No space left" in one]
    assert of_the_journal
    assert of_the_video
    assert len(messages) == len(of_the_journal) + len(of_the_video)
    # Each stop loses one chunk at most: the one for which the journal has no room, which is
    # rendered while the video is written. What is kept is not done again.
    assert CHUNKS <= len(rendered) <= CHUNKS + len(messages)


def test_the_last_pages_of_a_video_have_no_room(
    tmp_path: Path, small_disk: Path, clip: tuple[Path, Path], avatar: Avatar
) -> None:
    """The end of an MP4 file is written after all frames, its index then moved to the front."""
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    page = os.sysconf("SC_PAGE_SIZE")
    output = small_disk / "out.mp4"
    job.save(output, keep_journal=True)
    whole = output.read_bytes()
    output.write_bytes(b"earlier")
    for missing in (8, 2, 1):
        leave_free(small_disk, (-(-len(whole) // page) - missing) * page)
        with pytest.raises(MediaError, match=r"could not write .*/out\.mp4: No space left"):
            job.save(output)
        assert output.read_bytes() == b"earlier"
    leave_free(small_disk, 2 * len(whole) + 8 * page)  # a file is signed into another one
    job.save(output)
    assert output.read_bytes() == whole
    assert {path.name for path in small_disk.iterdir()} == {"out.mp4", "filler"}
