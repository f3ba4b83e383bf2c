"""Experts on disk: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from difftalker import expert
from difftalker.errors import AssetError


def written(folder: Path, **changes: object) -> Path:
    expert.write(
        folder,
        kind="sync",
        config={"width": 4},
        weights={"a": torch.arange(4.0), "n": torch.tensor(3)},
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
    assert weights["n"].item() == 3


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
