"""What a finished stage of training leaves for those after it; they read nothing else of it.

RUN/STAGE/artefact/weights.safetensors    NETWORK.TENSOR, the averaged weights in float32
/facts.json             format, stage, steps, numbers, config, hash
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from difftalker.config import from_dict
from difftalker.core.files import whole_folder
from difftalker.core.hashing import sha256_of
from difftalker.core.weights import load as load_tensors
from difftalker.errors import DiffTalkerError, TrainingError
from difftalker.store.calibration import UNMEASURED, Calibration

if TYPE_CHECKING:
    from torch import Tensor, nn

N = TypeVar("N", bound="nn.Module")

FORMAT = 1
_WEIGHTS, _FACTS = "weights.safetensors", "facts.json"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a stage that is finished."""

    stage: str
    steps: int
    seconds: float
    seed: int
    validation: Mapping[str, float]
    """Its numbers on clips held out, at the end."""
    config: Mapping[str, Any]
    """``model`` and ``training``, the settings that it was trained with."""


@dataclass(frozen=True, kw_only=True)
class Artefact:
    """Networks of a finished stage, and what was measured with them."""

    weights: Mapping[str, Mapping[str, Tensor]]
    """Name of the network to named tensors."""
    calibration: Calibration = UNMEASURED


def save(folder: Path, artefact: Artefact, facts: Facts) -> None:
    """Write an artefact; it appears by one rename, in the place of an older one."""
    from safetensors.torch import save_file

    tensors = {
        f"{network}.{name}": tensor.detach().cpu().contiguous()
        for network, named in artefact.weights.items()
        for name, tensor in named.items()
    }
    with whole_folder(folder) as part:
        save_file(tensors, part / _WEIGHTS)
        record = {
            "format": FORMAT,
            **asdict(facts),
            "calibration": asdict(artefact.calibration),
            "sha256": sha256_of(part / _WEIGHTS),
        }
        (part / _FACTS).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load_facts(folder: Path) -> Facts | None:
    """What is known of the stage whose artefact is in ``folder``; None where there is none.

    Raises:
        TrainingError: it is damaged, or of another version.
    """
    if not folder.is_dir():
        return None
    record = _record(folder)
    return Facts(**{name: record[name] for name in Facts.__dataclass_fields__})


def load(folder: Path) -> Artefact:
    """The artefact in ``folder``, its weights checked against their hash.

    Raises:
        TrainingError: it is missing, damaged, or of another version.
    """
    record, weights = _record(folder), folder / _WEIGHTS
    try:
        if sha256_of(weights) != record["sha256"]:
            raise ValueError("its hash is another")
        tensors = load_tensors(weights)
        calibration = from_dict(Calibration, record["calibration"], str(folder / _FACTS))
    except (OSError, ValueError, DiffTalkerError) as error:
        raise _damaged(folder, error) from error
    networks: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        network, name = key.split(".", 1)
        networks.setdefault(network, {})[name] = tensor
    return Artefact(weights=networks, calibration=calibration)


def filled(net: N, tensors: Mapping[str, Tensor]) -> N:
    """A network with the tensors that a stage left, in evaluation mode.

    Raises:
        TrainingError: they are of another network.
    """
    try:
        net.load_state_dict(dict(tensors))
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise TrainingError(
            f"an artefact is of another model ({reason})",
            wanted="the same preset",
            fix="use another --run folder",
        ) from error
    return net.eval()


def _record(folder: Path) -> dict[str, Any]:
    path = folder / _FACTS
    try:
        record = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise _damaged(folder, error) from error
    if record.get("format") != FORMAT:
        raise TrainingError(
            f"{path} has format {record.get('format')!r:.80}",
            wanted=f"format {FORMAT}",
            fix="use another --run folder",
        )
    known = {"format", "calibration", "sha256", *Facts.__dataclass_fields__}
    if set(record) != known:
        raise _damaged(folder, ValueError("its facts are incomplete"))
    return record


def _damaged(folder: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"the artefact {folder} is damaged ({error})", fix="delete it, and the stage writes it anew"
    )
