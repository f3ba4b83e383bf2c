"""A prepared dataset: clips held out, frames with a face, damaged files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from difftalker.data.dataset import ClipData, frame_index, load_dataset, span_index
from difftalker.errors import MediaError, UsageError
from difftalker.face.crop import mask_boxes
from helpers import write_dataset


def test_clips_are_held_out_evenly_and_the_same_each_time(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, tuple("abcdefghijkl"), frames=12)
    for wanted, held_out in ((1, "g"), (2, "dj"), (4, "dj"), (9, "dj")):
        data = load_dataset(dataset, validation_clips=wanted)
        assert "".join(clip.name for clip in data.validation) == held_out
        assert {*held_out}.isdisjoint(clip.name for clip in data.train)
        assert len(data.train) + len(data.validation) == 12


def test_only_frames_with_a_face_are_learned_from(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ("a", "b"), frames=30)
    path = dataset / "clips" / "a" / "track.npz"
    with np.load(path) as stored:
        arrays = dict(stored)
    arrays["found"][10:12] = False
    np.savez(path, **arrays)
    clips = [ClipData(dataset / "clips" / name) for name in "ab"]
    frames = frame_index(clips)
    assert len(frames) == 58
    assert not ((frames[:, 0] == 0) & np.isin(frames[:, 1], (10, 11))).any()
    spans = span_index(clips, 12, stride=1)
    assert spans[spans[:, 0] == 0, 1].tolist() == [12 + i for i in range(7)]
    assert len(spans[spans[:, 0] == 1]) == 19


def test_a_damaged_clip_is_named(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path, ("a", "b"), frames=12)
    track = dataset / "clips" / "b" / "track.npz"
    track.write_bytes(track.read_bytes()[:100])
    with pytest.raises(MediaError, match=r"clips/b of the dataset cannot be read"):
        load_dataset(dataset, validation_clips=1)


def test_features_that_were_not_prepared_are_named(dataset: Path) -> None:
    clip = load_dataset(dataset, validation_clips=1).train[0]
    with pytest.raises(UsageError, match=r"no 'whisper' features.*--features whisper-padded"):
        clip.windows("whisper", 16)


def test_a_dataset_gives_the_boxes_that_dubbing_gives(tmp_path: Path) -> None:
    clip = write_dataset(tmp_path, ("a", "b")) / "clips" / "a"
    with np.load(clip / "track.npz") as stored:
        arrays = dict(stored)
    # Two shots, in the second of which the face stands lower.
    arrays["points_crop"][13:, :, 1] += 0.1
    arrays["cuts"] = np.array([13])
    np.savez(clip / "track.npz", **arrays)
    data, jaw = ClipData(clip, "mouth"), ClipData(clip)
    assert np.array_equal(jaw.boxes, arrays["boxes"])
    halves = (slice(0, 13), slice(13, None))
    wanted = [
        mask_boxes(arrays["points_crop"][s], arrays["times_s"][s], 64, "mouth") for s in halves
    ]
    assert np.array_equal(data.boxes, np.concatenate(wanted))
    whole = mask_boxes(arrays["points_crop"], arrays["times_s"], 64, "mouth")
    assert not np.array_equal(data.boxes, whole)
