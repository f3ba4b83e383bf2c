"""Footage found in folders, by name and in lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from difftalker.data.footage import find_footage
from difftalker.errors import MediaError


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name in ("b.mp4", "a.MOV", "c.txt", "sub"):
        (tmp_path / name).touch()
    (tmp_path / "list.json").write_text('{"test": ["b"], "bad": 3}')
    return tmp_path


def test_footage_is_found_in_folders_and_by_name(clips: Path) -> None:
    assert [p.name for p in find_footage([clips])] == ["a.MOV", "b.mp4"]
    assert [p.name for p in find_footage([clips / "c.txt", clips])] == ["c.txt", "a.MOV", "b.mp4"]
    assert [p.name for p in find_footage([clips], ["b", "a", "b"])] == ["b.mp4", "a.MOV"]
    assert [p.name for p in find_footage([clips], [f"{clips}/list.json:test"])] == ["b.mp4"]


@pytest.mark.parametrize(
    ("paths", "names", "said"),
    [
        (["none"], [], "no such file"),
        (["empty"], [], "no video files"),
        (["."], ["z"], "first z"),
        (["."], ["list.json:train"], "no clips under 'train'"),
        (["."], ["list.json:bad"], "no list"),
        (["."], ["none.json:test"], "FileNotFoundError"),
    ],
)
def test_footage_that_is_not_there(
    clips: Path, paths: list[str], names: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(clips)
    (clips / "empty").mkdir()
    with pytest.raises(MediaError, match=said):
        find_footage([Path(path) for path in paths], names)
