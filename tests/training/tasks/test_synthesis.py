"""What the synthesis is trained on: masks, speech and landmarks of each example."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from difftalker import config as configs
from difftalker.config import SynthesisRecipe
from difftalker.data.dataset import load_dataset
from difftalker.data.latents import encode_clips
from difftalker.dubbing.networks import build
from difftalker.face.draw import CHANNELS
from difftalker.face.landmarks import MOUTH, UPPER, mouth_opening
from difftalker.synthesis.sampling import timesteps_of
from difftalker.training.tasks import SynthesisTask, mouth_mask
from helpers import face_points
from helpers_training import Finished, run_at


def test_the_mouth_of_a_mask_is_the_lips_and_a_cell_around_them() -> None:
    points = torch.zeros(1, 68, 2)
    points[:, list(MOUTH)] = torch.tensor([0.5, 0.7])
    points[:, MOUTH[0]] = torch.tensor([0.33, 0.61])
    mouth = mouth_mask(points, 10)[0, 0]
    # From cell 3 to cell 5 and from 6 to 7 lie lips; one more on every side.
    wanted = torch.zeros(10, 10)
    wanted[5:8, 2:6] = 1
    torch.testing.assert_close(mouth, wanted)


def test_synthesis_learns_the_mouth_first_and_half_at_the_steps_in_use(
    finished: Finished,
) -> None:
    task = run_at(finished.dataset, finished.folder).trainer("synthesis").task
    assert isinstance(task, SynthesisTask)
    batch = task.batch(np.array([0, 1]), torch.Generator().manual_seed(0))
    assert (batch["mouth"] * batch["mask"]).any()

    def loss() -> float:
        torch.manual_seed(0)
        return float(task.loss(batch, torch.Generator().manual_seed(0))["loss"])

    weighed = loss()
    batch["mouth"] = torch.zeros_like(batch["mouth"])
    assert loss() != weighed
    steps = task._steps(1000, torch.Generator().manual_seed(0))
    in_use = torch.isin(steps, timesteps_of("dpm++", 2, "v_prediction")).float().mean()
    assert 0.4 < float(in_use) < 0.6


def test_some_mouths_are_learned_under_an_upper_face_of_another_moment(finished: Finished) -> None:
    task = run_at(finished.dataset, finished.folder).trainer("synthesis").task
    assert isinstance(task, SynthesisTask)
    latents, clips = task._latents, run_at(finished.dataset, finished.folder).data.train
    examples = np.arange(400) % task.examples
    batch = task.batch(examples, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(batch["whole"].numpy(), latents.whole[examples])
    seen = [np.flatnonzero((latents.masked == p.numpy()).all((1, 2, 3))) for p in batch["masked"]]
    above = np.array(
        [rows[0] if e not in rows else e for e, rows in zip(examples, seen, strict=True)]
    )
    other = above != examples
    assert 0.1 < other.mean() < SynthesisRecipe().other_upper_share + 0.1
    np.testing.assert_array_equal(batch["own"].numpy(), ~other)
    own, known = latents.index[examples], latents.index[above]
    assert (own[:, 0] == known[:, 0]).all()
    upper = [clips[c].points_crop[f][list(UPPER)] for c, f in np.concatenate([own, known])]
    gaps = np.linalg.norm(np.stack(upper[:400]) - np.stack(upper[400:]), axis=-1).mean(-1)
    assert gaps.max() < SynthesisRecipe().alike_crop


def test_speech_beside_landmarks_is_blurred_and_sometimes_missing(
    dataset: Path, tmp_path: Path
) -> None:
    data = load_dataset(dataset, validation_clips=1)
    model, seen = configs.debug().model, {}
    for guidance in configs.GUIDANCES:
        synthesis = dataclasses.replace(model.synthesis, guidance=guidance)
        net = build(dataclasses.replace(model, synthesis=synthesis))
        latents = encode_clips(net.autoencoder, data.train, tmp_path / "latents", stride=1)
        speech = model.completion
        task = SynthesisTask(net.synthesis, net.autoencoder, data, latents, speech=speech)
        batch = task.batch(np.arange(60) % task.examples, torch.Generator().manual_seed(0))
        assert torch.isfinite(task.loss(batch, torch.Generator().manual_seed(0))["loss"])
        seen[guidance] = batch
    assert "windows" not in seen["landmarks"]
    assert "maps" not in seen["audio"]
    true, given = seen["audio"]["windows"], seen["both"]["windows"]
    deaf = (given == 0).all(-1).all(-1)
    assert 0 < int(deaf.sum()) < 30
    assert not (true == 0).all(-1).all(-1).any()
    gaps = (given - true)[~deaf]
    assert 0 < float(gaps.abs().mean()) < float(true.std())


def test_lips_are_as_they_are_drawn_whatever_is_said(dataset: Path, tmp_path: Path) -> None:
    recipe = SynthesisRecipe(speech_jitter=0.0, no_speech_share=0.0)
    data, model = load_dataset(dataset, validation_clips=1), configs.debug().model
    for guidance in ("both", "audio"):
        synthesis = dataclasses.replace(model.synthesis, guidance=guidance)
        net = build(dataclasses.replace(model, synthesis=synthesis))
        latents = encode_clips(net.autoencoder, data.train, tmp_path / "latents", stride=1)
        speech = model.completion
        task = SynthesisTask(
            net.synthesis, net.autoencoder, data, latents, speech=speech, recipe=recipe
        )
        examples = np.arange(600) % task.examples
        batch = task.batch(examples, torch.Generator().manual_seed(0))
        said = [
            task.conditions._windows[data.train[c].name][0][f] for c, f in latents.index[examples]
        ]
        same = (batch["windows"].numpy() == np.stack(said)).all((1, 2))
        assert same[batch["own"].numpy()].all()
        others = 1 - same[~batch["own"].numpy()].mean()
        # Where speech alone tells of the mouth, it is that mouth's.
        assert abs(others - recipe.other_speech_share) < 0.1 if guidance == "both" else others == 0


def test_some_landmarks_of_the_synthesis_are_completed(dataset: Path, tmp_path: Path) -> None:
    run = run_at(dataset, tmp_path)
    data, net = run.data, build(run.config.model)
    latents = encode_clips(net.autoencoder, data.train, tmp_path / "latents", stride=1)
    shares = {}
    for share in (0.0, 0.5, 1.0):
        task = SynthesisTask(
            net.synthesis,
            net.autoencoder,
            data,
            latents,
            speech=run.config.model.completion,
            completed_share=share,
        )
        task.prepare()
        assert len(task.conditions.completed) == (len(data.train) if share else 0)
        task.conditions.completed = [
            np.full_like(points, 0.1) for points in task.conditions.completed
        ]
        batch = task.batch(np.arange(60) % task.examples, torch.Generator().manual_seed(0))
        # Those points are all in one corner: nothing of the mouth is drawn where it was.
        lower = batch["maps"][:, CHANNELS.index("open_mouth"), 20:]
        shares[share] = float((lower.flatten(1).sum(1) == 0).float().mean())
    assert (shares[0.0], shares[1.0]) == (0, 1)
    assert 0.3 < shares[0.5] < 0.7


def test_completed_faces_are_of_the_upper_ones_moment_with_lips_as_open_as_the_picture(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_at(dataset, tmp_path)
    net, clips = build(run.config.model), run.data.train
    frames = np.arange(len(clips[0]), dtype=np.float32)
    clips[0].points_crop = np.stack([face_points(x) for x in frames / 100])
    clips[0].points_crop[:, UPPER[0], 0] = frames / 1e4
    latents = encode_clips(net.autoencoder, clips[:1], tmp_path / "latents", stride=1)
    task = SynthesisTask(
        net.synthesis,
        net.autoencoder,
        run.data,
        latents,
        speech=run.config.model.completion,
        completed_share=1.0,
        recipe=SynthesisRecipe(point_jitter=0.0),
    )
    smiles = np.stack([face_points(0.03)] * len(frames))
    smiles[:, 48, 0] = frames / 1e3
    task.conditions.completed = [smiles]
    drawn: list[NDArray[np.float32]] = []
    guides = task._guides

    def keep(*given: Any) -> dict[str, Tensor]:
        drawn.append(given[2])
        return guides(*given)

    monkeypatch.setattr(task, "_guides", keep)
    task.batch(np.arange(task.examples), torch.Generator().manual_seed(0))
    points, own = drawn[0], clips[0].points_crop[latents.index[:, 1]]
    np.testing.assert_allclose(mouth_opening(points), mouth_opening(own), atol=1e-6)
    above = np.rint(points[:, UPPER[0], 0] * 1e4)
    assert 0 < (above != latents.index[:, 1]).mean() < 1
    np.testing.assert_allclose(points[:, 48, 0], above / 1e3, atol=1e-6)
