"""Work that was finished is never done again, and every way to the end gives the same bytes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.core.files import whole_file
from difftalker.dubbing import dub
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.render_loop import CHUNK_FRAMES
from difftalker.errors import MediaError
from difftalker.landmarks.completer import TransformerCompleter
from difftalker.store import journal as journal_module
from difftalker.store.journal import Journal, file_hash, key_of, pack, unpack
from synthetic import (
    count_rendered,
    debug_avatar,
    dub_to_end,
    located,
    pictures,
    still_track,
    write_footage,
    write_tone,
)

FRAMES = 72
CHUNKS = -(-FRAMES // CHUNK_FRAMES)
KILLS = 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("clip")
    return (
        write_footage(folder / "footage.mp4", pictures(FRAMES)),
        write_tone(folder / "speech.wav", FRAMES / 25),
    )


@pytest.fixture(scope="module")
def avatar() -> Avatar:
    return debug_avatar()


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each call of the renderer had."""
    return count_rendered(monkeypatch)


def forkserver() -> Any:
    """Processes forked from a server that has the libraries loaded: they start at once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["difftalker.dubbing.avatar", "difftalker.dubbing.networks"])
    return context


def stop_after(chunks: int) -> Any:
    """A progress that fails once so many chunks are painted."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "render" and done > chunks * CHUNK_FRAMES:
            raise KeyboardInterrupt

    return progress


def test_pieces_come_back_and_damaged_ones_do_not(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.mp4", keep=True) as journal:
        journal.put("faces", key_of(1), b"one")
        assert journal.get("faces", key_of(1)) == b"one"
        assert journal.get("track", key_of(1)) is None
        assert journal.get("faces", key_of(2)) is None
        (piece,) = journal.folder.glob("faces-*")
        whole = piece.read_bytes()
        for damaged in (whole[:-1], whole[:7], b"", whole[:-1] + b"x"):
            piece.write_bytes(damaged)
            assert journal.get("faces", key_of(1)) is None


def test_arrays_are_packed_and_keyed_by_content() -> None:
    arrays: dict[str, NDArray[Any]] = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.array([np.nan, 1], np.float32),
    }
    back = unpack(pack(arrays))
    assert all(np.array_equal(back[k], arrays[k], equal_nan=k == "b") for k in arrays)
    assert back["b"].dtype == np.float32
    a = np.arange(6)
    same = key_of(a, "x", 1)
    assert same == key_of(a.copy(), "x", 1)
    others: list[tuple[object, ...]] = [
        (a.reshape(2, 3), "x", 1),
        (a.astype(np.int32), "x", 1),
        (a + 1, "x", 1),
    ]
    others += [(a, "x1"), (a, "", "x", 1), (a, "x", "1")]
    assert len({same, *(key_of(*other) for other in others)}) == len(others) + 1


def put_and_fail(journal: Journal) -> None:
    journal.put("faces", key_of(1), b"one")
    raise MediaError("the disk is full")


def test_the_folder_goes_after_success_and_stays_after_failure(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.mp4")
    with journal:
        journal.put("faces", key_of(1), b"one")
    assert not any(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt), journal:
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir()), "nothing was finished: nothing is kept"
    with pytest.raises(MediaError), journal:
        put_and_fail(journal)
    (journal.folder / ".out.half.mp4").write_bytes(b"half a video of a killed run")
    with Journal(tmp_path / "out.mp4", keep=True) as again:
        assert again.get("faces", key_of(1)) == b"one"
        again.put("faces", key_of(2), b"two")
    with Journal(tmp_path / "out.mp4", keep=True) as again:
        assert again.get("faces", key_of(2)) == b"two"
    left = [path.name for path in journal.folder.iterdir()]
    assert left == [f"faces-{key_of(2)[:40]}"], "only what the last run used is kept"


def test_a_second_run_is_refused_in_one_line(tmp_path: Path) -> None:
    with Journal(tmp_path / "out.mp4"):
        with pytest.raises(MediaError, match=f"process {os.getpid()} ") as refused:
            Journal(tmp_path / "out.mp4").__enter__()
        assert "\n" not in str(refused.value)
        with Journal(tmp_path / "other.mp4"):
            pass
    with Journal(tmp_path / "out.mp4"):
        pass


HOLD = """
import sys, time
from pathlib import Path
from difftalker.store.journal import Journal
with Journal(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_of_a_killed_run_is_free(tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    run = subprocess.Popen([sys.executable, "-c", HOLD, str(output)], stdout=subprocess.PIPE)
    assert run.stdout is not None
    assert run.stdout.readline() == b"held\n"
    with pytest.raises(MediaError, match=f"process {run.pid} "):
        Journal(output).__enter__()
    run.kill()
    run.communicate()
    with Journal(output) as journal:
        assert str(os.getpid()) in (journal.folder / "holder").read_text()
    assert not any(tmp_path.iterdir())


def test_files_of_a_lock_alone_hold_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out.mp4")
    journal.folder.mkdir()
    (journal.folder / "lock").write_text("1 1 elsewhere.example\n")
    (journal.folder / "holder").write_bytes(b"\xff")
    with journal:
        pass
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="there is no forkserver")
def test_of_many_runs_at_once_one_gets_the_output(tmp_path: Path) -> None:
    """Several processes come and go; at no time do two of them hold the same output."""
    context = forkserver()
    start, inside = context.Event(), context.Array("i", 2)
    runs = [
        context.Process(target=take_and_count, args=(tmp_path / "out.mp4", start, inside))
        for _ in range(6)
    ]
    for run in runs:
        run.start()
    start.set()
    for run in runs:
        run.join(30)
    assert [run.exitcode for run in runs] == [0] * len(runs)
    assert inside[1] == 1, "two runs held the output at once"


def take_and_count(output: Path, start: Event, inside: Any) -> None:
    """Hold the output a few times; ``inside`` is how many hold it now, and the most that did."""
    start.wait(30)
    for _ in range(20):
        try:
            with Journal(output):
                with inside.get_lock():
                    inside[0] += 1
                    inside[1] = max(inside[1], inside[0])
                time.sleep(0.002)
                with inside.get_lock():
                    inside[0] -= 1
        except MediaError:
            time.sleep(0.002)


def test_a_run_that_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar, painted: list[int]
) -> None:
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    alone = job.save(tmp_path / "alone.mp4").output
    assert len(painted) == CHUNKS
    painted.clear()
    output = tmp_path / "stopped.mp4"
    with pytest.raises(KeyboardInterrupt):
        job.save(output, progress=stop_after(2))
    assert not output.exists()
    done = len(painted)
    assert 2 <= done < CHUNKS
    job.save(output)
    assert len(painted) == CHUNKS, "each chunk was painted once over both runs"
    assert output.read_bytes() == alone.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.mp4", "stopped.mp4"]


def test_lossless_output_is_the_same_every_time(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar
) -> None:
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    hashes = {file_hash(job.save(tmp_path / f"{i}.mkv", lossless=True).output) for i in range(2)}
    assert len(hashes) == 1


def test_editing_a_span_repaints_its_chunks_alone(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar, painted: list[int]
) -> None:
    place = located(clip[0], still_track(FRAMES))
    output = tmp_path / "out.mp4"
    first = avatar.dub(*clip, located=place).save(output, keep_journal=True)
    edited = first.landmarks_crop.copy()
    edited[20:24, 48:68, 1] += 0.02
    painted.clear()
    avatar.dub(*clip, located=place, landmarks=edited).save(output, keep_journal=True)
    assert painted == [CHUNK_FRAMES], "the second chunk, and no other"
    after_edit = output.read_bytes()
    avatar.dub(*clip, located=place, landmarks=edited).save(tmp_path / "anew.mp4")
    assert (tmp_path / "anew.mp4").read_bytes() == after_edit


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 1}, {"sampler": "ddim"}])
def test_another_way_of_sampling_repaints_everything(
    tmp_path: Path,
    clip: tuple[Path, Path],
    avatar: Avatar,
    painted: list[int],
    change: dict[str, Any],
) -> None:
    place = located(clip[0], still_track(FRAMES))
    avatar.dub(*clip, located=place).save(tmp_path / "out.mp4", keep_journal=True)
    painted.clear()
    avatar.dub(*clip, located=place, **change).save(tmp_path / "out.mp4")
    assert len(painted) == CHUNKS


def test_another_avatar_or_another_number_of_threads_is_told_apart(avatar: Avatar) -> None:
    import torch

    same, other = debug_avatar(), debug_avatar()
    with torch.no_grad():
        next(iter(other.networks.autoencoder.parameters())).add_(1e-3)
    before = avatar.fingerprint
    assert same.fingerprint == before
    assert other.fingerprint != before
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert debug_avatar().fingerprint != before
    finally:
        torch.set_num_threads(threads)


def test_a_full_disk_is_said_and_the_same_call_goes_on(
    tmp_path: Path,
    clip: tuple[Path, Path],
    avatar: Avatar,
    painted: list[int],
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
    painted.clear()
    job.save(tmp_path / "out.mp4")
    assert len(painted) == CHUNKS - kept


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
    painted: list[int],
) -> None:
    """More and more room: the journal's pieces stop it, then the video, then nothing does."""
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    job.save(tmp_path / "out.mkv", lossless=True)
    output, told, room = small_disk / "out.mkv", list[str](), 0
    output.write_bytes(b"earlier")
    painted.clear()
    while output.read_bytes() == b"earlier":
        leave_free(small_disk, room)
        try:
            job.save(output, lossless=True)
        except MediaError as error:
            told.append(str(error))
            assert not list(small_disk.glob(".*.dubbing/*.mkv")), "half a video"
        room += 130_000
    assert output.read_bytes() == (tmp_path / "out.mkv").read_bytes()
    assert {path.name for path in small_disk.iterdir()} == {"out.mkv", "filler"}
    of_the_journal = [one for one in told if ".out.mkv.dubbing: No space left" in one]
    of_the_video = [one for one in told if "/out.mkv: No space left" in one]
    assert of_the_journal
    assert of_the_video
    assert len(told) == len(of_the_journal) + len(of_the_video)
    # Each stop loses one chunk at most: the one for which the journal has no room, which is
    # painted while the video is written. What is kept is not done again.
    assert CHUNKS <= len(painted) <= CHUNKS + len(told)


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
    leave_free(small_disk, len(whole) + 4 * page)
    job.save(output)
    assert output.read_bytes() == whole
    assert {path.name for path in small_disk.iterdir()} == {"out.mp4", "filler"}


def test_a_rename_that_fails_leaves_the_earlier_output(
    tmp_path: Path,
    clip: tuple[Path, Path],
    avatar: Avatar,
    painted: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    whole, output = tmp_path / "whole.mp4", tmp_path / "out.mp4"
    job.save(whole)
    output.write_bytes(b"earlier")

    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(MediaError, match=r"could not write .*out\.mp4: No space left"):
            job.save(output)
    assert output.read_bytes() == b"earlier"
    painted.clear()
    job.save(output)
    assert painted == []
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "whole.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_at_random_moments_and_resumed_to_the_same_bytes(
    tmp_path: Path, clip: tuple[Path, Path]
) -> None:
    context = forkserver()

    def begun(output: Path) -> Any:
        run = context.Process(target=dub_to_end, args=(*clip, output, FRAMES))
        run.start()
        return run

    whole = tmp_path / "whole.mp4"
    began = time.monotonic()
    run = begun(whole)
    run.join(300)
    seconds = time.monotonic() - began
    assert run.exitcode == 0
    chance, killed = random.Random(5), 0
    output = tmp_path / "killed.mp4"
    for _ in range(KILLS):
        run = begun(output)
        run.join(chance.uniform(0.1, 0.9) * seconds)
        run.kill()
        run.join()
        killed += run.exitcode != 0
        assert not output.exists() or output.read_bytes() == whole.read_bytes()
    assert killed, "every run ended before its kill"
    run = begun(output)
    run.join(300)
    assert run.exitcode == 0
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.mp4", "whole.mp4"]


def test_landmarks_wait_too(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = located(clip[0], still_track(FRAMES))
    first = avatar.dub(*clip, located=place).save(tmp_path / "out.mp4", keep_journal=True)
    shorter = write_tone(tmp_path / "other.wav", 1.0, pitch_hz=300)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("completed again")

    with monkeypatch.context() as patch:
        patch.setattr(TransformerCompleter, "complete", never)
        again = avatar.dub(*clip, located=place).save(tmp_path / "out.mp4", keep_journal=True)
        assert np.array_equal(again.landmarks_crop, first.landmarks_crop)
        with pytest.raises(AssertionError, match="completed again"):
            avatar.dub(clip[0], shorter, located=place).save(tmp_path / "out.mp4")


def test_the_track_of_unchanged_footage_is_not_sought_again(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def by_hand(video: Path, *_: object, **__: object) -> TrackedFootage:
        calls.append(video)
        face = replace(still_track(FRAMES), cuts=np.array([30]))
        return located(video, face)

    monkeypatch.setattr(dub, "locate", by_hand)
    first = avatar.dub(*clip).save(tmp_path / "out.mp4", keep_journal=True)
    again = avatar.dub(*clip).save(tmp_path / "out.mp4", keep_journal=True)
    assert len(calls) == 1
    assert again.located.track.cuts.tolist() == first.located.track.cuts.tolist() == [30]
    other = write_footage(tmp_path / "other.mp4", pictures(FRAMES, seed=1))
    avatar.dub(other, clip[1]).save(tmp_path / "out.mp4")
    assert len(calls) == 2
