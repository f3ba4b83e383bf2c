"""Avatars on disk: one person, as a folder.

    AVATAR/config.json          format, model configuration, facts, and the hash of every other file
          /calibration.json     what was measured of the person (store.calibration)
          /PART.safetensors     fp16 weights of the networks: ``PARTS``, and those of ``MORE_PARTS``
                                that it has: the diffusion, the light network, or both
          /card.md              who, which footage, consent, licence, measured quality

Nothing but these files is read, and no path is taken from within them. Avatars of format 2 have
their calibration in the configuration of the autoencoder; they are read as well. So are settings
under their former names (``config.codec.RENAMED``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftalker.config import ModelConfig, from_dict, from_saved
from difftalker.core.files import whole_file, whole_folder
from difftalker.core.hashing import sha256_of
from difftalker.core.text import printable
from difftalker.core.weights import can_lie_in, load
from difftalker.errors import AvatarError, UsageError
from difftalker.store.calibration import UNMEASURED, Calibration

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3
OLDEST_FORMAT = 2
PARTS = ("completion", "motion")
DIFFUSION = ("autoencoder", "synthesis")
MORE_PARTS = (*DIFFUSION, "light", "live")
"""Parts that an avatar may lack. It has the diffusion whole or not at all."""
PACKAGED = Path(__file__).parents[1] / "packaged" / "avatars"

_CALIBRATION = "calibration.json"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_NAME = 100
_KEYS = {"format", "name", "model", "architecture", "facts", "files"}


@dataclass(frozen=True, kw_only=True)
class AvatarFiles:
    """What an avatar's folder says, checked; weights are loaded on demand."""

    name: str
    folder: Path
    config: ModelConfig
    architecture: dict[str, Any]
    """The diffusers configuration of ``vae`` and ``unet``; empty without the diffusion."""
    calibration: Calibration
    facts: dict[str, Any]
    """Corpus, consent, command, seeds, time, numbers."""
    parts: tuple[str, ...] = (*PARTS, *DIFFUSION)
    """Its networks."""

    @property
    def has_diffusion(self) -> bool:
        """Whether it can render by diffusion."""
        return set(DIFFUSION) <= set(self.parts)

    def weights(self) -> dict[str, dict[str, Tensor]]:
        """Part to named tensors, in the type they were saved in.

        Raises:
            AvatarError: a file is no safetensors file.
        """
        try:
            return {part: load(self.part(part)) for part in self.parts}
        except (ValueError, OSError) as error:
            found = f"the weights of the avatar {self.folder} cannot be read: {error}"
            raise AvatarError(found, fix=_mend(self.folder)) from error

    def part(self, name: str) -> Path:
        """The file with one part's weights."""
        return self.folder / _weights_of(name)


def packaged() -> list[str]:
    """Names of the avatars that come with DiffTalker."""
    return sorted(path.parent.name for path in PACKAGED.glob("*/config.json"))


def read(name_or_folder: str | Path) -> AvatarFiles:
    """Open an avatar by its packaged name or its folder, every file checked against its hash.

    Raises:
        AvatarError: the folder or a file is missing, truncated or altered.
    """
    folder = folder_of(name_or_folder)
    raw = _read_config(folder)
    parts = (*PARTS, *(part for part in MORE_PARTS if _weights_of(part) in raw["files"]))
    if not set(DIFFUSION) <= set(parts) and ("light" not in parts or set(DIFFUSION) & set(parts)):
        raise AvatarError(
            f"the avatar {folder} has neither a whole diffusion nor the light network alone",
            wanted=f"{' and '.join(map(_weights_of, DIFFUSION))}, or {_weights_of('light')}",
            fix=_mend(folder),
        )
    for name in (*map(_weights_of, parts), "card.md"):
        _check_file(folder, name, raw["files"])
    measured = _measured(folder, raw)
    try:
        config = from_saved(ModelConfig, raw["model"], f"{folder.name}/config.json")
        if config.base_model:
            raise UsageError("it names a base model", wanted="all weights in its own folder")
        calibration = from_dict(Calibration, measured, f"{folder.name}/{_CALIBRATION}")
    except UsageError as error:
        raise AvatarError(
            f"the avatar {folder} has a configuration that does not fit: {error}", fix=_mend(folder)
        ) from error
    return AvatarFiles(
        name=raw["name"],
        folder=folder,
        config=config,
        architecture=raw["architecture"],
        calibration=calibration,
        facts=raw["facts"],
        parts=parts,
    )


def write(
    folder: Path,
    *,
    name: str,
    config: ModelConfig,
    architecture: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, Tensor]],
    facts: Mapping[str, Any],
    card: str,
    calibration: Calibration = UNMEASURED,
) -> None:
    """Write an avatar; it appears by one rename, in the place of an older one."""
    from safetensors.torch import save_file

    with whole_folder(folder) as part:
        for key, tensors in weights.items():
            halves = {k: half(v) for k, v in tensors.items()}
            save_file(halves, part / f"{key}.safetensors")
        (part / "card.md").write_text(printable(card, kept="\n"), encoding="utf-8")
        (part / _CALIBRATION).write_text(json.dumps(asdict(calibration), indent=1) + "\n")
        hashes = {path.name: sha256_of(path) for path in sorted(part.iterdir())}
        record = {
            "format": FORMAT,
            "name": name,
            "model": asdict(config),
            "architecture": dict(architecture),
            "facts": dict(facts),
            "files": hashes,
        }
        (part / "config.json").write_text(json.dumps(record, indent=1) + "\n")


def extend_card(folder: Path, section: str) -> None:
    """Put a section, Markdown, at the end of an avatar's card, in the place of one of its title.

    The hash of the card follows.

    Raises:
        AvatarError: the folder is no avatar.
    """
    raw = _read_config(folder)
    card, config = folder / "card.md", folder / "config.json"
    section = printable(section, kept="\n")
    title = section.strip().splitlines()[0]
    before = card.read_text(encoding="utf-8").split(f"\n{title}\n")[0]
    text = f"{before.rstrip()}\n\n{section.strip()}\n"
    raw["files"]["card.md"] = hashlib.sha256(text.encode()).hexdigest()
    with whole_file(config) as whole_config, whole_file(card) as whole_card:
        whole_card.write(text.encode())
        whole_config.write(f"{json.dumps(raw, indent=1)}\n".encode())


def check_name(name: str) -> None:
    """Refuse a name that no avatar can have.

    Raises:
        UsageError: it is empty, too long, or has characters that cannot be printed.
    """
    if not _is_name(name):
        raise UsageError(
            f"no avatar can be called {name!r:.200}",
            wanted=f"1 to {_MAX_NAME} printable characters",
            fix="choose one with --name",
        )


def check_replaceable(folder: Path) -> None:
    """Refuse to replace what is no avatar.

    Raises:
        AvatarError: ``folder`` is a file, holds other things, or cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise AvatarError(f"the output {folder} is a file", wanted="a folder for the avatar")
    if folder.is_dir() and any(folder.iterdir()) and not _is_avatar(folder / "config.json"):
        raise AvatarError(
            f"the output {folder} is a folder with other things in it",
            wanted="a new folder, or an avatar to replace",
        )
    nearest = next(place for place in folder.absolute().parents if place.exists())
    if not os.access(nearest, os.W_OK):
        raise AvatarError(f"the folder {nearest} is closed to writing", fix="choose another output")


def _is_avatar(path: Path) -> bool:
    try:
        return {"format", "files"} <= set(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False


def check_place(folder: Path) -> None:
    """Refuse a folder in which no weights can be opened.

    Raises:
        AvatarError: its path is not UTF-8.
    """
    if not can_lie_in(folder):
        raise AvatarError(
            f"the folder {folder} has a name that is not UTF-8", fix="choose or give it another"
        )


def _weights_of(part: str) -> str:
    return f"{part}.safetensors"


def folder_of(name_or_folder: str | Path) -> Path:
    """Where an avatar lies, by its packaged name or its folder.

    Raises:
        AvatarError: there is no such avatar.
    """
    text = str(name_or_folder)
    if text in packaged():
        return PACKAGED / text
    folder = Path(text)
    if folder.is_dir():
        check_place(folder)
        return folder
    names = ", ".join(packaged()) or "none"
    raise AvatarError(
        f"there is no avatar {text!r}",
        wanted=f"a folder made by `difftalker train`, or a packaged name ({names})",
    )


def _measured(folder: Path, raw: dict[str, Any]) -> dict[str, Any]:
    """The calibration, checked against its hash; of format 2 it is taken out of ``raw``."""
    if raw["format"] == OLDEST_FORMAT:
        within = raw["model"].get("autoencoder")
        names = [field.name for field in fields(Calibration)]
        held = within if isinstance(within, dict) else {}
        return {name: held.pop(name) for name in names if name in held}
    _check_file(folder, _CALIBRATION, raw["files"])
    return _json_of(folder, folder / _CALIBRATION)


def _json_of(folder: Path, path: Path) -> dict[str, Any]:
    """The object in a file of an avatar."""
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise ValueError("it is too large")
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise AvatarError(f"{path} is damaged", fix=_mend(folder)) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if not path.is_file():
        raise AvatarError(f"{folder} is no avatar: config.json is missing", fix=_mend(folder))
    _check_inside(folder, path)
    raw = _json_of(folder, path)
    found = raw.get("format")
    if type(found) is not int or not OLDEST_FORMAT <= found <= FORMAT:
        raise AvatarError(
            f"{path} has format {str(found)[:80]}",
            wanted=f"format {OLDEST_FORMAT} or {FORMAT}",
            fix="use the version of DiffTalker that made it",
        )
    objects = all(isinstance(raw.get(key), dict) for key in _KEYS - {"format", "name"})
    if set(raw) != _KEYS or not objects or not _is_name(raw["name"]):
        raise AvatarError(f"{path} is damaged", wanted=", ".join(sorted(_KEYS)), fix=_mend(folder))
    return raw


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()


def _check_inside(folder: Path, path: Path) -> None:
    """Refuse a file of an avatar that is a link to somewhere else."""
    if path.resolve().parent != folder.resolve():
        raise AvatarError(f"the avatar's file {path} lies outside of its folder", fix=_mend(folder))


def _check_file(folder: Path, name: str, hashes: Mapping[str, str]) -> None:
    path = folder / name
    if not path.is_file():
        raise AvatarError(f"the avatar {folder} lacks its file {name}", fix=_mend(folder))
    _check_inside(folder, path)
    if sha256_of(path) != hashes.get(name):
        raise AvatarError(
            f"the avatar's file {path} is truncated or altered",
            wanted="the file whose hash stands in config.json",
            fix=_mend(folder),
        )


def _mend(folder: Path) -> str:
    return f"copy the folder {folder.name} anew from where it came, or train it again"


def half(tensor: Tensor) -> Tensor:
    """As weights are packaged: on the CPU, floating point numbers as fp16."""
    copy = tensor.detach().cpu().contiguous()
    return copy.half() if copy.is_floating_point() else copy
