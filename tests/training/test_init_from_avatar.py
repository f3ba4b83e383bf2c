"""Runs that begin from an avatar of a finished run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from difftalker import config as configs
from difftalker.config import STAGES
from difftalker.core.hashing import sha256_of
from difftalker.data.dataset import load_dataset
from difftalker.dubbing.avatar import load
from difftalker.dubbing.load_checked import load_networks
from difftalker.errors import AvatarError, UsageError
from difftalker.face.landmarks import UPPER
from difftalker.store.avatars import read
from difftalker.training.export import save_avatar
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run
from helpers import face_points
from helpers_training import STEPS, Finished, run_at, same


def started(finished: Finished, folder: Path, start: Path, stages: tuple[str, ...]) -> Run:
    options = TrainOptions(
        dataset=finished.dataset, run=folder, stages=stages, start=str(start), seed=1
    )
    return Run(configs.debug(), options)


def test_a_synthesis_that_saw_begins_one_that_hears_too(finished: Finished, tmp_path: Path) -> None:
    first, debug = tmp_path / "first", configs.debug()
    said = {"consent": "drawn", "source": "tests", "command": "make test"}
    save_avatar(run_at(finished.dataset, finished.folder), first, name="cartoon", **said)
    synthesis = dataclasses.replace(debug.model.synthesis, guidance="both")
    model = dataclasses.replace(debug.model, synthesis=synthesis)
    both = dataclasses.replace(debug, model=model)
    options = TrainOptions(
        dataset=finished.dataset,
        run=tmp_path / "run",
        stages=("synthesis",),
        start=str(first),
        keep=True,
    )
    begun = Run(both, options).trainer("synthesis").task.model.state_dict()
    saw = load_networks(read(first)).synthesis.state_dict()
    assert all(torch.equal(begun[name], value) for name, value in saw.items())
    new = set(begun) - set(saw)
    assert new
    assert all(name.startswith("prompt.") for name in new)
    kept = dataclasses.replace(options, run=tmp_path / "kept", stages=("decoder",))
    with pytest.raises(UsageError, match="guided by landmarks, not by both"):
        Run(both, kept)


def test_a_run_begins_from_an_avatar_and_leaves_the_other_stages_as_they_are(
    finished: Finished, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    said = {"consent": "drawn", "source": "tests", "command": "make test"}
    save_avatar(run_at(finished.dataset, finished.folder), first, name="cartoon", **said)
    run = started(finished, tmp_path / "run", first, ("landmarks", "decoder"))
    begun = run.trainer("landmarks").task.model.state_dict()
    old = load(first).networks.state()
    torch.testing.assert_close(begun["bm_trans.queries"], old["completion"]["bm_trans.queries"])
    run.train()
    assert run.unfinished() == []
    save_avatar(run, second, name="cartoon", **said)
    new = load(second).networks.state()
    assert same(new["synthesis"], old["synthesis"])
    for part in ("completion", "autoencoder"):
        assert not same(new[part], old[part])
    facts = load(second).facts["stages"]
    assert set(facts) == set(STAGES)
    assert facts["prior"] == load(first).facts["stages"]["prior"]
    assert (facts["prior"]["steps"], facts["decoder"]["steps"]) == (STEPS, 2 * STEPS)


def test_an_avatar_of_the_light_network_alone(finished: Finished, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    said = {"consent": "drawn", "source": "tests", "command": "make test"}
    save_avatar(run_at(finished.dataset, finished.folder), first, name="cartoon", **said)
    debug = configs.override(
        configs.debug(), {"training.diffusion": "false", "training.light.steps": "2"}
    )
    options = TrainOptions(
        dataset=finished.dataset, run=tmp_path / "run", stages=STAGES, start=str(first), seed=1
    )
    run = Run(debug, options)
    run.train()
    assert run.unfinished() == []
    save_avatar(run, second, name="cartoon", **said)
    files = {path.stem for path in second.glob("*.safetensors")}
    assert files >= {"completion", "motion", "light"}
    assert not files & {"autoencoder", "synthesis"}
    alone = load(second)
    assert not {"autoencoder", "prior", "synthesis", "decoder"} & set(alone.facts["stages"])
    assert alone.rendering().renderer == "light"
    assert alone.renderer().whole_face(face_points(0.05)).shape == (debug.model.size_px,) * 2 + (3,)
    for asked in ({"renderer": "diffusion"}, {"steps": 2}):
        with pytest.raises(UsageError, match=r"no diffusion.*--quality best"):
            alone.rendering(**asked)
    with pytest.raises(UsageError, match=r"no diffusion to begin at.*--quality light"):
        Run(configs.debug(), dataclasses.replace(options, run=tmp_path / "on", start=str(second)))
    (second / "light.safetensors").unlink()
    config = json.loads((second / "config.json").read_text())
    del config["files"]["light.safetensors"]
    (second / "config.json").write_text(json.dumps(config))
    with pytest.raises(AvatarError, match="neither a whole diffusion nor the light network"):
        load(second)


@pytest.mark.parametrize("stages", [("prior",), ("synthesis",), ("autoencoder",)])
def test_every_stage_begins_from_an_avatar(
    finished: Finished, stages: tuple[str, ...], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    run = run_at(finished.dataset, finished.folder)
    save_avatar(run, first, name="a", consent="drawn", source="tests", command="make test")
    part = "synthesis" if stages[0] == "prior" else stages[0]
    old = load_networks(read(first)).state()[part]
    begun = started(finished, tmp_path / "run", first, stages).trainer(stages[0]).task.model
    prefix = "prior." if stages[0] == "prior" else ""
    for name, tensor in begun.state_dict().items():
        torch.testing.assert_close(tensor, old[prefix + name].to(tensor), msg=name)


def blinking(folder: Path, blinks_hz: float) -> Path:
    """The avatar, with another rate of blinks than its footage has."""
    part = folder / "motion.safetensors"
    save_file({**load_file(part), "blinks_hz": torch.tensor(blinks_hz).half()}, part)
    config = folder / "config.json"
    raw = json.loads(config.read_text())
    raw["files"][part.name] = sha256_of(part)
    config.write_text(json.dumps(raw))
    return folder


def test_the_movement_of_heads_is_that_of_the_footage_the_landmarks_come_from(
    finished: Finished, tmp_path: Path
) -> None:
    first, said = tmp_path / "first", {"consent": "drawn", "source": "tests", "command": "make"}
    save_avatar(run_at(finished.dataset, finished.folder), first, name="cartoon", **said)
    saved = load(first).networks.motion
    seen = load_dataset(finished.dataset, validation_clips=1).train[0].points_crop[:, list(UPPER)]
    # The drawn head sways by a hundredth of the crop about where it stands.
    np.testing.assert_allclose(saved.mean.numpy(), seen.mean(0), atol=0.02)
    assert 0 < float(saved.spread[0]) < 0.2
    blinking(first, 0.125)
    for stages, is_kept in ((("decoder",), True), (("landmarks",), False)):
        run = started(finished, tmp_path / f"run-{stages[0]}", first, stages)
        run.train()
        assert (float(run.sources.networks().motion.blinks_hz) == 0.125) is is_kept


def test_a_run_begins_from_no_avatar_of_other_networks(finished: Finished, tmp_path: Path) -> None:
    run = run_at(finished.dataset, finished.folder)
    said = {"consent": "drawn", "source": "tests", "command": "make test"}
    save_avatar(run, tmp_path / "first", name="cartoon", **said)
    other = configs.override(configs.debug(), {"model.completion.width": "32"})
    options = TrainOptions(
        dataset=finished.dataset, run=tmp_path / "run", start=str(tmp_path / "first")
    )
    with pytest.raises(UsageError, match=r"has other networks.*with --start none"):
        Run(other, options)
