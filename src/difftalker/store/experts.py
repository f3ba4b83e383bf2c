"""Expert folders: small networks that judge dubbings or describe speech.

    EXPERT/config.json          format, kind, configuration, facts, and the hash of the other files
          /model.safetensors    fp16 weights
          /card.md              what it does, which corpora and licences, measured accuracy

Nothing but these files is read, and no path is taken from within them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from difftalker.config import from_dict
from difftalker.core.files import whole_folder
from difftalker.core.hashing import sha256_of
from difftalker.core.text import printable
from difftalker.core.weights import can_lie_in, difference, load, shapes
from difftalker.errors import AssetError
from difftalker.store.avatars import half

if TYPE_CHECKING:
    from torch import Tensor, nn

C = TypeVar("C")
N = TypeVar("N", bound="nn.Module")

FORMAT = 1
KINDS = ("sync", "lips", "characters", "faces")
"""Kinds: sync of lips and sound, words read from lips, characters recognised in speech, and the
light network of many faces."""
PACKAGED = Path(__file__).parents[1] / "packaged" / "experts"

_WEIGHTS, _CARD = "model.safetensors", "card.md"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_NUMBER, _MAX_LIST = 8192, 8


@dataclass(frozen=True, kw_only=True)
class ExpertFiles:
    """The checked contents of an expert's folder; weights are loaded on demand."""

    kind: str
    folder: Path
    config: dict[str, Any]
    """Configuration of the network."""
    facts: dict[str, Any]
    """Corpora, command, seed and figures on held-out material."""
    sha256: str
    """Hash of the weights' file."""

    def weights(self) -> dict[str, Tensor]:
        """Load the named tensors in the type they were saved in.

        Raises:
            AssetError: the file holds something else than floating point tensors.
        """
        path = self.folder / _WEIGHTS
        try:
            shapes(path)
            return load(path)
        except (OSError, ValueError) as error:
            raise self._unfit(error) from error

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the named tensors, by the header of their file.

        Raises:
            AssetError: the file holds something else than floating point tensors.
        """
        try:
            return shapes(self.folder / _WEIGHTS)
        except (OSError, ValueError) as error:
            raise self._unfit(error) from error

    def load_network(self, network: Callable[[C], N], settings: type[C]) -> N:
        """Build the network in float32 with its weights, in evaluation mode and without gradients.

        It is built without memory first (torch's device ``meta``) and compared with the header of
        the weights, so a file cannot claim more than twice its own size in memory.

        Raises:
            AssetError: settings and weights do not fit.
        """
        import torch

        try:
            config = from_dict(settings, self.config, "its config.json")
            with torch.device("meta"):
                bare = network(config).state_dict()
            wanted, path = {k: tuple(v.shape) for k, v in bare.items()}, self.folder / _WEIGHTS
            if wrong := difference(shapes(path), wanted):
                raise ValueError(wrong)
            net = network(config)
            net.load_state_dict({name: tensor.float() for name, tensor in load(path).items()})
        # Modules of sizes that make no sense fail in as many ways as there are modules.
        except Exception as error:
            raise self._unfit(error) from error
        return net.eval().requires_grad_(False)

    def _unfit(self, error: Exception) -> AssetError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return AssetError(
            f"the expert in {self.folder} does not fit: {reason[:200]}", fix=_mend(self.kind)
        )


def packaged() -> list[str]:
    """Kinds of the experts in the package."""
    return [kind for kind in KINDS if (PACKAGED / kind / "config.json").is_file()]


def read(folder: str | Path = "", *, kind: str) -> ExpertFiles:
    """Open the expert of a kind, the packaged one or that in ``folder``; hashes are checked.

    Raises:
        AssetError: the folder or a file is missing, altered, or of another kind or format.
    """
    place = Path(folder) if folder else PACKAGED / kind
    fix = _mend(kind)
    _check_inside(place, fix)
    try:
        raw = json.loads(_beginning(place / "config.json"))
        found = (raw["format"], raw["kind"])
        config, facts, hashes = (dict(raw[key]) for key in ("config", "facts", "files"))
        _check_numbers(config)
    except OSError as error:
        raise AssetError(f"{place} is no expert: config.json cannot be read", fix=fix) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise AssetError(f"{place}/config.json is damaged", fix=fix) from error
    if found != (FORMAT, kind):
        raise AssetError(
            f"{place} is of kind {found[1]!r:.80}, format {found[0]!r:.80}",
            wanted=f"kind {kind!r}, format {FORMAT}",
            fix=fix,
        )
    for name in (_WEIGHTS, _CARD):
        if not (place / name).is_file() or sha256_of(place / name) != hashes.get(name):
            raise AssetError(f"the expert's file {place / name} is missing or altered", fix=fix)
    return ExpertFiles(kind=kind, folder=place, config=config, facts=facts, sha256=hashes[_WEIGHTS])


def kind_of(folder: Path) -> str:
    """The kind that a folder states; nothing is checked. Empty where it states none."""
    try:
        return str(json.loads(_beginning(folder / "config.json"))["kind"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def _mend(kind: str) -> str:
    command = "train-expert" if kind in KINDS else "baseline train"
    return f"make it with `difftalker {command} {kind}`, or copy it anew from where it came"


def _check_inside(folder: Path, fix: str) -> None:
    """Refuse files of an expert that are links out of its folder."""
    for path in (folder / name for name in ("config.json", _WEIGHTS, _CARD)):
        if path.resolve().parent != folder.resolve():
            raise AssetError(f"the expert's file {path} lies outside of its folder", fix=fix)


def _beginning(path: Path) -> bytes:
    """Read a file of settings up to ``_MAX_CONFIG_BYTES``; a larger one does not parse."""
    with path.open("rb") as file:
        return file.read(_MAX_CONFIG_BYTES)


def _check_numbers(config: Mapping[str, Any]) -> None:
    """Raise ValueError where a setting is no number, or out of the range of a network."""
    for name, value in config.items():
        each = value if isinstance(value, list) else [value]
        if len(each) > _MAX_LIST or not all(isinstance(one, int | float) for one in each):
            raise ValueError(f"{name} is no number")
        if not all(0 <= one <= _MAX_NUMBER for one in each):
            raise ValueError(f"{name} is beyond all bounds")


def write(
    folder: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    card: str,
) -> None:
    """Write an expert's folder; it replaces an older one by one rename.

    Raises:
        AssetError: ``folder`` holds something that is no expert.
    """
    from safetensors.torch import save_file

    check_replaceable(folder)
    with whole_folder(folder) as part:
        save_file({name: half(tensor) for name, tensor in weights.items()}, part / _WEIGHTS)
        (part / _CARD).write_text(printable(card, kept="\n"), encoding="utf-8")
        record = {
            "format": FORMAT,
            "kind": kind,
            "config": dict(config),
            "facts": dict(facts),
            "files": {name: sha256_of(part / name) for name in (_WEIGHTS, _CARD)},
        }
        (part / "config.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def check_replaceable(folder: Path) -> None:
    """Refuse to replace a folder that is no expert.

    Raises:
        AssetError: ``folder`` is a file, or a folder with other things in it, or its path is no
            UTF-8, under which no weights can be opened.
    """
    if not can_lie_in(folder):
        raise AssetError(f"the output {folder} has a name that is not UTF-8", fix="choose another")
    if not folder.exists() or (folder / _WEIGHTS).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise AssetError(
            f"the output {folder} holds other things", wanted="a new folder, or an older expert"
        )
