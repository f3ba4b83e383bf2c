"""The ablations: each is the reference with one change, trained to an avatar at debug size."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import ablations
from ablations import VARIANTS, configuration, ingredients
from difftalker.config import STAGES
from difftalker.dubbing.avatar import load
from difftalker.training.checkpoint import load_checkpoint

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
            completion + "opening_from_speech": False,
            completion + "hold_in_silence": False,
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
    expected = {
        "reference": list(STAGES),
        "no-am-trans": list(STAGES[1:]),
        "no-landmarks": ["landmarks", "autoencoder", "prior", "live"],
        "paper": ["autoencoder", "prior", "synthesis", "decoder", "light"],
        "mel": list(STAGES),  # the features of the preset `debug`
        "characters": list(STAGES[1:]),
        "mouth-mask": ["landmarks", "live"],
        "tuned-prior": ["landmarks", "autoencoder", "prior", "live"],
    }
    assert shares == expected


def test_every_variant_becomes_an_avatar(trained: Path) -> None:
    for name in TRAINED:
        avatar = load(trained / "avatars" / name)
        assert avatar.name == f"debug-{name}"
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
    record = json.loads(capsys.readouterr().out)
    assert record["variant"] == "tuned-prior"
    assert record["synthesis"]["psnr_lower"] > 0
    assert [record[stage]["steps"] for stage in STAGES] == [6] * len(STAGES)


def test_a_variant_that_fails_does_not_stop_the_others(
    trained: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    assert run_script(dataset, folder, *only(["characters", "reference"])) == 1
    said = capsys.readouterr()
    assert "characters: the dataset holds no 'characters' features" in said.err
    assert json.loads(said.out)["variant"] == "reference"


def test_a_run_of_before_the_options_goes_on(trained: Path, dataset: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    written = folder / "reference" / "config.json"
    config = json.loads(written.read_text())
    del config["model"]["mask"], config["model"]["synthesis"]["tune_prior"]
    written.write_text(json.dumps(config))
    assert run_script(dataset, folder, "--only", "reference") == 0
