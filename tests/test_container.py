"""The recipe of the image: from the lock, as no root, with a health check that exists."""

from __future__ import annotations

import re
from pathlib import Path

from difftalker.cli import app
from update_public_surface import commands

ROOT = Path(__file__).parents[1]
RECIPE = (ROOT / "Containerfile").read_text(encoding="utf-8")


def steps(kind: str) -> list[str]:
    """What follows a word at the beginnings of lines, continued lines joined."""
    joined = re.sub(r"\\\n\s*", "", RECIPE)
    return re.findall(rf"^\s*{kind}\s+(.*)$", joined, re.MULTILINE)


def test_packages_are_those_of_the_lock() -> None:
    installs = [step for step in steps("RUN") if "pip install" in step]
    assert installs
    assert all("-c constraints.txt" in step for step in installs)
    assert "torch" in installs[0].split()[-1]


def test_what_is_copied_is_there_and_let_through() -> None:
    let = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [word for step in steps("COPY") if "--from" not in step for word in step.split()[:-1]]
    assert sources
    for source in sources:
        assert (ROOT / source).exists()
        assert f"!{source}" in let


def test_both_images_run_as_no_root_and_look_after_themselves() -> None:
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", RECIPE, re.MULTILINE)
    assert ("cpu", "cuda") in stages
    [user] = steps("USER")
    assert user.split(":")[0] not in ("0", "root")
    health = re.findall(r'CMD \["difftalker", "(\w+)"\]', "\n".join(steps("HEALTHCHECK")))
    [default] = re.findall(r'\["(\w+)"\]', "\n".join(steps("CMD")))
    known = {name.split()[-1] for name, _ in commands(app)}
    assert {*health, default} <= known
    assert len(health) == 1
