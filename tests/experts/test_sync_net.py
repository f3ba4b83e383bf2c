"""The sync expert: distances by hand, time, the network and its training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from difftalker.data.dataset import load_people
from difftalker.experts.sync_net import (
    FRAME_RATE_HZ,
    MOUTH_PX,
    SyncConfig,
    SyncNet,
    frames_at_rate,
    grey_mouth,
    offset_distances,
    read_score,
    shift_discrimination,
    sound_of_frames,
    whole_windows,
)
from difftalker.experts.syncnet_v2 import (
    padded_offset_distances,
)
from difftalker.store import experts as expert
from difftalker.training.experts import train_expert
from difftalker.training.sync_task import (
    RAREST,
    SyncTask,
    contrastive_losses,
    spoil_pictures,
    spoil_sound,
)
from helpers import write_dataset

SAMPLE_RATE_HZ = 16_000


# Distances, worked by hand


def on_a_line(*places: float) -> Tensor:
    """Embeddings of one number each."""
    return torch.tensor(places, dtype=torch.float32)[:, None]


def test_offsets_compare_what_both_have() -> None:
    picture, sound = on_a_line(0, 1, 4), on_a_line(7, 0, 1)
    distances = offset_distances(picture, sound, reach=3)
    # At +1: |0 - 0| and |1 - 1|. At 0: 7, 1, 3. At -1: |1 - 7|, |4 - 0|. At 2: |0 - 1|.
    assert distances[1:6].tolist() == pytest.approx([3, 5, 11 / 3, 0, 1])
    assert distances[[0, 6]].isnan().all()
    score = read_score(distances)
    assert (score.offset_frames, score.distance, score.confidence) == (1, 0, 3)


def test_the_published_evaluation_compares_with_zeros_beyond_the_ends() -> None:
    picture, sound = on_a_line(0, 1, 4), on_a_line(7, 0, 1)
    distances = padded_offset_distances(picture, sound, reach=3)
    sums = [0 + 1 + 4, 0 + 1 + 3, 0 + 6 + 4, 7 + 1 + 3, 0 + 0 + 4, 1 + 1 + 4, 0 + 1 + 4]
    assert distances.tolist() == pytest.approx([s / 3 for s in sums], abs=1e-5)
    score = read_score(distances)
    # The least is 4 / 3 twice; the first counts. The median of the seven is 5 / 3.
    assert score.offset_frames == -2
    assert (score.distance, score.confidence) == pytest.approx((4 / 3, 1 / 3), abs=1e-5)


def test_windows_without_a_face_do_not_count() -> None:
    picture, sound = on_a_line(0, 1, 2, 3), on_a_line(0, 1, 2, 3)
    picture[2] = torch.nan
    assert offset_distances(picture, sound, reach=1).tolist() == pytest.approx([1, 0, 1])
    found = np.array([1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1], bool)
    assert whole_windows(found).tolist() == [True, True, *[False] * 5, True]


def test_nothing_to_compare_is_not_a_number() -> None:
    score = read_score(offset_distances(on_a_line(), on_a_line(), reach=2))
    assert np.isnan([score.confidence, score.distance]).all()


def test_a_shift_is_told_where_it_is_farther() -> None:
    distances = torch.ones(31)
    distances[15] = 0.5
    assert shift_discrimination(distances) == 1
    distances[[0, 20, 30]] = 0.4  # shifts of -15, 5 and 15 frames of the 22
    distances[16] = 0.1  # too near a shift to count
    assert shift_discrimination(distances) == pytest.approx(19 / 22)


# Time


@given(st.sampled_from([10.0, 24.0, 25.0, 30.0, 59.94]), st.integers(2, 80))
def test_frames_are_the_nearest_at_the_steady_rate(fps: float, frames: int) -> None:
    times = np.arange(frames) / fps
    shown = frames_at_rate(times)
    ticks = np.arange(len(shown)) / FRAME_RATE_HZ
    assert times[-1] - 1 / FRAME_RATE_HZ < ticks[-1] <= times[-1] + 1e-9
    assert (np.abs(times[shown] - ticks) <= 0.5 / fps + 1e-9).all()
    if fps == FRAME_RATE_HZ:
        assert shown.tolist() == list(range(frames))


def test_each_frame_hears_its_own_two_features() -> None:
    mel = np.arange(8, dtype=np.float32)[:, None].repeat(80, 1)
    assert sound_of_frames(mel, 3)[:, 0].tolist() == pytest.approx([0, 1, 2, 3, 4, 5])
    assert sound_of_frames(mel, 5)[-2:, 0].tolist() == pytest.approx([7, 7])


# The expert's network


@pytest.fixture(scope="module")
def net() -> SyncNet:
    torch.manual_seed(0)
    return SyncNet(SyncConfig()).eval()


def test_a_window_sees_its_own_five_frames_alone(net: SyncNet) -> None:
    generator = torch.Generator().manual_seed(0)
    mouths = 255 * torch.rand(1, 12, *MOUTH_PX, generator=generator)
    mel = torch.rand(1, 24, 80, generator=generator)
    with torch.no_grad():
        whole_picture, whole_sound = net.picture(mouths)[0], net.sound(mel)[0]
        assert len(whole_picture) == len(whole_sound) == 8
        assert whole_picture.norm(dim=1).tolist() == pytest.approx([1] * 8, abs=1e-5)
        for i in (0, 3, 7):
            one = net.picture(mouths[:, i : i + 5])[0, 0]
            torch.testing.assert_close(one, whole_picture[i], atol=1e-4, rtol=0)


def test_light_and_contrast_do_not_count(net: SyncNet) -> None:
    mouths = 40 + 100 * torch.rand(1, 5, *MOUTH_PX, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        darker = net.picture(0.7 * mouths + 20)
        assert (darker - net.picture(mouths)).norm().item() < 0.05


def test_the_mouth_alone_is_seen() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    seen = grey_mouth(crop)
    assert seen.shape == MOUTH_PX
    crop[:136], crop[232:], crop[:, :64], crop[:, 192:] = 0, 0, 0, 0
    np.testing.assert_array_equal(grey_mouth(crop), seen)


# Training


def test_the_right_sound_has_the_least_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    own = torch.nn.functional.normalize(torch.randn(2, 40, 16, generator=generator), dim=-1)
    scale = torch.tensor(20.0)
    right = contrastive_losses(own, own, scale)
    late = contrastive_losses(own, own.roll(3, 1), scale)
    other = contrastive_losses(own, own.flip(0), scale)
    assert all(float(loss) < 0.5 for loss in right)
    for wrong in (late, other):
        assert float(wrong[1]) > float(right[1]) + 5


def test_what_is_spoilt_is_spoilt_alike_for_a_seed_and_stays_in_time() -> None:
    mouths = torch.zeros(2, 6, *MOUTH_PX)
    mouths[:, 3] = 200  # one bright frame
    mel = torch.full((2, 20, 80), -0.5)
    mel[:, 10] = 1
    for spoil, clean in ((spoil_pictures, mouths), (spoil_sound, mel)):
        once = spoil(clean, torch.Generator().manual_seed(1))
        again = spoil(clean, torch.Generator().manual_seed(1))
        assert torch.equal(once, again)
        assert once.isfinite().all()
    seen = spoil_pictures(mouths, torch.Generator().manual_seed(1)).mean((2, 3))
    assert seen.argmax(1).tolist() == [3, 3]
    heard = spoil_sound(mel, torch.Generator().manual_seed(1)).mean(2)
    assert heard.argmax(1).tolist() == [10, 10]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An expert that has seen drawn faces for a few steps."""
    folder = tmp_path_factory.mktemp("sync")
    data = write_dataset(folder / "data", ("a", "b", "c", "d", "e"), frames=56)
    train_expert("sync", data, folder / "expert", steps=16, validation_clips=2)
    return folder / "expert"


def test_training_teaches_and_is_packaged(trained: Path) -> None:
    log = (trained.with_name("expert-run") / "sync" / "log.jsonl").read_text().splitlines()
    losses = [record["loss"] for line in log if "loss" in (record := json.loads(line))]
    assert losses[-1] < losses[0] - 0.1
    unseen = expert.read(trained, kind="sync").facts["unseen"]
    assert unseen.keys() >= {"told", "offset", "confidence", "distance", "other_distance"}
    assert unseen["distance"] < unseen["other_distance"]


def test_several_people_are_learned_and_measured_apart(tmp_path: Path) -> None:
    write_dataset(tmp_path / "people" / "ann", ("a", "b", "c", "d", "e"), frames=56)
    write_dataset(tmp_path / "people" / "bob", ("a",), frames=56)
    task = SyncTask(SyncNet(SyncConfig()), load_people(tmp_path / "people"))
    names = task.describe(np.arange(task.examples))
    assert names.count("bob/a") == RAREST
    with torch.no_grad():
        assert {"confidence_ann", "told"} <= task.validate().keys()

    train_expert("sync", tmp_path / "people", tmp_path / "expert", steps=1)
    assert "speakers ann, bob" in expert.read(tmp_path / "expert", kind="sync").facts["corpora"]
