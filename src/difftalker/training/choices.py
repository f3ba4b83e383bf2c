"""What is meant by a call of training: its configuration, start, crops and time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from difftalker import config as configs
from difftalker.config import STAGES, Config
from difftalker.data.footage import find_footage
from difftalker.data.prepare import crop_size, load_manifest
from difftalker.errors import UsageError
from difftalker.speech.registry import features_called, load_encoder
from difftalker.store import avatars as avatar
from difftalker.training.budget import DEFAULT_MINUTES
from difftalker.training.init_from import NONE, Start, choose_start

QUICK = "tiny"
"""The preset whose avatars have the light network alone, if nothing else is said."""
SIZES = {256: 4, 384: 6, 512: 8}
"""Sides of crops, and of the light network's patches in them: its cost stays nearly the same."""
QUALITIES = ("auto", "best", "light")


def configured(
    preset: str,
    completion: str,
    features: str,
    start: str,
    settings: Mapping[str, str],
    run: Path,
) -> tuple[Config, Start]:
    """What is trained, and the avatar whose networks it begins from."""
    chosen = configs.preset(preset, completion=completion)
    if start not in ("", NONE):
        chosen = _modelled_on(start, chosen, completion)
    if features:
        kind = features_called(features)
        dim = configs.FEATURE_DIMS.get(kind) or load_encoder(kind).dim
        chosen = configs.with_features(chosen, kind, dim)
    overridden = configs.override(chosen, settings)
    configs.check_features(overridden.model.completion)
    alone = not overridden.training.diffusion
    begun = choose_start(start, overridden.model, run, light_alone=alone)
    if begun.avatar:
        overridden = configs.override(configs.fine_tuned(chosen), settings)
    return overridden, begun


def _modelled_on(start: str, chosen: Config, completion: str) -> Config:
    """The configuration with an avatar's networks."""
    model = avatar.read(start).config
    wanted = configs.COMPLETIONS[completion](model.completion)
    return dataclasses.replace(chosen, model=dataclasses.replace(model, completion=wanted))


def with_quality(quality: str, preset: str, settings: Mapping[str, str]) -> Mapping[str, str]:
    """The settings, those of a quality among them."""
    if quality not in QUALITIES:
        raise UsageError(f"no quality is called {quality!r}", wanted=" or ".join(QUALITIES))
    if quality == "light" or (quality == "auto" and preset == QUICK):
        return {"training.diffusion": "false", **settings}
    return settings


def with_size(
    size: int | None,
    preset: str,
    start: str,
    settings: Mapping[str, str],
    footage: Sequence[Path],
    clips: Sequence[str],
) -> Mapping[str, str]:
    """The settings with the side of the crops that is asked for, or that the footage deserves."""
    if size is None:
        light = preset == QUICK and settings.get("training.diffusion") == "false"
        chosen = {"model.size_px", "model.light.patch"} & set(settings)
        if not light or chosen or start not in ("", NONE):
            return settings
        if is_dataset(footage):
            size = load_manifest(footage[0]).config.size_px
            if size not in SIZES:
                return settings  # which are refused later
        else:
            size = crop_size(find_footage(footage, clips)[0])
    if size not in SIZES:
        raise UsageError(f"crops of {size} pixels", wanted=" or ".join(map(str, SIZES)))
    return {"model.size_px": str(size), "model.light.patch": str(SIZES[size]), **settings}


def minutes_of(
    minutes: float | None, preset: str, settings: Mapping[str, str], stages: Sequence[str]
) -> float:
    """How long training may take; 0: until all steps are taken."""
    if minutes is not None:
        if not 0 <= minutes < math.inf:
            raise UsageError(f"{minutes} minutes", wanted="0 (until all steps are taken) or more")
        return minutes
    light = preset == QUICK and settings.get("training.diffusion") == "false"
    asked = any(name.startswith("training.") and name.endswith(".steps") for name in settings)
    return DEFAULT_MINUTES if light and not asked and tuple(stages) in ((), STAGES) else 0.0


def is_dataset(footage: Sequence[Path]) -> bool:
    """Whether what is given as footage is a dataset made by ``prepare``."""
    return len(footage) == 1 and (footage[0] / "manifest.json").is_file()
