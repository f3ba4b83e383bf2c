"""The watermark: read again from pictures that were encoded, scaled and trimmed, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from difftalker.marks.code import CODED_BITS, Message
from difftalker.marks.watermark import Found, Mean, Watermark, copies, find
from difftalker.media.video import VideoWriter, read_frames
from difftalker.metrics import psnr
from difftalker.packaged import samples

Image = NDArray[np.uint8]
MESSAGE = Message(maker=0xC0FFEE, job=0x123456)
FRAMES = 25
GOLDEN_CODE = "0000000000000000077f19c000000000003be54b685e2137debe00"
GOLDEN_STEPS = [
    [0, 0, 1, 1, 0, 0, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0],
    [0, 0, 1, 1, 0, 0, 0, -1, -1, -1, -1, 0, 0, 0, 0, 0],
    [0, 0, 1, 1, 0, 0, 0, 0, -1, -1, 0, 0, 0, 0, 0, 0],
    [0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
]


@pytest.fixture(scope="module")
def footage() -> list[Image]:
    """A second of the packaged footage, 360 x 288."""
    frames = [frame.image for frame in read_frames(samples.footage())][:FRAMES]
    return resized(frames, (360, 288))


def resized(images: Sequence[Image], size: tuple[int, int]) -> list[Image]:
    return [np.asarray(cv2.resize(one, size, interpolation=cv2.INTER_AREA)) for one in images]


def marked(images: Sequence[Image], message: Message = MESSAGE) -> list[Image]:
    watermark = Watermark(message, images[0].shape[1], images[0].shape[0])
    return [watermark.mark(one) for one in images]


def encoded(images: Sequence[Image], path: Path, crf: int) -> list[Image]:
    height, width = images[0].shape[:2]
    with VideoWriter(
        path, width=width, height=height, fps=25, time_base=Fraction(1, 25), crf=crf
    ) as writer:
        for i, image in enumerate(images):
            writer.write(image, i)
    return [frame.image for frame in read_frames(path)]


def found_in(images: Sequence[Image]) -> Found | None:
    mean = Mean()
    for image in images:
        mean.add(image)
    return find(mean.value)


def test_a_message_comes_back_through_noise() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(CODED_BITS)
    assert Message.from_soft(MESSAGE.to_signs() + 0.9 * noise) == MESSAGE
    assert Message.from_soft(noise) is None


def test_a_message_is_sent_as_it_always_was() -> None:
    """The format of the watermark: another code could not read videos of before."""
    signs = Message(maker=1, job=2).to_signs()
    assert len(signs) == CODED_BITS == 210
    assert bytes(np.packbits(signs > 0)).hex() == GOLDEN_CODE


def test_the_pattern_is_as_it_always_was() -> None:
    grey = np.full((288, 360, 3), 128, np.uint8)
    steps = Watermark(MESSAGE, 360, 288).mark(grey)[100:104, 100:116, 0].astype(int) - 128
    assert steps.tolist() == GOLDEN_STEPS


def test_it_is_read_after_encoding_scaling_and_trimming(
    footage: list[Image], tmp_path: Path
) -> None:
    first = encoded(marked(footage), tmp_path / "first.mp4", 14)
    smaller = resized(first, (270, 216))
    ways = {
        "as it is": first,
        "trimmed": first[9:20],
        "crf 28": encoded(first, tmp_path / "28.mp4", 28),
        "75 %": encoded(smaller, tmp_path / "75.mp4", 23),
        "twice as large": resized(first, (720, 576)),
    }
    found = {name: found_in(images) for name, images in ways.items()}
    assert {name: one and one.message for name, one in found.items()} == dict.fromkeys(
        ways, MESSAGE
    )
    assert all(one is not None and one.chance < 1e-12 for one in found.values())


def test_it_is_faint(footage: list[Image]) -> None:
    assert psnr(np.stack(marked(footage)), np.stack(footage)) > 46


def test_large_pictures_show_it_several_times(footage: list[Image]) -> None:
    size = (1920, 1080)
    assert copies(*size) == 3
    images = marked(resized(footage[:3], size))
    found = found_in(images)
    assert found is not None
    assert (found.message, found.copies) == (MESSAGE, 3)
    smaller = found_in(resized(images, (size[0] // 3, size[1] // 3)))
    assert smaller is not None
    assert smaller.message == MESSAGE


@pytest.mark.parametrize("size", [(360, 288), (288, 360), (1080, 1920)])
def test_it_is_read_from_pictures_full_of_detail(
    footage: list[Image], size: tuple[int, int]
) -> None:
    small = resized(footage, (size[0] // 3, size[1] // 3))
    found = found_in(marked([np.tile(one, (3, 3, 1)) for one in small]))
    assert found is not None
    assert found.message == MESSAGE
    assert found.chance < 1e-40


def test_nothing_is_found_where_nothing_is(footage: list[Image]) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (288, 360, 3), np.uint8) for _ in range(3)]
    flat = [np.full((288, 360, 3), 128, np.uint8)]
    tiny = [np.zeros((16, 16, 3), np.uint8)]
    assert [found_in(images) for images in (footage, noise, flat, tiny)] == [None] * 4
