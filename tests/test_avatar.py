"""An avatar's card can be extended, and stays a file that is checked."""

from __future__ import annotations

from pathlib import Path

import pytest

from difftalker import avatar
from difftalker.config import preset
from difftalker.errors import AvatarError
from difftalker.models.networks import build


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = preset("debug").model
    networks = build(model)
    place = tmp_path / "someone"
    avatar.write(
        place,
        name="someone",
        config=networks.resolved(model),
        architecture=networks.architecture(),
        weights=networks.state(),
        facts={},
        card="# Someone\n",
    )
    return place


def test_a_section_is_added_to_the_card(folder: Path) -> None:
    before = avatar.read(folder)
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
