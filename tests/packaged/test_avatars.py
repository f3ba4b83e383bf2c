"""The packaged avatar makes what it made: landmarks and pixels, beside a stored slice of them."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import make_avatar_golden as golden
from difftalker import config as configs
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.footage import TrackedFootage
from difftalker.errors import AssetError
from difftalker.packaged import samples
from difftalker.store import assets, avatars

MOST_MOVED_CROP = 5e-4
"""A tenth of a pixel of the crop."""
LEAST_PSNR_DB = 45.0
"""Computed in bfloat16 in place of float32 the pixels are 56 dB beside each other."""
DELAY_S = 0.2


@dataclass(frozen=True)
class Made:
    """What the avatar makes now."""

    avatar: Avatar
    footage: TrackedFootage
    points_crop: NDArray[np.float32]


@pytest.fixture(scope="module")
def made() -> Made:
    try:
        for name in ("whisper_tiny_en", "face_landmarker"):
            assets.path(name)
    except AssetError as error:
        pytest.skip(f"weights cannot be had: {error}")
    avatar = load(samples.AVATAR)
    footage = golden.located(avatar)
    return Made(avatar, footage, avatar.complete(footage, samples.speech()))


def stored(name: str) -> NDArray[np.float32]:
    with np.load(golden.GOLDEN) as file:
        return np.asarray(file[name], np.float32)


def moved_crop(points_crop: NDArray[np.float32]) -> float:
    """How far the landmark lies that is farthest from where it is stored."""
    gaps = points_crop[golden.LANDMARK_FRAMES] - stored("landmarks_crop")
    return float(np.linalg.norm(gaps, axis=-1).max())


def psnr_db(pictures: NDArray[np.uint8]) -> float:
    """That of the picture that is least like the stored one."""
    errors = np.square(pictures - stored("lower_faces")).mean((1, 2, 3))
    return float(10 * np.log10(255**2 / max(errors.max(), 1e-9)))


def delayed(folder: Path) -> Path:
    """The packaged speech, later by ``DELAY_S``."""
    path = folder / "delayed.wav"
    with wave.open(str(samples.speech()), "rb") as file:
        params, sound = file.getparams(), file.readframes(file.getnframes())
    silence = bytes(round(DELAY_S * params.framerate) * params.sampwidth * params.nchannels)
    with wave.open(str(path), "wb") as file:
        file.setparams(params)
        file.writeframes(silence + sound)
    return path


@contextmanager
def swapped(weight: Tensor, axis: int, pairs: int = 1) -> Iterator[None]:
    """The first channels of a weight change places, two by two."""
    original = weight.clone()
    order = [i ^ 1 if i < 2 * pairs else i for i in range(weight.shape[axis])]
    with torch.no_grad():
        weight.copy_(original.index_select(axis, torch.tensor(order)))
        try:
            yield
        finally:
            weight.copy_(original)


def test_landmarks_are_as_stored(made: Made) -> None:
    assert moved_crop(made.points_crop) < MOST_MOVED_CROP


def test_landmarks_of_later_speech_are_others(made: Made, tmp_path: Path) -> None:
    points = made.avatar.complete(made.footage, delayed(tmp_path))
    assert moved_crop(points) > 20 * MOST_MOVED_CROP


@pytest.mark.parametrize(
    "name",
    ["lf_trans.head.3.weight", "bm_trans.head.3.weight", "am_trans.head.3.weight",
     "least_squares.from_speech"],
)  # fmt: skip
def test_landmarks_of_a_network_with_swapped_coordinates_are_others(made: Made, name: str) -> None:
    weight = made.avatar.networks.completion.state_dict()[name]
    with swapped(weight, 0, pairs=len(weight) // 2):
        points = made.avatar.complete(made.footage, samples.speech())
    assert moved_crop(points) > 3 * MOST_MOVED_CROP


def test_lower_faces_are_as_stored(made: Made) -> None:
    pictures = golden.lower_faces(made.avatar, made.footage, made.points_crop)
    assert psnr_db(pictures) > LEAST_PSNR_DB


def test_lower_faces_of_moved_landmarks_are_others(made: Made) -> None:
    """Two frames later: as far as a window that is shifted by a twelfth of a second."""
    later = np.roll(made.points_crop, -2, axis=0)
    assert psnr_db(golden.lower_faces(made.avatar, made.footage, later)) < LEAST_PSNR_DB - 5


@pytest.mark.parametrize(
    ("network", "name", "axis"),
    [
        ("synthesis", "branch.stem.0.weight", 1),
        ("synthesis", "prior.unet.conv_in.weight", 1),
        ("autoencoder", "kl.encoder.conv_out.weight", 0),
        ("autoencoder", "kl.decoder.conv_out.weight", 0),
    ],
)
def test_lower_faces_of_a_network_with_swapped_channels_are_others(
    made: Made, network: str, name: str, axis: int
) -> None:
    with swapped(getattr(made.avatar.networks, network).state_dict()[name], axis):
        pictures = golden.lower_faces(made.avatar, made.footage, made.points_crop)
    assert psnr_db(pictures) < LEAST_PSNR_DB - 5


def test_the_packaged_avatar_has_the_options_at_default() -> None:
    model = avatars.read("grid-s1").config
    tiny = configs.preset("tiny").model
    assert (model.mask, model.synthesis.guidance) == (tiny.mask, tiny.synthesis.guidance)
    assert not model.synthesis.tune_prior
