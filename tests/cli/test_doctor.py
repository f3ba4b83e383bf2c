"""`difftalker doctor`: each check and its fix."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from difftalker.packaged import samples
from difftalker.store import assets
from difftalker.store import avatars as avatar
from helpers_cli import Command


def test_doctor_names_the_fix(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFTALKER_CACHE", str(tmp_path))
    ran = run("doctor", "--json")
    assert ran.code == 1
    assert ran.err == ""
    checks = {check["name"]: check for check in ran.record["checks"]}
    assert ran.record["ok"] is False
    assert checks["torch"]["ok"]
    assert checks["video and sound"]["ok"]
    assert [c for c in checks.values() if bool(c["fix"]) == c["ok"]] == []
    for name in assets.ASSETS:
        assert checks[f"weights {name}"]["fix"] == "python -m difftalker.store.assets"
    assert not checks["face detector"]["ok"]


def test_doctor_is_content_where_all_is_there(
    run: Command, debug_avatar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(debug_avatar, tmp_path / samples.AVATAR)
    monkeypatch.setattr(avatar, "PACKAGED", tmp_path)
    monkeypatch.setattr(assets, "is_cached", lambda name: assets.cache_dir().is_dir())
    ran = run("doctor")
    assert "MISSING" not in ran.out
    assert ran.code == 0
