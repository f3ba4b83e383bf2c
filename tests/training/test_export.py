"""A finished run becomes an avatar, an unfinished one does not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import Tensor

from difftalker.config import STAGES
from difftalker.dubbing.avatar import load
from difftalker.errors import TrainingError
from difftalker.training.export import save_avatar
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
