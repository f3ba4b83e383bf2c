"""Work that was finished is never done again, and every way to the end gives the same bytes."""

from __future__ import annotations

import errno
import os
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from difftalker.dubbing import engine
from difftalker.dubbing.avatar import Avatar
from difftalker.dubbing.footage import TrackedFootage
from difftalker.dubbing.render_loop import CHUNK_FRAMES
from difftalker.errors import MediaError
from difftalker.landmarks.completer import TransformerCompleter
from difftalker.store.journal import file_hash
from helpers_dub import CHUNKS, FRAMES, forkserver
from synthetic import (
    debug_avatar,
    dub_to_end,
    located,
    pictures,
    still_track,
    write_footage,
    write_tone,
)

KILLS = 4


def stop_after(chunks: int) -> Any:
    """A progress that fails once so many chunks are rendered."""

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "render" and done > chunks * CHUNK_FRAMES:
            raise KeyboardInterrupt

    return progress


def test_a_run_that_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar, rendered: list[int]
) -> None:
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    alone = job.save(tmp_path / "alone.mp4").output
    assert len(rendered) == CHUNKS
    rendered.clear()
    output = tmp_path / "stopped.mp4"
    with pytest.raises(KeyboardInterrupt):
        job.save(output, progress=stop_after(2))
    assert not output.exists()
    done = len(rendered)
    assert 2 <= done < CHUNKS
    job.save(output)
    assert len(rendered) == CHUNKS, "each chunk was rendered once over both runs"
    assert output.read_bytes() == alone.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone.mp4", "stopped.mp4"]


def test_lossless_output_is_the_same_every_time(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar
) -> None:
    job = avatar.dub(*clip, located=located(clip[0], still_track(FRAMES)))
    hashes = {file_hash(job.save(tmp_path / f"{i}.mkv", lossless=True).output) for i in range(2)}
    assert len(hashes) == 1


def test_editing_a_span_renders_its_chunks_alone_again(
    tmp_path: Path, clip: tuple[Path, Path], avatar: Avatar, rendered: list[int]
) -> None:
    place = located(clip[0], still_track(FRAMES))
    output = tmp_path / "out.mp4"
    first = avatar.dub(*clip, located=place).save(output, keep_journal=True)
    edited = first.landmarks_crop.copy()
    edited[20:24, 48:68, 1] += 0.02
    rendered.clear()
    avatar.dub(*clip, located=place, landmarks=edited).save(output, keep_journal=True)
    assert rendered == [CHUNK_FRAMES], "the second chunk, and no other"
    after_edit = output.read_bytes()
    avatar.dub(*clip, located=place, landmarks=edited).save(tmp_path / "anew.mp4")
    assert (tmp_path / "anew.mp4").read_bytes() == after_edit


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 1}, {"sampler": "ddim"}])
def test_another_way_of_sampling_renders_everything_again(
    tmp_path: Path,
    clip: tuple[Path, Path],
    avatar: Avatar,
    rendered: list[int],
    change: dict[str, Any],
) -> None:
    place = located(clip[0], still_track(FRAMES))
    avatar.dub(*clip, located=place).save(tmp_path / "out.mp4", keep_journal=True)
    rendered.clear()
    avatar.dub(*clip, located=place, **change).save(tmp_path / "out.mp4")
    assert len(rendered) == CHUNKS


def test_another_avatar_or_another_number_of_threads_has_another_fingerprint(
    avatar: Avatar,
) -> None:
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


def test_a_rename_that_fails_leaves_the_earlier_output(
    tmp_path: Path,
    clip: tuple[Path, Path],
    avatar: Avatar,
    rendered: list[int],
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
    rendered.clear()
    job.save(output)
    assert rendered == []
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "whole.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_at_random_moments_and_resumed_to_the_same_bytes(
    tmp_path: Path, clip: tuple[Path, Path]
) -> None:
    context = forkserver()

    def ended(output: Path, killed_at: tuple[int, float] | None = None) -> int | None:
        run = context.Process(target=dub_to_end, args=(*clip, output, FRAMES, killed_at))
        run.start()
        run.join(300)
        return cast("int | None", run.exitcode)

    whole, output = tmp_path / "whole.mp4", tmp_path / "killed.mp4"
    assert ended(whole) == 0
    chance = random.Random(5)
    killed = 0
    for _ in range(KILLS):
        code = ended(output, (chance.randrange(FRAMES // KILLS), chance.uniform(0, 0.02)))
        killed += code == -signal.SIGKILL
        assert code in (0, -signal.SIGKILL)
        assert not output.exists() or output.read_bytes() == whole.read_bytes()
    assert killed, "every run ended before its kill"
    assert ended(output) == 0
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

    monkeypatch.setattr(engine, "locate", by_hand)
    first = avatar.dub(*clip).save(tmp_path / "out.mp4", keep_journal=True)
    again = avatar.dub(*clip).save(tmp_path / "out.mp4", keep_journal=True)
    assert len(calls) == 1
    assert again.located.track.cuts.tolist() == first.located.track.cuts.tolist() == [30]
    other = write_footage(tmp_path / "other.mp4", pictures(FRAMES, seed=1))
    avatar.dub(other, clip[1]).save(tmp_path / "out.mp4")
    assert len(calls) == 2
