"""The network of many faces, and what begins at it."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from difftalker import config as configs
from difftalker.data.dataset import load_people
from difftalker.errors import MediaError, UsageError
from difftalker.face.landmarks import UPPER
from difftalker.store import avatars, experts
from difftalker.synthesis.light import LightNet, skin_tone, with_patch
from difftalker.training.expert_job import ExpertJob, ExpertOptions
from difftalker.training.faces_task import FacesTask, balanced
from difftalker.training.options import TrainOptions
from difftalker.training.sources import Sources
from difftalker.training.trainer import Trainer
from helpers import face_points, write_dataset
from helpers_networks import write_untrained


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Datasets of two people."""
    folder = tmp_path_factory.mktemp("people")
    write_dataset(folder / "ann")
    shutil.copytree(folder / "ann", folder / "bob")
    return folder


def task_of(people: Path, folder: Path) -> FacesTask:
    model = configs.debug().model
    torch.manual_seed(0)
    net = LightNet(model.light, model.synthesis, model.completion)
    return FacesTask(
        net, load_people(people), folder, synthesis=model.synthesis, speech=model.completion
    )


def test_people_are_told_apart_by_their_folders(people: Path) -> None:
    data = load_people(people)
    assert {clip.person for clip in data.train} == {"ann", "bob"}
    names = [clip.name for clip in data.train]
    assert len(set(names)) == len(names)
    alone = load_people(people, held_out="bob")
    assert {clip.person for clip in alone.train} == {"ann"}
    assert "bob" in {clip.person for clip in alone.validation}
    with pytest.raises(UsageError, match=r"called 'rob'.*ann or bob"):
        load_people(people, held_out="rob")


def test_a_folder_without_datasets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="0 datasets"):
        load_people(tmp_path)


def test_rare_people_count_more() -> None:
    rows = np.array([(0, f) for f in range(8)] + [(1, 0), (1, 1)] + [(2, 0)])
    found = balanced(rows, ["often", "rare", "once"])
    counts = {clip: int((found[:, 0] == clip).sum()) for clip in range(3)}
    assert counts == {0: 8, 1: 8, 2: 4}


def test_faces_are_learned_and_never_the_same_twice(people: Path, tmp_path: Path) -> None:
    task = task_of(people, tmp_path)
    first = task.batch(np.array([0, 1]), torch.Generator().manual_seed(1))
    again = task.batch(np.array([0, 1]), torch.Generator().manual_seed(1))
    other = task.batch(np.array([0, 1]), torch.Generator().manual_seed(2))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["true"], other["true"])
    stage = dataclasses.replace(configs.debug().training.light, steps=30, learning_rate=3e-3)
    task = task_of(people, tmp_path)
    generator = torch.Generator().manual_seed(0)
    batches = [task.batch(np.arange(4) + i, generator) for i in range(4)]

    def distance() -> float:
        with torch.enable_grad():
            found = [task.loss(b, generator)["distance"].item() for b in batches]
        return float(np.mean(found))

    before = distance()
    Trainer(task, stage, tmp_path / "run").run()
    assert distance() < 0.8 * before


def test_the_expert_holds_the_light_network_and_new_avatars_begin_there(
    people: Path,
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: Callable[..., tuple[int, str, str]],
) -> None:
    stage = dataclasses.replace(configs.debug().training.light, steps=2)

    def small(data: object, options: ExpertOptions) -> ExpertJob:
        task = task_of(people, options.run)
        return ExpertJob(
            task=task,
            net=task.model["light"],
            stage=stage,
            config=dataclasses.asdict(configs.debug().model.light),
            unseen=task.validate,
            about="faces",
            corpora="drawings",
        )

    monkeypatch.setattr("difftalker.training.experts.BUILDERS", {"faces": small})
    place = tmp_path / "experts"
    code, _, told = command("train-expert", "faces", people, "-o", place / "faces", "--steps", "2")
    assert code == 0, told
    monkeypatch.setattr(experts, "PACKAGED", place)
    config = configs.override(configs.debug(), {"training.diffusion": "false"})
    options = TrainOptions(
        dataset=dataset, run=tmp_path / "run", start=str(tmp_path / "begun"), keep=False
    )
    start = avatars.read(write_untrained(tmp_path / "begun"))
    sources = Sources(config, options, load_people(people), start)
    assert sources.faces is not None
    wanted = experts.read(kind="faces").weights()
    found = sources.begun_light().state_dict()
    assert all(torch.equal(found[name], wanted[name].float()) for name in found)
    asked = dataclasses.replace(options, keep=True)
    assert Sources(config, asked, load_people(people), start).faces is not None
    with_light = avatars.read(write_untrained(tmp_path / "light", parts=("light",)))
    kept = Sources(config, asked, load_people(people), with_light)
    assert kept.faces is None  # who names an avatar with a light network begins there
    larger = configs.override(config, {"model.light.patch": "8"})
    enlarged = Sources(larger, options, load_people(people), start).begun_light()
    assert enlarged.out.weight.shape[0] == 3 * 8**2
    wider = configs.override(config, {"model.light.channels": "8,8,16,24"})
    assert Sources(wider, options, load_people(people), start).faces is None


# Larger crops


@pytest.mark.parametrize("patch", [2, 6, 8])
def test_a_larger_crop_is_seen_as_a_smaller_one_was(patch: int) -> None:
    model = configs.debug().model
    torch.manual_seed(0)
    small = LightNet(model.light, model.synthesis, model.completion).eval()
    other = dataclasses.replace(model.light, patch=patch)
    large = LightNet(other, model.synthesis, model.completion).eval()
    large.load_state_dict(with_patch(small.state_dict(), model.light.patch, patch))
    patches = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    shown, hidden = (
        torch.nn.functional.interpolate(patches, scale_factor=float(n)) for n in (4, patch)
    )
    with torch.no_grad():
        a = small.encode_scene(shown, torch.zeros(1, 1, 64, 64))
        b = large.encode_scene(hidden, torch.zeros(1, 1, 16 * patch, 16 * patch))
        for one, same in zip(a, b, strict=True):
            torch.testing.assert_close(one, same, atol=1e-5, rtol=1e-5)
        made = [net(x, None, None).mean() for net, x in ((small, a), (large, b))]
    torch.testing.assert_close(*made, atol=1e-5, rtol=1e-5)


# Colours relative to skin


def pictures(shape: tuple[int, int, int] = (2, 64, 64)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    count, height, width = shape
    return torch.rand((count, 3, height, width), generator=generator) * 2 - 1


def test_the_tone_is_that_of_skin_between_eyes_and_mask() -> None:
    upper = torch.from_numpy(face_points()[None, list(UPPER)])
    shown = torch.full((1, 3, 64, 64), -1.0)
    shown[:, :, 20:30, 18:46] = torch.tensor([0.5, 0.2, -0.1])[None, :, None, None]
    box = torch.tensor([[30, 64, 8, 56]]) / 64
    mean, spread = skin_tone(shown, box, upper)[0]
    torch.testing.assert_close(mean, torch.tensor([0.5, 0.2, -0.1]))
    assert (spread > 0).all()
    whole = torch.tensor([[0, 64, 0, 64]]) / 64
    torch.testing.assert_close(
        skin_tone(shown, whole, upper)[0], torch.tensor([[0.0] * 3, [1.0] * 3])
    )


def test_in_another_light_the_same_is_made_in_that_light() -> None:
    model = configs.debug().model
    net = LightNet(model.light, model.synthesis, model.completion).eval()
    torch.nn.init.normal_(net.out.weight, std=0.1)
    upper = torch.from_numpy(np.stack([face_points()[list(UPPER)]] * 2))
    boxes = torch.tensor([[32, 64, 8, 56]] * 2)
    mask, _ = net.hidden(boxes, upper, 64)
    gain = torch.tensor([0.6, 0.8, 0.5])[None, :, None, None]
    shift = torch.tensor([0.1, -0.2, 0.05])[None, :, None, None]

    def made(shown: torch.Tensor) -> torch.Tensor:
        tone = net.tone(shown, boxes, upper, 64)
        found: torch.Tensor = net(net.encode_scene(shown, mask, tone), None, None, tone)
        return found

    with torch.no_grad():
        torch.testing.assert_close(
            made(pictures() * gain + shift), made(pictures()) * gain + shift, atol=1e-4, rtol=1e-4
        )
