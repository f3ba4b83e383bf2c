"""Experts on disk: small networks that judge dubbings or describe speech, as a folder.

    EXPERT/config.json          format, kind, configuration, facts, and the hash of the other files
          /model.safetensors    fp16 weights
          /card.md              what it does, which corpora and licences, measured accuracy

Nothing but these files is read, and no path is taken from within them.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from difftalker.avatar import half
from difftalker.errors import AssetError
from difftalker.hashing import sha256_of

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
KINDS = ("sync", "lips", "characters")
"""Whether lips fit the sound; which words lips say; which characters are heard."""
PACKAGED = Path(__file__).parent / "experts"

_WEIGHTS, _CARD = "model.safetensors", "card.md"


@dataclass(frozen=True, kw_only=True)
class ExpertFiles:
    """What an expert's folder says, checked; weights are loaded on demand."""

    kind: str
    folder: Path
    config: dict[str, Any]
    """Of its network."""
    facts: dict[str, Any]
    """Corpora, command, seed, numbers on unseen material."""
    sha256: str
    """Of its weights."""

    def weights(self) -> dict[str, Tensor]:
        """Named tensors, in the type they were saved in."""
        from safetensors.torch import load_file

        return load_file(self.folder / _WEIGHTS)


def packaged() -> list[str]:
    """Kinds of the experts that come with DiffTalker."""
    return [kind for kind in KINDS if (PACKAGED / kind / "config.json").is_file()]


def read(folder: str | Path = "", *, kind: str) -> ExpertFiles:
    """Open the expert of a kind, the packaged one or that in ``folder``; hashes are checked.

    Raises:
        AssetError: the folder or a file is missing, altered, or of another kind or format.
    """
    place = Path(folder) if folder else PACKAGED / kind
    fix = f"make it with `difftalker train-expert {kind}`, or copy it anew from where it came"
    try:
        raw = json.loads((place / "config.json").read_text(encoding="utf-8"))
        found = (raw["format"], raw["kind"])
        config, facts, hashes = (dict(raw[key]) for key in ("config", "facts", "files"))
    except OSError as error:
        raise AssetError(f"{place} is no expert: config.json cannot be read", fix=fix) from error
    except (ValueError, KeyError, TypeError) as error:
        raise AssetError(f"{place}/config.json is damaged", fix=fix) from error
    if found != (FORMAT, kind):
        raise AssetError(
            f"{place} is of kind {found[1]!r}, format {found[0]}",
            wanted=f"kind {kind!r}, format {FORMAT}",
            fix=fix,
        )
    for name in (_WEIGHTS, _CARD):
        if not (place / name).is_file() or sha256_of(place / name) != hashes.get(name):
            raise AssetError(f"the expert's file {place / name} is missing or altered", fix=fix)
    return ExpertFiles(kind=kind, folder=place, config=config, facts=facts, sha256=hashes[_WEIGHTS])


def write(
    folder: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    card: str,
) -> None:
    """Write an expert; it appears by one rename, in the place of an older one.

    Raises:
        AssetError: ``folder`` holds something that is no expert.
    """
    from safetensors.torch import save_file

    check_replaceable(folder)
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save_file({name: half(tensor) for name, tensor in weights.items()}, part / _WEIGHTS)
    (part / _CARD).write_text(card, encoding="utf-8")
    record = {
        "format": FORMAT,
        "kind": kind,
        "config": dict(config),
        "facts": dict(facts),
        "files": {name: sha256_of(part / name) for name in (_WEIGHTS, _CARD)},
    }
    (part / "config.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def check_replaceable(folder: Path) -> None:
    """Refuse to replace what is no expert.

    Raises:
        AssetError: ``folder`` is a file, or a folder with other things in it.
    """
    if not folder.exists() or (folder / _WEIGHTS).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise AssetError(
            f"the output {folder} holds other things", wanted="a new folder, or an older expert"
        )
