"""Sync: our expert from training to judging, and SyncNet's published evaluation."""

from __future__ import annotations

import os
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.fft import dct
from torch import Tensor

from difftalker.dubbing.footage import locate
from difftalker.errors import AssetError
from difftalker.evaluation.footage import Footage, Output
from difftalker.evaluation.judges.base import JudgeOptions
from difftalker.evaluation.judges.sync import (
    FaceBox,
    OfficialSyncJudge,
    SyncJudge,
    face_boxes,
    face_crop,
    smooth_boxes,
)
from difftalker.evaluation.judges.table import open_judges
from difftalker.experts.sync_net import (
    shift_discrimination,
)
from difftalker.experts.syncnet_v2 import (
    CHUNK_WINDOWS,
    SyncNetV2,
    load_syncnet,
    padded_offset_distances,
)
from difftalker.face.detect.track import FaceTrack
from difftalker.speech.mfcc import mel_triangles, mfcc
from difftalker.store import experts as expert

SAMPLE_RATE_HZ = 16_000


# SyncNet as published


def test_cepstra_are_those_of_the_definition() -> None:
    rng = np.random.default_rng(0)
    samples = np.round(3000 * rng.standard_normal(1000))
    found = mfcc(samples)
    assert found.shape == (5, 13)  # 1 + ceil((1000 - 400) / 160)
    emphasised = samples.copy()
    emphasised[1:] -= 0.97 * samples[:-1]
    window = np.zeros(512)
    window[:360] = emphasised[640:]  # the fifth of them has 360 samples left
    turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
    power = np.abs(turns @ window) ** 2 / 512
    expected = dct(np.log(mel_triangles() @ power), norm="ortho")[:13]
    expected *= 1 + 11 * np.sin(np.pi * np.arange(13) / 22)
    expected[0] = np.log(power.sum())
    np.testing.assert_allclose(found[4], expected, atol=1e-9)


def test_mel_triangles_stand_side_by_side() -> None:
    triangles = mel_triangles()
    assert triangles.shape == (26, 257)
    peaks = triangles.argmax(1)
    assert (triangles[np.arange(26), peaks] == 1).all()
    assert (np.diff(peaks) > 0).all()
    # Between the first peak and the last, neighbours share each bin out between them.
    np.testing.assert_allclose(triangles.sum(0)[peaks[0] : peaks[-1] + 1], 1, atol=1e-12)
    # 8 kHz is 2840 mel; the sixth edge of 27 steps lies at 700 (10^(6 * 105.19 / 2595) - 1) Hz.
    assert peaks[5] == int(513 * 700 * (10 ** (6 * 2840.023 / 27 / 2595) - 1) / 16000)


def test_silence_has_finite_cepstra() -> None:
    assert np.isfinite(mfcc(np.zeros(2000, np.int16))).all()


OFFICIAL = {
    "netcnnaud.0.weight": (64, 1, 3, 3),
    "netcnnaud.4.weight": (192, 64, 3, 3),
    "netcnnaud.5.running_var": (192,),
    "netcnnaud.8.weight": (384, 192, 3, 3),
    "netcnnaud.11.weight": (256, 384, 3, 3),
    "netcnnaud.14.weight": (256, 256, 3, 3),
    "netcnnaud.18.weight": (512, 256, 5, 4),
    "netcnnaud.19.bias": (512,),
    "netcnnlip.0.weight": (96, 3, 5, 7, 7),
    "netcnnlip.4.weight": (256, 96, 1, 5, 5),
    "netcnnlip.8.weight": (256, 256, 1, 3, 3),
    "netcnnlip.11.weight": (256, 256, 1, 3, 3),
    "netcnnlip.14.weight": (256, 256, 1, 3, 3),
    "netcnnlip.18.weight": (512, 256, 1, 6, 6),
    "netcnnlip.19.running_mean": (512,),
    "netfcaud.0.weight": (512, 512),
    "netfcaud.3.weight": (1024, 512),
    "netfclip.1.weight": (512,),
    "netfclip.3.bias": (1024,),
}
"""Some names and shapes in syncnet_v2.model, as the published SyncNetModel.py gives them."""


def official_state(seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    state = SyncNetV2().state_dict()
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in the layout of the official one, its numbers random."""
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(official_state(0), path, _use_new_zipfile_serialization=False)
    return path


def test_the_official_layout_is_read(weights: Path) -> None:
    state = load_syncnet(weights).state_dict()
    assert {name: tuple(state[name].shape) for name in OFFICIAL} == OFFICIAL
    assert len([name for name in state if not name.endswith("tracked")]) == 88
    saved = torch.load(weights, weights_only=True)
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"netfclip.3.bias": torch.zeros(3)}, r"netfclip\.3\.bias is \(3,\); wanted \(1024,\)"),
        ({"netfclip.3.bias": None}, r"netfclip\.3\.bias is not a tensor there"),
        ({"head.weight": torch.zeros(3)}, r"head\.weight is \(3,\); wanted no such name"),
    ],
)
def test_other_weights_are_refused(
    change: Mapping[str, Tensor | None], told: str, tmp_path: Path
) -> None:
    state: dict[str, Any] = {**official_state(0), **change}
    torch.save({k: v for k, v in state.items() if v is not None}, tmp_path / "other.model")
    with pytest.raises(AssetError, match=told):
        load_syncnet(tmp_path / "other.model")


def test_what_is_no_state_of_tensors_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.model")  # pickled code
    (tmp_path / "text.model").write_text("no weights")
    for name in ("whole.model", "text.model"):
        with pytest.raises(AssetError, match="cannot be read as weights"):
            load_syncnet(tmp_path / name)
    with pytest.raises(AssetError, match="there is no file"):
        load_syncnet(tmp_path / "absent.model")


def random_faces(frames: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (frames, 224, 224, 3), dtype=np.uint8)


def test_runs_of_frames_give_each_windows_own_embedding(weights: Path) -> None:
    """Across the end of a chunk too."""
    net, faces = load_syncnet(weights), random_faces(CHUNK_WINDOWS + 6)
    with torch.no_grad():
        run, ones = net.picture(iter(faces)), [net.picture(faces[i : i + 5]) for i in (0, 7, 9)]
        # The window as the published code hands it to the layers: BGR, (1, 3, 5, 224, 224).
        window = torch.from_numpy(faces[7:12, ..., [2, 1, 0]]).permute(3, 0, 1, 2)[None].float()
        first = net.netfclip(net.netcnnlip(window).flatten(1))
    assert run.shape == (CHUNK_WINDOWS + 2, 1024)
    torch.testing.assert_close(run[[0, 7, 9]], torch.cat(ones), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(run[7:8], first, rtol=1e-3, atol=1e-4)
    assert net.picture(faces[:4]).shape == (0, 1024)


def test_windows_of_the_published_evaluation(weights: Path) -> None:
    """8 frames give the windows 0, 1 and 2; the last that would fit is left out."""
    judge, faces = OfficialSyncJudge(weights), random_faces(8)
    samples = np.random.default_rng(1).normal(0, 0.1, 8 * 640).astype(np.float32)
    found = judge.distances(faces, samples)
    net, cepstra = load_syncnet(weights), mfcc(np.round(samples * 32768))
    with torch.no_grad():
        picture = net.picture(faces)[:3]
        heard = np.stack([cepstra[4 * i : 4 * i + 20] for i in range(3)])
        sound = net.netcnnaud(torch.from_numpy(heard).mT[:, None].float())  # (3, 1, 13, 20)
        sound = net.netfcaud(sound.flatten(1))
    expected = padded_offset_distances(picture, sound, reach=15)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert judge.distances(faces[:5], samples).isnan().all()
    assert judge.distances(faces, samples[: 5 * 640]).isnan().all()


def test_boxes_go_from_the_hairline_to_the_chin_and_over_gaps() -> None:
    points = np.zeros((3, 68, 2), np.float32)
    points[0, :, 0], points[0, :, 1] = 50, 60
    points[0, 0, 0], points[0, 16, 0] = 20, 80  # cheeks
    points[0, 17:27, 1], points[0, 33, 1], points[0, 8, 1] = 40, 60, 90  # brows, nose, chin
    points[2] = points[0] + 10
    points[1] = np.nan
    boxes = face_boxes(points)
    # The top lies 0.9 x 20 above the brows: 22 to 90 is 68 high, more than the 60 across.
    assert (boxes[0].x, boxes[0].y, boxes[0].half) == pytest.approx((50, 56, 34))
    assert (boxes[1].x, boxes[1].y) == pytest.approx((55, 61))


def test_a_jump_of_a_few_frames_is_smoothed_away() -> None:
    boxes = [FaceBox(x=100, y=80, half=30)] * 10 + [FaceBox(x=160, y=80, half=30)] * 4
    smooth = smooth_boxes(boxes + [FaceBox(x=100, y=80, half=30)] * 10)
    assert smooth == [FaceBox(x=100, y=80, half=30)] * 24


def test_the_crop_reaches_where_the_pipeline_cuts() -> None:
    rows, columns = np.mgrid[0:200, 0:200]
    image = np.stack([rows, columns, 0 * rows], -1).astype(np.uint8)
    box = FaceBox(x=100, y=80, half=40)
    crop: NDArray[np.uint8] = face_crop(image, box)
    assert crop.shape == (224, 224, 3)
    # Rows 80 - 40 to 80 + 40 x 1.8, columns 100 - 56 to 100 + 56: twice as large in 224.
    assert crop[0, 0].tolist() == [40, 44, 0]
    assert crop[-1, -1].tolist() == [151, 155, 0]
    beyond = face_crop(image, FaceBox(x=10, y=80, half=40))
    assert beyond[0, 0].tolist() == [110, 110, 110]


# The packaged expert, on real clips


GRID = Path(os.environ.get("DIFFTALKER_GRID", Path(__file__).parents[4] / "shared/data/grid"))


@pytest.fixture(scope="module")
def clips() -> list[Footage]:
    """Two clips that the packaged expert has not learned from."""
    if not (GRID / "s1").is_dir():
        pytest.skip("needs the GRID corpus (DIFFTALKER_GRID)")
    names = expert.read(kind="sync").facts["clips_unseen"][:2]
    paths = [GRID / f"{name}.mpg" for name in names]
    return [
        Footage(path=path, size_px=256, located=locate(path, 256), locate_seconds=0)
        for path in paths
    ]


def test_the_packaged_expert_tells_real_speech_from_shifted_and_from_other(
    clips: list[Footage],
) -> None:
    [judge] = [j for j in open_judges(JudgeOptions()) if j.name == "sync"]
    assert isinstance(judge, SyncJudge)
    for clip, other in (clips, clips[::-1]):
        right, wrong = (Output(video=clip.path, audio=c.path, voice=c) for c in (clip, other))
        distances = judge.distances(clip, right)
        assert distances is not None
        assert shift_discrimination(distances) >= 0.95
        own, others = (judge.judge(clip, out, clip.located.track) for out in (right, wrong))
        assert own.keys() == set(judge.measures)
        assert own["sync_c"] > others["sync_c"] + 0.05
        assert own["sync_d"] < others["sync_d"] - 0.05


def test_a_soft_dark_mouth_is_not_taken_for_a_late_one(
    clips: list[Footage], monkeypatch: pytest.MonkeyPatch
) -> None:
    judge, clip = SyncJudge(), clips[0]
    output = Output(video=clip.path, audio=clip.path, voice=clip)
    clear = judge.judge(clip, output, clip.located.track)
    crops = [cv2.GaussianBlur(crop, (0, 0), 3) // 2 for crop in clip.crops()]
    monkeypatch.setattr(Footage, "crops", lambda self, video=None: crops)
    soft = judge.judge(clip, output, clip.located.track)
    assert soft["sync_c"] == pytest.approx(clear["sync_c"], rel=0.1)
    assert soft["sync_d"] == pytest.approx(clear["sync_d"], rel=0.05)


def test_lse_is_measured_on_a_clip_of_75_frames(clips: list[Footage], weights: Path) -> None:
    """With weights of no meaning, through the public door: the numbers exist, and repeat."""
    [judge] = [j for j in open_judges(JudgeOptions(syncnet=weights)) if j.name == "syncnet"]
    clip = clips[0]
    output = Output(video=clip.path, audio=clip.path, voice=clip)
    figures = judge.judge(clip, output, clip.located.track)
    assert figures.keys() == {"lse_c", "lse_d"}
    assert np.isfinite(list(figures.values())).all()
    assert figures["lse_d"] > 0
    assert figures["lse_c"] >= 0
    nowhere = FaceTrack(
        times_s=clip.located.track.times_s,
        points_px=np.full_like(clip.located.track.points_px, np.nan),
    )
    assert judge.judge(clip, output, nowhere) == {}


def test_silence_has_no_sync(clips: list[Footage], tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "silence.wav"), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE_HZ, 0, "NONE", ""))
        file.writeframes(bytes(2 * 3 * SAMPLE_RATE_HZ))
    output = Output(video=clips[0].path, audio=tmp_path / "silence.wav", voice=None)
    assert SyncJudge().judge(clips[0], output, clips[0].located.track) == {}
