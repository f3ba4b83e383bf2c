"""Each baseline learns, goes on where it was stopped, and is kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from baselines.made import SMALL, train
from difftalker.baselines import systems
from difftalker.baselines.after_makeittalk import Similarities
from difftalker.baselines.after_wav2lip import grey_mouths
from difftalker.baselines.base import BaselineOptions, neutral_frame
from difftalker.data.dataset import load_dataset
from difftalker.errors import AssetError, UsageError
from difftalker.experts.sync_net import grey_mouth
from difftalker.face.landmarks import UPPER, mouth_opening
from difftalker.store import experts
from difftalker.synthesis.autoencoder import to_pixels
from difftalker.training.batches import StepNumbers
from difftalker.training.task import Batch, Prepares
from difftalker.training.trainer import Trainer
from helpers import draw_face, face_points


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_every_stage_learns(name: str, dataset: Path, tmp_path: Path) -> None:
    system, data = systems.SYSTEMS[name], load_dataset(dataset, validation_clips=1)
    config = systems.configuration(system, data, "mel", SMALL[name])
    torch.manual_seed(0)
    net = system.network(config)
    net.remember(data.train)
    options = BaselineOptions(run=tmp_path, features="mel")
    untrained = copy.deepcopy(net.state_dict())
    for stage in system.stages(net, config, data, options):
        net.load_state_dict(untrained)  # a stage that refines another's learns from nothing, too
        task, generator = stage.task, torch.Generator().manual_seed(0)
        if isinstance(task, Prepares):
            task.prepare()
        batches = [task.batch(np.arange(4) + 4 * i, generator) for i in range(2)]
        optimizer = torch.optim.Adam(task.model.parameters(), 3e-3)

        def error(task: Any = task, batches: Any = batches) -> float:
            found = [task.loss(batch, torch.Generator().manual_seed(1)) for batch in batches]
            return float(np.mean([one.get("l1", one["loss"]).item() for one in found]))

        before = error()
        for step in range(40):
            optimizer.zero_grad()
            task.loss(batches[step % 2], generator)["loss"].backward()
            optimizer.step()
        assert error() < 0.6 * before, task.name


@pytest.mark.parametrize("name", systems.SYSTEMS)
def test_a_training_goes_on_from_its_checkpoints_and_is_kept(
    name: str, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    one_step = Trainer.one_step

    def counted(self: Trainer, batch: list[Batch]) -> StepNumbers:
        steps.append(self.task.name)
        return one_step(self, batch)

    monkeypatch.setattr(Trainer, "one_step", counted)
    train(name, dataset, tmp_path / "made", steps=2)
    stages = sorted(set(steps))
    assert len(steps) == 2 * len(stages)
    steps.clear()
    figures = train(name, dataset, tmp_path / "made", steps=3)
    assert sorted(steps) == stages, "one step more, from the second on"
    assert any(key.endswith("psnr_lower") for key in figures)
    steps.clear()
    assert train(name, dataset, tmp_path / "made", steps=3) == figures
    assert not steps
    made = systems.load(tmp_path / "made")
    assert (made.system.name, made.features) == (name, "mel")
    assert made.net.reference.std() > 0
    assert systems.SYSTEMS[name].about in (tmp_path / "made" / "card.md").read_text()


def test_wrong_input_is_told_in_one_line(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no baseline is called 'wav2lip'; wanted after-wav2lip"):
        systems.train("wav2lip", dataset, tmp_path / "out")
    with pytest.raises(UsageError, match="no 'whisper-short' features"):
        systems.train("after-makeittalk", dataset, tmp_path / "out")
    with pytest.raises(UsageError, match=r"size_px = 128; wanted the dataset's, 64"):
        train("after-wav2lip", dataset, tmp_path / "out", settings={"size_px": "128"})
    with pytest.raises(UsageError, match="channels = '8,x'"):
        train("after-wav2lip", dataset, tmp_path / "out", settings={"channels": "8,x"})
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    with pytest.raises(AssetError, match="holds other things"):
        train("after-wav2lip", dataset, tmp_path / "full")
    with pytest.raises(AssetError, match="is no baseline"):
        systems.load(tmp_path / "full")
    with pytest.raises(AssetError, match="is no baseline"):
        systems.load(experts.PACKAGED / "sync")


def test_the_reference_has_closed_lips(dataset: Path) -> None:
    clips = load_dataset(dataset, validation_clips=1).train
    clip, frame = neutral_frame(clips)
    every = np.concatenate([mouth_opening(one.points_crop) for one in clips])
    assert mouth_opening(clips[clip].points_crop[frame]) <= np.quantile(every, 0.1)


def test_faces_are_laid_on_others() -> None:
    face = face_points(0.05)[None]
    turn = np.array([[0.9, -0.2], [0.2, 0.9]], np.float32)
    moved = face @ turn.T + np.array([0.1, -0.05], np.float32)
    found = Similarities.onto(face[:, list(UPPER)], moved[:, list(UPPER)]).apply(face)
    np.testing.assert_allclose(found, moved, atol=1e-5)


@pytest.mark.parametrize("size", [64, 128, 256])
def test_mouths_are_cut_as_the_sync_expert_learned_them(size: int) -> None:
    crop = draw_face(face_points(0.05), size, np.random.default_rng(0))
    found = grey_mouths(to_pixels(torch.from_numpy(crop[None])))[0].numpy()
    assert np.abs(found - grey_mouth(crop)).mean() < 2
