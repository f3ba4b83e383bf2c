"""Networks built from a configuration, of our own or of a base model."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from difftalker import config as configs
from difftalker.config import CompletionConfig
from difftalker.dubbing.networks import build
from difftalker.errors import AssetError, AvatarError
from difftalker.face.draw import CHANNELS
from difftalker.synthesis.autoencoder import (
    from_layout,
)
from helpers_networks import DEBUG, rng, sd15_config


def test_networks_are_rebuilt_from_their_architecture_and_weights() -> None:
    torch.manual_seed(0)
    first = build(DEBUG)
    architecture = json.loads(json.dumps(first.architecture()))
    second = build(DEBUG, architecture).load(first.state())
    for part, tensors in first.state().items():
        theirs = second.state()[part]
        assert tensors.keys() == theirs.keys()
        assert all(torch.equal(v, theirs[k]) for k, v in tensors.items())


def test_weights_of_other_networks_are_refused() -> None:
    wide = dataclasses.replace(DEBUG, completion=dataclasses.replace(DEBUG.completion, width=32))
    with pytest.raises(AvatarError, match="completion do not fit"):
        build(DEBUG).load(build(wide).state())


def test_sd15_loads_the_diffusers_layout(base_model: Path) -> None:
    networks = build(sd15_config(base_model).model)
    prior, vae = networks.synthesis.prior, networks.autoencoder
    assert prior.config.prediction == "epsilon"
    assert vae.latent_channels == 4
    assert vae.config.patch == 1
    torch.testing.assert_close(vae.std, torch.full((4,), 1 / 0.18215))
    noisy, steps = torch.randn(2, 4, 8, 8, generator=rng()), torch.tensor([999, 5])
    known, maps = noisy.flip(0), torch.rand(2, len(CHANNELS), 64, 64, generator=rng())
    stored = from_layout(type(prior.unet), base_model, "unet")
    with torch.no_grad():
        wanted = stored(noisy, steps, torch.zeros(2, 1, 16)).sample
        assert torch.equal(prior(noisy, steps), wanted)
        net = networks.synthesis
        assert torch.equal(net(noisy, steps, net.guide(known, maps=maps)), wanted)


@pytest.mark.parametrize("missing", ["vae", "unet", "scheduler"])
def test_a_base_model_that_lacks_a_part_is_refused(
    base_model: Path, tmp_path: Path, missing: str
) -> None:
    folder = Path(shutil.copytree(base_model, tmp_path / "base"))
    shutil.rmtree(folder / missing)
    with pytest.raises(AssetError, match=f"the {missing} of the base model"):
        build(sd15_config(folder).model)


def test_a_base_model_with_pickled_weights_is_refused(base_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base_model, tmp_path / "base"))
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    torch.save({}, weights.with_suffix(".bin"))
    weights.unlink()
    with pytest.raises(AssetError, match="the vae of the base model"):
        build(sd15_config(folder).model)


def test_debug_is_small() -> None:
    config: CompletionConfig = DEBUG.completion
    assert config.width == 16
    assert sum(p.numel() for p in build(DEBUG).completion.parameters()) < 50_000


@pytest.mark.parametrize("preset", ["debug", "half", "tiny"])
def test_both_kinds_of_guidance_have_about_as_many_parameters(preset: str) -> None:
    model = configs.preset(preset).model
    counts = []
    for guidance in configs.GUIDANCES:
        changed = dataclasses.replace(model.synthesis, guidance=guidance)
        net = build(dataclasses.replace(model, synthesis=changed)).synthesis
        counts.append(sum(p.numel() for p in net.parameters() if p.requires_grad))
    assert counts[1] == pytest.approx(counts[0], rel=0.02 if preset != "debug" else 0.1)
