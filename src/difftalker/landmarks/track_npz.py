"""Landmark tracks in ``.npz``: nothing is unpacked before its shape and type are checked."""

from __future__ import annotations

import zipfile
from typing import Any, BinaryIO

import numpy as np

from difftalker.errors import TrackError
from difftalker.landmarks.track_fields import ARRAYS, MAX_FRAMES, MAX_TEXT, NUMBERS, check_keys

_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22
_ZIP64_LOCATOR, _ZIP64_LOCATOR_BYTES = b"PK\x06\x07", 20
_MAX_DIRECTORY_BYTES = 16 << 10


def read_npz(file: BinaryIO) -> dict[str, Any]:
    """Read the fields of a track, (frames, ...) each.

    Raises:
        TrackError: the file is damaged, or holds other fields, shapes or types.
    """
    _check_directory(file)
    try:
        with zipfile.ZipFile(file) as archive:
            names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
            check_keys(names)
            rest = [name for name in names if name != "times_s"]
            frames = _read_member(archive, "times_s", None)
            return {name: _read_member(archive, name, len(frames)) for name in rest} | {
                "times_s": frames
            }
    except TrackError:
        raise
    # zipfile, zlib and numpy raise a dozen kinds of errors over damaged files.
    except Exception as error:
        raise TrackError("it is damaged, or no .npz file") from error


def _check_directory(file: BinaryIO) -> None:
    """Refuse a zip whose table of contents is long: it would be read into memory as a whole."""
    file.seek(0, 2)
    span = _ZIP64_LOCATOR_BYTES + _ZIP_END_BYTES
    file.seek(-min(span, file.tell()), 2)
    tail = file.read(span).rjust(span, b"\0")
    end = tail[_ZIP64_LOCATOR_BYTES:]
    length = int.from_bytes(end[12:16], "little")
    if not end.startswith(_ZIP_END) or tail.startswith(_ZIP64_LOCATOR):
        raise TrackError("it is damaged, or no .npz file")
    if length > _MAX_DIRECTORY_BYTES:
        raise TrackError("it holds too many files", wanted="a landmark track")


def _read_member(archive: zipfile.ZipFile, name: str, frames: int | None) -> Any:
    """Read one field; nothing is unpacked before its shape and type are checked."""
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise TrackError(f"{name} is compressed in an unknown way", wanted="numpy's own .npz")
    with archive.open(info) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise TrackError(f"{name} is in a version of .npy that is meant for other types")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
        _check_header(name, shape, dtype, frames)
        data = member.read(dtype.itemsize * int(np.prod(shape)))
        array = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
        if member.read(1):
            raise TrackError(f"{name} is followed by something else")
    if name in ARRAYS:
        return array
    return tuple(array.tolist()) if shape else array.item()


def _check_header(
    name: str, shape: tuple[int, ...], dtype: np.dtype[Any], frames: int | None
) -> None:
    if name in ARRAYS:
        kind, row = np.dtype(ARRAYS[name].dtype).kind, ARRAYS[name].row
        count = shape[0] if shape and frames is None else frames
        is_right = shape == (count, *row) and shape[0] <= MAX_FRAMES and dtype.itemsize <= 8
        wanted = f"{np.dtype(ARRAYS[name].dtype)} of shape {(frames or 'frames', *row)}"
    elif name in NUMBERS:
        kind, wanted = "i", f"whole numbers of shape {NUMBERS[name]}"
        is_right = shape == NUMBERS[name]
    else:
        kind, wanted = "U", "a text"
        is_right = shape == () and dtype.itemsize <= 4 * MAX_TEXT
    if not is_right or dtype.kind != kind:
        raise TrackError(f"{name} is {dtype} of shape {shape}", wanted=wanted)
