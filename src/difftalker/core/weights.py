"""Weights from untrusted files: safetensors only, and headers are checked before tensors load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 4 << 20
"""Largest header of a file, bytes. It is read as a whole; Stable Diffusion's takes 0.1 MB."""

_FLOATS = ("F16", "BF16", "F32", "F64")


def can_lie_in(folder: Path) -> bool:
    """Whether a folder's path is UTF-8; safetensors opens no file under any other."""
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        return False
    return True


def shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shape of every tensor in a file from its header alone.

    Raises:
        ValueError: the file is damaged, or holds something else than floating point tensors.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        if not 2 <= int.from_bytes(file.read(8), "little") <= MAX_HEADER_BYTES:
            raise ValueError("its header is damaged")
    found: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(path, framework="pt") as held:
            for name in held.keys():  # noqa: SIM118 - it is no mapping
                part = held.get_slice(name)
                if part.get_dtype() not in _FLOATS:
                    raise ValueError(f"{name[:80]!r} is of type {part.get_dtype()}")
                found[name] = tuple(part.get_shape())
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file ({error})") from error
    return found


def load(path: Path) -> dict[str, Tensor]:
    """Load the named tensors in the type they were saved in.

    Raises:
        ValueError: the file is no safetensors file.
        OSError: it cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"it is no safetensors file ({error})") from error


def difference(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Say in words how the shapes of a file differ from those wanted; empty where they agree."""
    for name in sorted({*found, *wanted}):
        if name not in wanted:
            return f"{name[:80]!r} is unknown"
        if name not in found:
            return f"{name!r} is missing"
        if found[name] != wanted[name]:
            return f"{name!r} has the shape {found[name]}, not {wanted[name]}"
    return ""
