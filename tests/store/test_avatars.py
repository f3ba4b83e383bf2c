"""Avatars on disk: a card that can be extended, and files that are checked, whoever made them."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from difftalker.config import preset
from difftalker.core.hashing import sha256_of
from difftalker.dubbing.avatar import load
from difftalker.dubbing.networks import build
from difftalker.errors import AvatarError
from difftalker.store import avatars as avatar
from difftalker.store.calibration import UNMEASURED, Calibration

MEASURED = Calibration(detail=0.5, openings=(0.01,) * 8)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = preset("debug").model
    networks = build(model)
    place = tmp_path_factory.mktemp("avatar") / "someone"
    avatar.write(
        place,
        name="someone",
        config=networks.resolved(model),
        architecture=networks.architecture(),
        weights=networks.state(),
        facts={},
        card="# Someone\n",
        calibration=MEASURED,
    )
    return place


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return shutil.copytree(written, tmp_path / "someone")


def test_a_section_is_added_to_the_card(folder: Path) -> None:
    before = avatar.read(folder)
    avatar.extend_card(folder, "## Measured\n\nPSNR 29 dB\n")
    avatar.extend_card(folder, "## Measured\n\nPSNR 30 dB\n")
    assert (folder / "card.md").read_text() == "# Someone\n\n## Measured\n\nPSNR 30 dB\n"
    assert avatar.read(folder) == before
    assert not list(folder.glob(".*"))


def test_a_card_changed_by_hand_is_refused(folder: Path) -> None:
    with (folder / "card.md").open("a") as file:
        file.write("better than it was measured\n")
    with pytest.raises(AvatarError, match=r"card\.md is truncated or altered"):
        avatar.read(folder)


def test_only_an_avatar_has_a_card(tmp_path: Path) -> None:
    with pytest.raises(AvatarError, match="no avatar"):
        avatar.extend_card(tmp_path, "text")


def test_settings_under_their_former_names_are_read(folder: Path) -> None:
    config = folder / "config.json"
    raw = json.loads(config.read_text())
    completion = raw["model"]["completion"]
    completion["rests"] = not completion.pop("hold_in_silence")
    completion["hears_opening"] = completion.pop("opening_from_speech")
    config.write_text(json.dumps(raw))
    found = avatar.read(folder).config.completion
    assert (found.hold_in_silence, found.opening_from_speech) == (False, True)
    completion["hold_in_silence"] = True
    config.write_text(json.dumps(raw))
    with pytest.raises(AvatarError, match="unknown key 'rests'"):
        avatar.read(folder)


# The calibration


def test_an_avatar_knows_what_was_measured_of_its_person(folder: Path) -> None:
    assert avatar.read(folder).calibration == MEASURED
    assert load(folder).calibration == MEASURED


@pytest.mark.parametrize(
    ("held", "wanted"),
    [
        ({"detail": 0.5, "openings": [0.01] * 8}, MEASURED),
        ({"detail": 0.7}, Calibration(detail=0.7)),
        ({}, UNMEASURED),
    ],
)
def test_an_avatar_of_format_2_has_its_calibration_among_its_networks(
    folder: Path, held: dict[str, Any], wanted: Calibration
) -> None:
    raw = json.loads((folder / "config.json").read_text())
    new = avatar.read(folder)
    raw["format"] = 2
    del raw["files"]["calibration.json"]
    raw["model"]["autoencoder"] |= held
    (folder / "config.json").write_text(json.dumps(raw))
    (folder / "calibration.json").unlink()
    old = avatar.read(folder)
    assert old == dataclasses.replace(new, calibration=wanted)
    avatar.extend_card(folder, "## Measured\n\nPSNR 29 dB\n")
    assert avatar.read(folder) == old


def test_a_calibration_that_is_missing_changed_or_wrong_is_refused(folder: Path) -> None:
    path = folder / "calibration.json"
    for text in ('{"detail": 3}', "[" * 100_000, '{"mean": 0}', "7"):
        path.write_text(text)
        with pytest.raises(AvatarError, match=r"calibration\.json is truncated or altered"):
            avatar.read(folder)
        edited(folder, "name", to="someone")  # with the hash of what was written
        with pytest.raises(AvatarError, match=r"does not fit|is damaged"):
            avatar.read(folder)
    path.unlink()
    with pytest.raises(AvatarError, match=r"lacks its file calibration\.json"):
        avatar.read(folder)


# Avatars from strangers


def edited(folder: Path, *path: str, to: Any) -> None:
    """Set one value in config.json and make the hashes right again, as a stranger would."""
    config = folder / "config.json"
    raw = json.loads(config.read_text())
    at = raw
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = to
    raw["files"] = {name: sha256_of(folder / name) for name in raw["files"]}
    config.write_text(json.dumps(raw))


def test_an_avatar_comes_back(folder: Path) -> None:
    networks = load(folder).networks
    for part, tensors in networks.state().items():
        for name, saved in load_file(folder / f"{part}.safetensors").items():
            held = tensors[name]  # in half precision where that is what is computed with
            torch.testing.assert_close(held, saved.to(held.dtype))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("model", "base_model"), "https://example.org/evil"),
        (("model", "base_model"), "../other"),
        (("model", "size_px"), 1 << 20),
        (("model", "unknown"), 1),
        (("model", "completion", "layers"), 10**9),
        (("model", "completion", "window"), 10**9),
        (("model", "completion", "neighbours"), 10**9),
        (("model", "prior", "timesteps"), 10**12),
        (("model", "prior", "channels"), [8] * 1000),
        (("model", "synthesis", "window"), 10**6),
        (("model", "sampling", "steps"), 10**9),
        (("architecture", "vae", "block_out_channels"), [8, 1 << 30]),
        (("architecture", "vae", "block_out_channels"), [8, 8192]),
        (("architecture", "vae", "layers_per_block"), 10**9),
        (("architecture", "vae", "down_block_types"), ["os.system", "DownEncoderBlock2D"]),
        (("architecture", "vae", "_class_name"), "Evil"),
        (("architecture", "vae", "in_channels"), 3),
        (("architecture", "unet", "act_fn"), "__import__"),
        (("architecture", "unet", "transformer_layers_per_block"), [[10**9]]),
        (("architecture", "unet", "norm_eps"), float("nan")),
        (("architecture", "unet", "encoder_hid_dim_type"), "text_image_proj"),
        (("architecture", "unet", "in_channels"), 5),
        (("architecture", "unet"), []),
        (("architecture", "evil"), {}),
        (("name",), "line\nbreak"),
        (("name",), "x" * 10_000),
        (("facts",), None),
        (("format",), avatar.FORMAT + 1),
        (("format",), [[]]),
    ],
)
def test_what_an_avatar_cannot_say_is_refused(
    folder: Path, path: tuple[str, ...], value: object
) -> None:
    edited(folder, *path, to=value)
    with pytest.raises(AvatarError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "[]", '{"format": 1}', " " * (2 << 20)])
def test_what_is_no_configuration_is_refused(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(AvatarError):
        load(folder)


def _lacking(tensors: dict[str, torch.Tensor]) -> None:
    tensors.popitem()


def _larger(tensors: dict[str, torch.Tensor]) -> None:
    tensors["mean_lower"] = torch.zeros(1000, 1000)


def _whole_numbers(tensors: dict[str, torch.Tensor]) -> None:
    tensors["mean_lower"] = torch.zeros(31, 2, dtype=torch.int64)


def _more(tensors: dict[str, torch.Tensor]) -> None:
    tensors["evil"] = torch.zeros(1)


@pytest.mark.parametrize("change", [_lacking, _larger, _whole_numbers, _more])
def test_other_weights_are_refused(
    folder: Path, change: Callable[[dict[str, torch.Tensor]], None]
) -> None:
    part = folder / "completion.safetensors"
    tensors = load_file(part)
    change(tensors)
    save_file(tensors, part)
    edited(folder, "name", to="someone")
    with pytest.raises(AvatarError, match=r"in completion|is of type"):
        load(folder)


def _header(length: int, text: bytes) -> bytes:
    return struct.pack("<Q", length) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",  # a pickle
        _header(1 << 62, b"{}"),
        _header(100 << 20, b"{" + b" " * 1000),
        _header(2, b"[]"),
        _header(70, b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'),
        np.random.default_rng(0).bytes(5000),
    ],
)
def test_what_is_no_safetensors_file_is_refused(folder: Path, content: bytes) -> None:
    (folder / "synthesis.safetensors").write_bytes(content)
    edited(folder, "name", to="someone")
    with pytest.raises(AvatarError):
        load(folder)
    with pytest.raises(AvatarError):
        avatar.read(folder).weights()


@pytest.mark.parametrize(
    "name", ["config.json", "card.md", "calibration.json", "completion.safetensors"]
)
def test_no_link_is_followed_out_of_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    (folder / name).rename(outside)
    (folder / name).symlink_to(outside)
    with pytest.raises(AvatarError, match="outside of its folder"):
        avatar.read(folder)
