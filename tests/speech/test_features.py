"""Choosing speech features: by name, in training, and with the width that belongs to them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from difftalker import config as configs
from difftalker.errors import AssetError, UsageError
from difftalker.speech.registry import ENCODERS, features_called, load_encoder
from difftalker.store import assets
from difftalker.training import api as recipe
from helpers import write_dataset

SMALL = {"training.landmarks.steps": "2", "training.span_frames": "8"}


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        ("whisper", "whisper-short"),
        ("whisper-short", "whisper-short"),
        ("whisper-padded", "whisper"),
        ("characters", "characters"),
        ("mel", "mel"),
    ],
)
def test_options_name_encoders(option: str, kind: str) -> None:
    assert features_called(option) == kind


def test_all_encoders_can_be_chosen() -> None:
    assert set(configs.FEATURE_OPTIONS.values()) == set(ENCODERS) == set(configs.FEATURE_DIMS)
    with pytest.raises(UsageError, match=r"'smell'.*whisper or .*characters"):
        features_called("smell")


@pytest.mark.parametrize("kind", ENCODERS)
def test_widths_are_those_of_the_table(kind: str) -> None:
    if kind != "mel":
        try:
            assets.path("whisper_tiny_en")
        except AssetError as error:
            pytest.skip(f"Whisper's weights cannot be had: {error}")
    assert load_encoder(kind).dim == configs.FEATURE_DIMS[kind]


def test_an_avatar_learns_from_chosen_features(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data", ("a", "b"), frames=12)
    for clip in (dataset / "clips").iterdir():
        heard = np.random.default_rng(0).random((24, 29)).astype(np.float16)
        np.save(clip / "characters.npy", heard)
    trained = recipe.train(
        [dataset],
        tmp_path / "avatar",
        preset="debug",
        features="characters",
        settings=SMALL,
        stages=("landmarks",),
    )
    chosen = json.loads((trained.run / "config.json").read_text())["model"]["completion"]
    assert (chosen["features"], chosen["feature_dim"]) == ("characters", 29)
    assert np.isfinite(trained.validation["landmarks"]["error"])


def test_features_of_another_width_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"feature_dim is 384.*80 for mel.*--features"):
        recipe.train(
            [tmp_path],
            tmp_path / "avatar",
            consent="yes",
            settings={"model.completion.features": "mel"},
        )
