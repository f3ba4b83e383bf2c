"""Jobs side by side give the bytes that each gives alone: nothing of them is process-wide."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
import torch

from difftalker.dubbing.avatar import Avatar
from synthetic import debug_avatar, located, pictures, still_track, write_footage, write_tone

FRAMES = 40


@pytest.fixture
def inputs(tmp_path: Path) -> list[tuple[Path, Path]]:
    """Two pairs of footage and speech that differ."""
    return [
        (
            write_footage(tmp_path / f"{seed}.mp4", pictures(FRAMES, seed)),
            write_tone(tmp_path / f"{seed}.wav", 1.6, pitch_hz=300 * (seed + 1)),
        )
        for seed in range(2)
    ]


def dubbed(avatar: Avatar, pair: tuple[Path, Path], output: Path, seed: int) -> bytes:
    where = located(pair[0], still_track(FRAMES))
    dub = avatar.dub(*pair, located=where, sampler="ddpm", steps=3, seed=seed)
    return dub.save(output).output.read_bytes()


def talked(avatar: Avatar, pair: tuple[Path, Path], output: Path, seed: int) -> bytes:
    talk = avatar.talk(pair[1], sampler="ddpm", steps=3, seed=seed)
    return talk.save(output).output.read_bytes()


@pytest.mark.parametrize("make", [dubbed, talked])
@pytest.mark.parametrize("shared", [True, False])
def test_two_jobs_in_two_threads_give_the_bytes_of_each_alone(
    inputs: list[tuple[Path, Path]],
    tmp_path: Path,
    make: Callable[[Avatar, tuple[Path, Path], Path, int], bytes],
    shared: bool,
) -> None:
    first = debug_avatar("both")
    avatars = [first, first if shared else debug_avatar("both")]
    alone = [make(avatars[i], inputs[i], tmp_path / f"alone{i}.mp4", i) for i in range(2)]
    assert alone[0] != alone[1]
    together = Barrier(2)

    def work(i: int) -> bytes:
        together.wait(60)
        return make(avatars[i], inputs[i], tmp_path / f"beside{i}.mp4", i)

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, range(2))) == alone


def test_the_fingerprint_knows_the_number_of_threads_now() -> None:
    avatar, threads = debug_avatar(), torch.get_num_threads()
    before = avatar.fingerprint
    try:
        torch.set_num_threads(threads + 1)
        assert avatar.fingerprint != before
    finally:
        torch.set_num_threads(threads)
    assert avatar.fingerprint == before
