"""A baseline's dub: the footage's size, length and upper face, and a new mouth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.made import SMALL
from difftalker.baselines import systems
from difftalker.baselines.dub import dub
from difftalker.data.dataset import load_dataset
from difftalker.errors import FaceError, MediaError
from difftalker.marks.marking import UNMARKED
from difftalker.media.video import probe_video
from helpers_networks import stirred
from helpers_track import FACELESS, FRAMES, ByHand, pictures


def untrained(name: str, dataset: Path) -> systems.Baseline:
    """A baseline with random networks, all of whose inputs matter."""
    system, data = systems.SYSTEMS[name], load_dataset(dataset, validation_clips=1)
    config = systems.configuration(system, data, "mel", SMALL[name])
    torch.manual_seed(0)
    net = stirred(system.network(config), spread=0.02).requires_grad_(False)
    net.remember(data.train)
    return systems.Baseline(
        system=system, net=net, features="mel", window=net.window, sha256="0" * 64, device="cpu"
    )


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_a_dub_changes_the_lower_face_alone(
    name: str, dataset: Path, by_hand: ByHand, tmp_path: Path
) -> None:
    output, made = tmp_path / "out.mkv", untrained(name, dataset)
    result = dub(
        *(made, by_hand.footage, by_hand.speech, output),
        located=by_hand.located,
        lossless=True,
        marks=UNMARKED,
    )
    assert (result.frames, result.frames_driven) == (FRAMES, FRAMES - 1)
    before, after = pictures(by_hand.footage), pictures(output)
    assert after.shape == before.shape
    assert probe_video(output).has_audio
    changed = (before != after).any(-1)
    assert (changed.any((1, 2)) == (np.arange(FRAMES) != FACELESS)).all()
    crop, boxes = by_hand.located.framing.crop, by_hand.located.framing.boxes
    for frame in range(FRAMES):
        top = float(crop.centre_px[frame, 1] - crop.side_px[frame] / 2)
        top += float(crop.side_px[frame]) * int(boxes[frame, 0]) / 64
        assert not changed[frame, : int(top)].any()


def test_only_makeittalk_draws_other_landmarks(dataset: Path, by_hand: ByHand) -> None:
    seen = by_hand.located.framing.points_crop
    heard = np.zeros((FRAMES, 16, 80), np.float32)
    for name in systems.SYSTEMS:
        found = untrained(name, dataset).renderer().points(seen, heard)
        assert np.array_equal(found, seen) == (name != "after-makeittalk")


def test_what_the_footage_says_reaches_no_baseline(dataset: Path, by_hand: ByHand) -> None:
    data = load_dataset(dataset, validation_clips=1).validation[0]
    crops, boxes, points = data.frames[:2].copy(), data.boxes[:2], data.points_crop[:2]
    heard = np.random.default_rng(0).normal(size=(2, 16, 80)).astype(np.float32)
    for name in systems.SYSTEMS:
        renderer = untrained(name, dataset).renderer()
        drawn = renderer.points(points, heard)
        whole = renderer.render(crops, boxes, drawn, heard)
        hidden = renderer.render(renderer.hide(crops, boxes, drawn), boxes, drawn, heard)
        np.testing.assert_array_equal(whole, hidden)
        other = renderer.render(crops, boxes, drawn, -heard)
        assert (other != whole).any() == (name != "after-makeittalk"), "it hears by its points"


def test_wrong_footage_is_told(dataset: Path, by_hand: ByHand, tmp_path: Path) -> None:
    made = untrained("after-wav2lip", dataset)
    with pytest.raises(MediaError):
        dub(made, tmp_path / "none.mp4", by_hand.speech, tmp_path / "out.mp4")
    with pytest.raises(FaceError):
        dub(made, by_hand.footage, by_hand.speech, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()
