"""The house rules that no single module can hold: surface, imports, dependencies, sizes."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import difftalker
import update_public_surface
from difftalker.cli import app

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "difftalker"
PACKAGED_WEIGHTS_BYTES = 64_000_000
EXTRAS = ("samples", "live", "sd15", "server", "webrtc")
"""What the package itself may import beyond its requirements."""

# Runs in a process of its own: this one has loaded torch long ago.
HELP_PROBE = """
import contextlib, io, json, sys
from difftalker.cli import main
with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
    main()
print(json.dumps({"help": out.getvalue(), "modules": sorted(sys.modules)}))
"""


def requirements(*extras: str) -> list[Requirement]:
    """The declared requirements, with those of the named extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    tables = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
    every = [Requirement(line) for table in tables for line in table]
    return [one for one in every if canonicalize_name(one.name) != "difftalker"]


def imported_packages(folder: Path) -> Iterator[tuple[str, str]]:
    """(file, top-level package) of every import that is not relative, in functions too."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            yield from ((str(path.relative_to(ROOT)), name.partition(".")[0]) for name in names)


def test_public_surface_is_the_stored_one() -> None:
    stored = update_public_surface.GOLDEN.read_text(encoding="utf-8")
    assert update_public_surface.public_surface() == stored, (
        "the public surface changed; if that is meant, run python scripts/update_public_surface.py"
    )


def test_every_public_name_is_there() -> None:
    assert [name for name in difftalker.__all__ if not hasattr(difftalker, name)] == []
    assert set(difftalker.__all__) <= set(dir(difftalker))


def test_every_command_says_what_it_does() -> None:
    named = dict(update_public_surface.commands(app))
    assert [name for name, command in named.items() if not command.help.strip()] == []


@pytest.mark.parametrize(
    "command", ["", *(name for name, _ in update_public_surface.commands(app) if " " in name)]
)
def test_help_loads_nothing_heavy(command: str) -> None:
    words = command.split()[1:]
    run = subprocess.run(
        [sys.executable, "-c", HELP_PROBE, *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    seen = json.loads(run.stdout)
    assert "Usage" in seen["help"]
    assert {"torch", "mediapipe", "diffusers"} & set(seen["modules"]) == set()


def test_imports_of_the_package_are_declared() -> None:
    declared = {canonicalize_name(one.name) for one in requirements(*EXTRAS)}
    providers = importlib.metadata.packages_distributions()
    own = sys.stdlib_module_names | {"difftalker"}
    undeclared = [
        (file, package)
        for file, package in imported_packages(PACKAGE)
        if package not in own
        and declared.isdisjoint(map(canonicalize_name, providers.get(package, [package])))
    ]
    assert undeclared == []


def test_constraints_pin_every_requirement_within_its_range() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {canonicalize_name(n): v for n, v in re.findall(r"^([\w.-]+)==(\S+)$", text, re.M)}
    for one in requirements("dev", *EXTRAS):
        assert one.specifier.contains(pins[canonicalize_name(one.name)]), one


def test_packaged_weights_are_light() -> None:
    weights = sorted((PACKAGE / "packaged" / "avatars").rglob("*.safetensors"))
    assert weights
    assert sum(path.stat().st_size for path in weights) < PACKAGED_WEIGHTS_BYTES
