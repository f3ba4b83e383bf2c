"""Landmark tracks in ``.json``: sizes are bounded before the text is parsed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import chain
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from difftalker.errors import TrackError
from difftalker.face.landmarks import POINTS
from difftalker.landmarks.track_fields import ARRAYS, MAX_JSON_FRAMES, NUMBERS, TEXTS, check_keys

_LISTS_PER_FRAME = 2 * (POINTS + 1) + 2
_MAX_LISTS = MAX_JSON_FRAMES * _LISTS_PER_FRAME + 100
_MAX_QUOTES = 100


def write_json(file: BinaryIO, fields: Mapping[str, Any]) -> None:
    """Write the fields of a track, a frame a line; numbers are the shortest that read back.

    Raises:
        TrackError: the track is too long for JSON.
    """
    frames = len(fields["times_s"])
    if frames > MAX_JSON_FRAMES:
        raise TrackError(
            f"a track of {frames} frames as JSON",
            wanted=f"at most {MAX_JSON_FRAMES}",
            fix="write it as .npz",
        )
    separator = "{\n"
    for name, value in fields.items():
        file.write(f'{separator}"{name}": '.encode())
        separator = ",\n"
        if name in ARRAYS:
            file.write(("[\n" + ",\n".join(map(_row, value)) + "\n]").encode())
        else:
            file.write(json.dumps(value).encode())
    file.write(b"\n}\n")


def _row(row: NDArray[Any]) -> str:
    row = np.asarray(row)
    if row.dtype == np.float32:
        # The shortest text that float32 reads back, where reading by way of float64 does too.
        short = row.astype(str).astype(np.float64)
        row = np.where(short.astype(np.float32) == row, short, row.astype(np.float64))
    return json.dumps(row.tolist(), separators=(",", ":"))


def read_json(file: BinaryIO) -> dict[str, Any]:
    """Read the fields of a track, (frames, ...) each.

    Raises:
        TrackError: the file is damaged, or holds other fields, shapes or types.
    """
    text = file.read()
    # Lists and texts take far more memory than their brackets: count them before.
    if text.count(b"[") + text.count(b"{") > _MAX_LISTS or text.count(b'"') > _MAX_QUOTES:
        raise TrackError("it holds too many lists or texts", wanted="a landmark track")
    try:
        fields = json.loads(text, parse_constant=_no_number, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise TrackError("it is damaged, or no JSON file") from error
    if not isinstance(fields, dict):
        raise TrackError("it holds no object", wanted="a landmark track")
    check_keys(fields)
    frames = len(fields["times_s"]) if isinstance(fields["times_s"], list) else 0
    return {name: _json_value(name, value, frames) for name, value in fields.items()}


def _no_number(text: str) -> NoReturn:
    raise TrackError(f"it holds {text}", wanted="finite numbers")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise TrackError("it has a field twice")
    return dict(pairs)


def _json_value(name: str, value: Any, frames: int) -> Any:
    if name in TEXTS:
        if not isinstance(value, str):
            raise TrackError(f"{name} is no text", wanted="a text")
        return value
    if name in NUMBERS:
        whole = _flat(name, value, NUMBERS[name], int)
        return tuple(whole) if NUMBERS[name] else whole[0]
    dtype, row = ARRAYS[name]
    kinds = {"f": (int, float), "i": (int,), "b": (bool,)}[np.dtype(dtype).kind]
    flat = _flat(name, value, (frames, *row), *kinds)
    try:
        # float64: a number beyond float32 is another error than something that is no number.
        array = np.array(flat, np.float64 if dtype is np.float32 else dtype)
    except OverflowError as error:
        raise TrackError(f"{name} holds a number beyond all bounds") from error
    return array.reshape(frames, *row)


def _flat(name: str, value: Any, shape: tuple[int, ...], *kinds: type) -> list[Any]:
    """The values of nested lists of a shape, in order; each of exactly one of the kinds."""
    level: list[Any] = [value]
    for length in shape:
        if any(type(each) is not list or len(each) != length for each in level):
            raise TrackError(f"{name} is not of shape {shape}", wanted="nested lists of that shape")
        level = list(chain.from_iterable(level))
    if not set(map(type, level)) <= set(kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise TrackError(f"{name} holds something else than numbers", wanted=wanted)
    return level
