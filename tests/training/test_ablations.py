"""The ablations: each is the reference with one change, from training to dubbing, at debug size."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import ablations
from ablations import VARIANTS, configuration, ingredients
from difftalker import config as configs
from difftalker.config import STAGES, ModelConfig, SynthesisConfig
from difftalker.data.dataset import ClipData, load_dataset
from difftalker.data.latents import encode_clips
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.networks import build
from difftalker.errors import UsageError
from difftalker.face.crop import frame_face, mask_boxes
from difftalker.face.landmarks import CHIN, MOUTH, UPPER
from difftalker.media.video import read_frames
from difftalker.store import avatars as avatar_files
from difftalker.synthesis.autoencoder import Autoencoder
from difftalker.synthesis.net import SynthesisNet
from difftalker.synthesis.prior import Prior
from difftalker.training.checkpoint import load_checkpoint
from helpers import FPS, face_points, write_dataset
from synthetic import located, pictures, still_track, write_footage, write_tone

DEBUG = configs.debug().model
TRAINED = ("reference", "no-landmarks", "mouth-mask", "tuned-prior")
"""Variants that differ in synthesis: all are trained here."""


def options(dataset: Path, folder: Path, **given: Any) -> ablations.Options:
    return ablations.Options(
        footage=[dataset],
        run=folder,
        output=folder / "avatars",
        consent="drawn",
        preset="debug",
        device="cpu",
        **given,
    )


def run_script(dataset: Path, folder: Path, *more: str) -> int:
    places = ["--run", str(folder), "--output", str(folder / "avatars")]
    fixed = ["--consent", "drawn", "--preset", "debug", "--device", "cpu"]
    return ablations.main([str(dataset), *places, *fixed, *more])


def only(names: Sequence[str]) -> list[str]:
    return [word for name in names for word in ("--only", name)]


@pytest.fixture(scope="module")
def trained(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the script over the variants that differ in synthesis."""
    folder = tmp_path_factory.mktemp("ablations")
    assert run_script(dataset, folder, *only(TRAINED)) == 0
    return folder


def tensors_of(run: Path, stage: str) -> dict[str, Tensor]:
    saved = load_checkpoint(run / stage / "checkpoint")
    assert saved is not None
    return saved[0]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# The options


def flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        out |= flat(value, f"{before}{key}.") if inner else {f"{before}{key}": value}
    return out


def test_each_variant_differs_from_the_reference_in_its_change_alone(tmp_path: Path) -> None:
    shared = dataclasses.replace(options(tmp_path, tmp_path), preset="half")
    reference = flat(dataclasses.asdict(configuration("reference", shared)))
    changes = {}
    for name in VARIANTS:
        theirs = flat(dataclasses.asdict(configuration(name, shared)))
        changes[name] = {k: v for k, v in theirs.items() if v != reference[k]}
    completion = "model.completion."
    assert changes == {
        "reference": {},
        "no-am-trans": {completion + "audio_offsets": False},
        "no-landmarks": {"model.synthesis.guidance": "audio"},
        "paper": {
            completion + "neighbours": 0,
            completion + "audio_moves_contour": False,
            completion + "dropout": 0.0,
            completion + "least_squares": False,
            completion + "hears_opening": False,
            completion + "rests": False,
            "training.landmark_recipe.base_weight": 0.0,
            "training.landmark_recipe.rotation_rad": 0.0,
            "training.landmark_recipe.scaling": 0.0,
            "training.landmark_recipe.shift_crop": 0.0,
            "training.lips_weight": 0.0,
        },
        "mel": {completion + "features": "mel", completion + "feature_dim": 80},
        "characters": {completion + "features": "characters", completion + "feature_dim": 29},
        "mouth-mask": {"model.mask": "mouth"},
        "tuned-prior": {"model.synthesis.tune_prior": True},
    }


def test_a_stage_is_shared_where_nothing_that_it_depends_on_differs(tmp_path: Path) -> None:
    shared = options(tmp_path, tmp_path)
    reference = configuration("reference", shared)
    shares = {
        name: [s for s in STAGES if ingredients(s, configuration(name, shared)) == wanted[s]]
        for wanted in [{s: ingredients(s, reference) for s in STAGES}]
        for name in VARIANTS
    }
    assert shares == {
        "reference": list(STAGES),
        "no-am-trans": ["autoencoder", "prior", "synthesis", "decoder"],
        "no-landmarks": ["landmarks", "autoencoder", "prior"],
        "paper": ["autoencoder", "prior", "synthesis", "decoder"],
        "mel": list(STAGES),  # what the preset `debug` hears
        "characters": ["autoencoder", "prior", "synthesis", "decoder"],
        "mouth-mask": ["landmarks"],
        "tuned-prior": ["landmarks", "autoencoder", "prior"],
    }


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (
            SynthesisConfig,
            {"guidance": "sound"},
            "guidance is 'sound'; wanted landmarks or audio or both",
        ),
        (ModelConfig, {"mask": "chin"}, "mask is 'chin'; wanted jaw or mouth"),
    ],
)
def test_wrong_options_are_refused(kind: Any, wrong: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        kind(**wrong)


def test_the_packaged_avatar_has_the_options_at_default() -> None:
    model = avatar_files.read("grid-s1").config
    tiny = configs.preset("tiny").model
    assert (model.mask, model.synthesis.guidance) == (tiny.mask, tiny.synthesis.guidance)
    assert not model.synthesis.tune_prior


# The mask


def test_the_mouth_box_holds_the_mouth_and_leaves_the_jaw() -> None:
    points = np.tile(face_points(0.02), (5, 1, 1))
    times = np.arange(5) / FPS
    for size in (64, 128, 256):
        (top, bottom, left, right), *_ = mask_boxes(points, times, size, "mouth").tolist()
        jaw = mask_boxes(points, times, size, "jaw")[0]
        mouth = points[0, list(MOUTH)] * size
        assert left <= mouth[:, 0].min() < mouth[:, 0].max() <= right
        assert top <= mouth[:, 1].min() < mouth[:, 1].max() <= bottom
        assert bottom < points[0, CHIN, 1] * size < jaw[1]
        assert jaw[0] == top
        assert jaw[2] < left < right < jaw[3]
        assert not any(edge % 8 for edge in (top, bottom, left, right))


def test_no_mask_tells_of_the_mouth() -> None:
    times = np.arange(20) / FPS
    quiet = np.tile(face_points(), (20, 1, 1))
    loud = np.stack([face_points(0.1 * (i % 2)) for i in range(20)])
    assert np.array_equal(quiet[:, list(UPPER)], loud[:, list(UPPER)])
    for mask in configs.MASKS:
        first, second = (mask_boxes(points, times, 128, mask) for points in (quiet, loud))
        assert np.array_equal(first, second)


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


def test_latents_of_another_mask_are_not_taken(dataset: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Autoencoder(DEBUG.autoencoder)
    painted = []
    for mask in ("jaw", "mouth", "jaw"):
        clips = load_dataset(dataset, validation_clips=1, mask=mask).train
        latents = encode_clips(net, clips, tmp_path / "latents", stride=9, autocast=False)
        painted.append(np.array(latents.masked))
    assert not np.array_equal(painted[0], painted[1])
    assert np.array_equal(painted[0], painted[2])


# The networks


def audio_net() -> SynthesisNet:
    torch.manual_seed(0)
    prior = Prior(DEBUG.prior, DEBUG.autoencoder.latent_channels).eval()
    config = dataclasses.replace(DEBUG.synthesis, guidance="audio")
    return SynthesisNet(config, prior, DEBUG.completion).eval()


def test_audio_guidance_starts_at_the_prior_and_then_follows_the_speech() -> None:
    net, speech = audio_net(), DEBUG.completion
    generator = torch.Generator().manual_seed(0)
    noisy, known = torch.randn(2, 2, DEBUG.autoencoder.latent_channels, 8, 8, generator=generator)
    windows = torch.randn(2, speech.window, speech.feature_dim, generator=generator)
    steps = torch.tensor([500, 3])
    with torch.no_grad():
        start = net(noisy, steps, net.guide(known, windows=windows))
        torch.testing.assert_close(start, net.prior(noisy, steps), atol=1e-5, rtol=1e-5)
        for parameter in (*net.branch.parameters(), *net.cross.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        assert net.prompt is not None
        for parameter in net.prompt.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        spoken = net(noisy, steps, net.guide(known, windows=windows))
        other = net(noisy, steps, net.guide(known, windows=windows.flip(0)))
    assert (spoken - start).abs().max() > 1e-3
    assert (spoken - other).abs().max() > 1e-3


@pytest.mark.parametrize("preset", ["debug", "half", "tiny"])
def test_both_kinds_of_guidance_have_about_as_many_parameters(preset: str) -> None:
    model = configs.preset(preset).model
    counts = []
    for guidance in configs.GUIDANCES:
        changed = dataclasses.replace(model.synthesis, guidance=guidance)
        net = build(dataclasses.replace(model, synthesis=changed)).synthesis
        counts.append(sum(p.numel() for p in net.parameters() if p.requires_grad))
    assert counts[1] == pytest.approx(counts[0], rel=0.02 if preset != "debug" else 0.1)


# Training


def test_every_variant_becomes_an_avatar(trained: Path) -> None:
    for name in TRAINED:
        avatar = load(trained / "avatars" / name)
        assert avatar.name == name
        wanted = configuration(name, options(trained, trained)).model
        assert avatar.config == wanted


def test_equal_stages_are_trained_once(trained: Path) -> None:
    for name, stage in (("no-landmarks", "prior"), ("tuned-prior", "landmarks")):
        mine, theirs = (
            trained / run / stage / "checkpoint" / "state.safetensors"
            for run in (name, "reference")
        )
        assert mine.samefile(theirs) or same(load_file(mine), load_file(theirs))
        assert (trained / name / stage / "log.jsonl").read_bytes() == (
            trained / "reference" / stage / "log.jsonl"
        ).read_bytes()
    for stage in ("autoencoder", "prior", "synthesis"):
        ours = tensors_of(trained / "mouth-mask", stage)
        assert not same(ours, tensors_of(trained / "reference", stage))


def test_linked_or_alone_a_variant_is_the_same(
    trained: Path, dataset: Path, tmp_path: Path
) -> None:
    """And a run that was stopped after a stage goes on."""
    name = "no-landmarks"
    assert run_script(dataset, tmp_path, "--only", name, "--stage", "landmarks") == 0
    assert not (tmp_path / "avatars").exists()
    assert run_script(dataset, tmp_path, "--only", name) == 0
    for part in ("completion", "autoencoder", "synthesis"):
        weights = [
            load_file(folder / "avatars" / name / f"{part}.safetensors")
            for folder in (tmp_path, trained)
        ]
        assert same(*weights)


def test_only_a_tuned_prior_moves(trained: Path) -> None:
    before = tensors_of(trained / "reference", "prior")
    for name, moves in (("reference", False), ("tuned-prior", True)):
        after = load_file(trained / "avatars" / name / "synthesis.safetensors")
        gaps = [
            float((after[f"prior.{k[4:]}"].float() - v.half().float()).abs().max())
            for k, v in before.items()
            if k.startswith("ema.")
        ]
        assert gaps
        assert (max(gaps) > 1e-4) == moves


def test_a_second_call_trains_nothing(
    trained: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = sorted(trained.glob("*/*/checkpoint/state.safetensors"))
    before = [path.stat().st_mtime_ns for path in checkpoints]
    assert run_script(dataset, trained, "--only", "tuned-prior") == 0
    assert [path.stat().st_mtime_ns for path in checkpoints] == before
    told = json.loads(capsys.readouterr().out)
    assert told["variant"] == "tuned-prior"
    assert told["synthesis"]["psnr_lower"] > 0
    assert [told[stage]["steps"] for stage in STAGES] == [6] * 5


def test_a_variant_that_fails_does_not_stop_the_others(
    trained: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    assert run_script(dataset, folder, *only(["characters", "reference"])) == 1
    told = capsys.readouterr()
    assert "characters: the dataset holds no 'characters' features" in told.err
    assert json.loads(told.out)["variant"] == "reference"


def test_a_run_of_before_the_options_goes_on(trained: Path, dataset: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    written = folder / "reference" / "config.json"
    config = json.loads(written.read_text())
    del config["model"]["mask"], config["model"]["synthesis"]["tune_prior"]
    written.write_text(json.dumps(config))
    assert run_script(dataset, folder, "--only", "reference") == 0


# Dubbing


def hearing(guidance: str) -> Avatar:
    """An avatar that hears, in which everything matters."""
    synthesis = dataclasses.replace(DEBUG.synthesis, guidance=guidance)
    model = dataclasses.replace(DEBUG, synthesis=synthesis)
    torch.manual_seed(0)
    networks = build(model)
    with torch.no_grad():
        for parameter in networks.synthesis.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return Avatar("listener", model, networks)


@pytest.fixture(scope="module")
def listener() -> Avatar:
    """An avatar without landmarks."""
    return hearing("audio")


def images_of(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.stack([frame.image for frame in read_frames(path)])


def test_without_landmarks_speech_makes_the_mouth(listener: Avatar, tmp_path: Path) -> None:
    track = still_track(20)
    video = write_footage(tmp_path / "a.mkv", pictures(20), lossless=True)
    where, made = located(video, track), []
    for pitch in (220.0, 1760.0):
        sound = write_tone(tmp_path / f"{pitch}.wav", 1, pitch)
        output = tmp_path / f"{pitch}.mkv"
        listener.dub(video, sound, located=where).save(output, lossless=True)
        made.append(images_of(output))
    assert not np.array_equal(made[0], made[1])
    # A journal from before the kill gives the same video.
    job = listener.dub(video, tmp_path / "220.0.wav", located=where)
    job.save(tmp_path / "b.mkv", lossless=True, keep_journal=True)
    job.save(tmp_path / "b.mkv", lossless=True)
    assert np.array_equal(images_of(tmp_path / "b.mkv"), made[0])


def test_without_landmarks_there_are_none_to_paint(listener: Avatar, tmp_path: Path) -> None:
    points = np.stack([face_points()] * 3)
    with pytest.raises(UsageError, match="listener, which renders from speech alone"):
        listener.dub(tmp_path / "a.mp4", tmp_path / "a.wav", landmarks=points)
    with pytest.raises(UsageError, match="no speech for an avatar that renders from speech alone"):
        listener.renderer().render(
            np.zeros((3, 64, 64, 3), np.uint8),
            np.tile(np.array([32, 64, 16, 48], np.int32), (3, 1)),
            points,
        )


def test_beside_landmarks_speech_makes_the_mouth_too(tmp_path: Path) -> None:
    video = write_footage(tmp_path / "a.mkv", pictures(20), lossless=True)
    both, where = hearing("both"), located(video, still_track(20))
    points, made = np.stack([face_points()] * 20), []
    for name, pitch, shift in (("x", 220.0, 0.0), ("y", 1760.0, 0.0), ("z", 220.0, 0.05)):
        sound = write_tone(tmp_path / f"{pitch}.wav", 1, pitch)
        moved = points.copy()
        moved[:, list(MOUTH), 1] += shift
        job = both.dub(video, sound, located=where, landmarks=moved)
        job.save(tmp_path / f"{name}.mkv", lossless=True)
        made.append(images_of(tmp_path / f"{name}.mkv"))
    for other in made[1:]:
        assert not np.array_equal(other, made[0])


def test_a_mouth_mask_leaves_the_jaw_as_it_was(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = dataclasses.replace(DEBUG, mask="mouth")
    avatar = Avatar("mouth", model, build(model))
    video = write_footage(tmp_path / "a.mkv", pictures(10), lossless=True)
    sound = write_tone(tmp_path / "a.wav", 1)
    # Whoever located the face need not know of the avatar's mask.
    where = located(video, still_track(10))
    result = avatar.dub(video, sound, located=where).save(tmp_path / "b.mkv", lossless=True)
    boxes = frame_face(where.track, 64, "mouth").boxes
    assert np.array_equal(result.located.framing.boxes, boxes)
    changed = (images_of(tmp_path / "b.mkv") != images_of(video)).any(-1)
    crop = where.framing.crop
    edges = boxes.astype(np.float32) / np.float32(64)
    low, high = (crop.to_px(edges[:, [corner]])[:, 0] for corner in ([2, 0], [3, 1]))
    assert changed.any()
    for frame, (x0, y0), (x1, y1) in zip(changed, low, high, strict=True):
        rows, columns = np.nonzero(frame)
        assert (y0 - 0.5 <= rows).all()
        assert (rows + 0.5 <= y1).all()
        assert (x0 - 0.5 <= columns).all()
        assert (columns + 0.5 <= x1).all()


def test_there_is_no_other_mask() -> None:
    with pytest.raises(UsageError, match="no mask is called 'chin'"):
        frame_face(still_track(3), 64, "chin")
