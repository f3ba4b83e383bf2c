"""Files and folders appear whole, or what was there before stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from difftalker.core.files import whole_file, whole_folder, write_whole


def half_a_file(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"ne")
        raise OSError("the disk is full")


def half_a_folder(folder: Path) -> None:
    with whole_folder(folder) as part:
        (part / "three").touch()
        raise OSError("the disk is full")


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    write_whole(path, "ü")
    assert path.read_bytes() == "ü".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_an_older_file_stays_after_a_failure(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="full"):
        half_a_file(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_an_older_ones_place(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "a"
    for name in ("one", "two"):
        with whole_folder(folder) as part:
            (part / name).touch()
            assert not (folder / name).exists()
        assert [path.name for path in folder.iterdir()] == [name]
    with pytest.raises(OSError, match="full"):
        half_a_folder(folder)
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert list(folder.parent.iterdir()) == [folder]


def test_what_a_killed_run_left_is_not_taken_over(tmp_path: Path) -> None:
    left = tmp_path / ".a.part"
    left.mkdir()
    (left / "half").touch()
    with whole_folder(tmp_path / "a") as part:
        (part / "whole").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["whole"]
    assert not left.exists()
