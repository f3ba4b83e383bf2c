"""A finished run, or one from a base model, becomes an avatar; an unfinished one does not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor

from difftalker.config import STAGES
from difftalker.data.dataset import ClipData, load_dataset
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.networks import Networks
from difftalker.errors import TrainingError
from difftalker.training.export import save_avatar
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run
from helpers_networks import sd15_config
from helpers_training import Finished, checkpoint_of, part_of, run_at, same


def halves(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}


def test_a_finished_run_becomes_an_avatar(finished: Finished, tmp_path: Path) -> None:
    run = run_at(finished.dataset, finished.folder)
    folder = tmp_path / "avatar"
    save_avatar(run, folder, name="cartoon", consent="drawn", source="tests", command="make test")
    card = (folder / "card.md").read_text()
    assert all(text in card for text in ("cartoon", "drawn", "tests", "make test", *STAGES))

    # The averages are what is saved, and the frozen prior is the trained one.
    completion = load_file(folder / "completion.safetensors")
    tensors, _ = checkpoint_of(finished.folder / "landmarks")
    ema = halves(part_of(tensors, "ema"))
    assert same({k: completion[k] for k in ema}, ema)
    synthesis = load_file(folder / "synthesis.safetensors")
    for stage, prefix in (("prior", "prior."), ("synthesis", "")):
        ema = halves(part_of(checkpoint_of(finished.folder / stage)[0], "ema"))
        assert ema
        assert same({k: synthesis[prefix + k] for k in ema}, ema)

    avatar = load(folder)
    clip = run.data.validation[0]
    crops, boxes = np.array(clip.frames[:3]), clip.boxes[:3]
    made = avatar.renderer().render(crops, boxes, clip.points_crop[:3])
    assert made.shape == crops.shape
    assert made.dtype == np.uint8
    assert made.std() > 5


def test_an_unfinished_run_becomes_no_avatar(finished: Finished, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    shutil.rmtree(folder / "synthesis")
    with pytest.raises(TrainingError, match="stage synthesis is at step 0"):
        save_avatar(
            run_at(finished.dataset, folder),
            tmp_path / "avatar",
            name="x",
            consent="x",
            source="x",
            command="x",
        )
    assert not (tmp_path / "avatar").exists()


def halved(networks: Networks) -> dict[str, dict[str, Tensor]]:
    """The state as an avatar's files have it."""
    return {
        part: {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
        for part, tensors in networks.state().items()
    }


def test_sd15_trains_samples_and_becomes_an_avatar_of_its_own(
    base_model: Path, dataset: Path, tmp_path: Path
) -> None:
    base = Path(shutil.copytree(base_model, tmp_path / "base"))
    run = Run(sd15_config(base), TrainOptions(dataset=dataset, run=tmp_path / "run"))
    numbers = run.train()
    # The base model has the other two.
    assert set(numbers) == {"landmarks", "synthesis", "decoder", "light", "live"}
    assert all(np.isfinite(list(log.values())).all() for log in numbers.values())
    save_avatar(
        run, tmp_path / "avatar", name="x", consent="drawn", source="none", command="pytest"
    )
    networks = run.sources.networks()
    networks = networks.load(halved(networks))
    calibration = run.sources.calibration()
    ours = Avatar("x", networks.resolved(run.config.model), networks, calibration=calibration)
    clip = load_dataset(dataset, validation_clips=1).validation[0]
    wanted = rendered(ours, clip)

    shutil.rmtree(base)
    assert str(base) not in (tmp_path / "avatar" / "config.json").read_text()
    theirs = load(tmp_path / "avatar")
    assert theirs.config.base_model == ""
    assert theirs.config.prior.prediction == "epsilon"
    assert np.array_equal(rendered(theirs, clip), wanted)


def rendered(avatar: Avatar, clip: ClipData) -> Any:
    frames = slice(0, 2)
    return avatar.renderer(seed=1).render(
        np.array(clip.frames[frames]), clip.boxes[frames], clip.points_crop[frames]
    )
