"""Where the networks of a run begin: at the weights of an avatar, or at random.

    RUN/start.txt    the avatar, by packaged name or folder, or "none"

It is chosen once: a run that goes on begins its later stages where it began the first.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from difftalker.config import ModelConfig
from difftalker.core.files import write_whole
from difftalker.errors import TrainingError, UsageError
from difftalker.store import avatars as avatar

NONE = "none"
"""What ``--start`` and a run's file call a beginning at random."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins."""

    avatar: str
    """By packaged name or folder; empty: at random."""
    why: str
    """In words."""


def choose_start(asked: str, model: ModelConfig, run: Path, *, light_alone: bool = False) -> Start:
    """The avatar asked for, none, or by default the packaged one that has the same networks.

    A run that was begun before stays where it began. For the light network alone (``light_alone``)
    the size of the crop and the diffusion do not matter.

    Raises:
        UsageError: the avatar asked for has other networks.
        AvatarError: it is missing or damaged.
        TrainingError: the run was begun elsewhere.
    """
    begun = _begun(run)
    if begun and asked and _named(asked) != begun:
        raise TrainingError(
            f"the run in {run} was begun with --start {begun}",
            fix="leave --start out to go on with it, or use another --run folder",
        )
    start = begun or asked
    if start == NONE:
        return Start(avatar="", why="as asked" if asked or begun else "")
    if start:
        open_start(start, model, light_alone=light_alone)
        return Start(avatar=_named(start), why="as asked" if asked else "as the run began")
    if (run / "config.json").is_file():
        return Start(avatar="", why=f"as the run in {run} did")
    return _packaged(model, light_alone)


def open_start(name: str, wanted: ModelConfig, *, light_alone: bool = False) -> avatar.AvatarFiles:
    """The avatar to begin at.

    Raises:
        UsageError: it has other networks.
        AvatarError: it is missing or damaged.
    """
    files = avatar.read(name)
    if other := _difference(files.config, wanted, ignored=_ignored(light_alone)):
        raise UsageError(
            f"the avatar {name} has other networks than those to be trained: {other}",
            wanted="the same preset, completion and features",
            fix="leave those options out, or train with --start none",
        )
    return files


def remember_start(run: Path, start: str) -> None:
    """Note where a run begins, before it does."""
    if not _begun(run):
        write_whole(run / "start.txt", f"{_named(start) if start else NONE}\n")


def _packaged(model: ModelConfig, light_alone: bool) -> Start:
    why = "no avatar is packaged"
    for name in avatar.packaged():
        other = _difference(avatar.read(name).config, model, ignored=_ignored(light_alone))
        if not other:
            return Start(avatar=name, why="packaged")
        why = f"the packaged avatar {name} has other networks: {other}"
    return Start(avatar="", why=why)


def _begun(run: Path) -> str:
    path = run / "start.txt"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _named(start: str) -> str:
    """The same avatar from any working directory."""
    if start == NONE or start in avatar.packaged():
        return start
    return str(Path(start).resolve())


def _ignored(light_alone: bool) -> tuple[str, ...]:
    """Settings that may differ."""
    return _NO_NETWORKS + _OF_DIFFUSION if light_alone else _NO_NETWORKS


def _difference(theirs: Any, ours: Any, where: str = "", *, ignored: tuple[str, ...]) -> str:
    """The first setting of networks that differs, in words; empty where none does."""
    for field in dataclasses.fields(theirs):
        a, b = getattr(theirs, field.name), getattr(ours, field.name)
        name = f"{where}{field.name}"
        if name in ignored or a == b or (name, a, b) == _LISTENS_ANEW:
            continue
        if not dataclasses.is_dataclass(a):
            return f"{name} is {a}, here {b}"
        if deeper := _difference(a, b, f"{name}.", ignored=ignored):
            return deeper
    return ""


_LISTENS_ANEW = ("synthesis.guidance", "landmarks", "both")
"""A synthesis conditioned on landmarks can learn audio too: only its prompt is new."""
_NO_NETWORKS = ("sampling", "light", "live")
"""How faces are sampled; and parts that are learned anew where they have another size."""
_OF_DIFFUSION = ("size_px", "autoencoder", "prior")
