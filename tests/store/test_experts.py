"""Experts on disk: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from difftalker.core.hashing import sha256_of
from difftalker.errors import AssetError
from difftalker.store import experts as expert


def written(folder: Path, **changes: object) -> Path:
    expert.write(
        folder,
        kind="sync",
        config={"width": 4},
        weights={"a": torch.arange(4.0)},
        facts={"seed": 0},
        card="# Expert sync\n",
    )
    if changes:
        raw = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**raw, **changes}))
    return folder


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = expert.read(written(tmp_path / "e"), kind="sync")
    assert (found.config, found.facts) == ({"width": 4}, {"seed": 0})
    weights = found.weights()
    assert weights["a"].dtype == torch.float16
    assert weights["a"].tolist() == [0, 1, 2, 3]


def test_an_older_expert_is_replaced_but_nothing_else(tmp_path: Path) -> None:
    written(written(tmp_path / "e"))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(AssetError, match="holds other things"):
        written(tmp_path / "other")
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"kind": "lips"}, "of kind 'lips'"), ({"format": 2}, "format 2"), ({"files": {}}, "altered")],
)
def test_other_folders_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(AssetError, match=message):
        expert.read(written(tmp_path / "e", **changes), kind="sync")


def test_damage_is_told(tmp_path: Path) -> None:
    folder = written(tmp_path / "e")
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(40)
    with pytest.raises(AssetError, match="missing or altered"):
        expert.read(folder, kind="sync")
    (folder / "config.json").write_text("{")
    with pytest.raises(AssetError, match="damaged"):
        expert.read(folder, kind="sync")
    with pytest.raises(AssetError, match="no expert"):
        expert.read(tmp_path / "nowhere", kind="sync")


def network(folder: Path, **weights: torch.Tensor) -> Path:
    """An expert of three numbers and two, or of other weights, its hashes right."""
    good = {"weight": torch.ones(2, 3), "bias": torch.zeros(2)}
    expert.write(folder, kind="sync", config=vars(Sizes()), weights=good, facts={}, card="")
    if weights:
        changed = {name: tensor for name, tensor in {**good, **weights}.items() if tensor.numel()}
        save_file(changed, folder / "model.safetensors")
        right_hashes(folder)
    return folder


def right_hashes(folder: Path) -> None:
    raw = json.loads((folder / "config.json").read_text())
    raw["files"] = {name: sha256_of(folder / name) for name in raw["files"]}
    (folder / "config.json").write_text(json.dumps(raw))


@dataclass(frozen=True, kw_only=True)
class Sizes:
    wide: int = 3
    narrow: int = 2


def build(sizes: Sizes) -> torch.nn.Linear:
    return torch.nn.Linear(sizes.wide, sizes.narrow)


def restored(folder: Path) -> torch.nn.Linear:
    return expert.read(folder, kind="sync").load_network(build, Sizes)


def test_a_network_is_restored(tmp_path: Path) -> None:
    net = restored(network(tmp_path / "e"))
    assert net(torch.ones(1, 3)).tolist() == [[3, 3]]
    assert not any(weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": torch.ones(3, 2)}, "has the shape"),
        ({"weight": torch.ones(2, 3, dtype=torch.int32)}, "of type I32"),
        ({"more": torch.ones(1)}, "'more' is unknown"),
        ({"bias": torch.ones(0)}, "'bias' is missing"),
    ],
)
def test_weights_that_do_not_fit_are_told(
    tmp_path: Path, weights: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(AssetError, match=f"does not fit: .*{message}"):
        restored(network(tmp_path / "e", **weights))


@pytest.mark.parametrize("head", [b"", b"\xff" * 8, (9).to_bytes(8, "little") + b'{"a":[]}}'])
def test_hostile_weights_are_one_line(tmp_path: Path, head: bytes) -> None:
    folder = network(tmp_path / "e")
    (folder / "model.safetensors").write_bytes(head)
    right_hashes(folder)
    with pytest.raises(AssetError, match=r"does not fit: it(s header| is no)"):
        restored(folder)
    with pytest.raises(AssetError, match="does not fit"):
        expert.read(folder, kind="sync").weights()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"wide": 10**12}, "damaged"),
        ({"wide": -1}, "damaged"),
        ({"wide": "3"}, "damaged"),
        ({"wide": [1] * 100}, "damaged"),
        ({"wide": 4.5}, "does not fit"),
        ({"tall": 3}, "does not fit"),
        ({"wide": 8000, "narrow": 8000}, "has the shape"),
    ],
)
def test_settings_cannot_ask_for_memory(
    tmp_path: Path, config: dict[str, object], message: str
) -> None:
    folder = network(tmp_path / "e")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**raw, "config": config}))
    with pytest.raises(AssetError, match=message):
        restored(folder)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = network(tmp_path / "e")
    moved = (folder / "card.md").rename(tmp_path / "card.md")
    (folder / "card.md").symlink_to(moved)
    with pytest.raises(AssetError, match="outside of its folder"):
        expert.read(folder, kind="sync")
