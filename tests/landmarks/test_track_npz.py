"""Tracks as .npz: wider types, hostile and damaged archives."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np

from difftalker.landmarks.track_file import LandmarkTrack
from helpers_track import FRAMES, refused, same


def test_a_track_of_numpy_and_wider_floats_is_read(made: LandmarkTrack, tmp_path: Path) -> None:
    wide = {n: v.astype(np.float64) if np.asarray(v).dtype == np.float32 else v
            for n, v in made._fields().items() if n != "points_px"}  # fmt: skip
    wide["points_crop"] = np.asfortranarray(wide["points_crop"])
    np.savez(tmp_path / "wide.npz", **wide)
    assert same(LandmarkTrack.load(tmp_path / "wide.npz"), made)


def npy(header: str, data: bytes = b"") -> bytes:
    body = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body + data


def repacked(made: LandmarkTrack, path: Path, changes: dict[str, bytes], **how: int) -> Path:
    """The track as .npz, some of its members other bytes."""
    whole = io.BytesIO()
    np.savez(whole, **made._fields())
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w", **how) as new:  # type: ignore[call-overload]
        for name in old.namelist():
            new.writestr(name, changes.get(name.removesuffix(".npy"), old.read(name)))
    return path


HUGE = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 68, 2), }"


def test_hostile_npz_files_are_refused(made: LandmarkTrack, tmp_path: Path) -> None:
    path = tmp_path / "track.npz"
    deflated = {"compression": zipfile.ZIP_DEFLATED}
    huge_times = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000000,), }"
    assert "shape" in refused(repacked(made, path, {"times_s": npy(huge_times)}))
    assert "shape" in refused(repacked(made, path, {"points_crop": npy(HUGE % 10**12)}))
    assert "damaged" in refused(repacked(made, path, {"points_crop": npy(HUGE % FRAMES)}))
    trailing = npy(HUGE % FRAMES, bytes(made.points_crop.nbytes + 10**7))
    assert "followed" in refused(repacked(made, path, {"points_crop": trailing}, **deflated))
    pickled = "{'descr': '|O', 'fortran_order': False, 'shape': (), }"
    assert "object" in refused(repacked(made, path, {"video": npy(pickled, b"cos\nsystem\n")}))
    nested = "(" * 110
    assert "damaged" in refused(repacked(made, path, {"boxes": npy(nested)}))
    assert "compressed" in refused(repacked(made, path, {}, compression=zipfile.ZIP_LZMA))


def test_archives_of_other_content_are_refused(made: LandmarkTrack, tmp_path: Path) -> None:
    path = tmp_path / "track.npz"
    with zipfile.ZipFile(path, "w") as many:
        for i in range(1000):
            many.writestr(f"{i}", b"")
    assert "too many files" in refused(path)
    np.savez(path, a=np.zeros(3))
    assert "it has no version" in refused(path)
    np.savez(path, **made._fields(), extra=1)
    assert "unknown" in refused(path)
    fine = repacked(made, path, {}).read_bytes()
    for damaged in (b"", b"PK", fine[: len(fine) // 2], fine[:-1], fine + b"x", bytes(len(fine))):
        path.write_bytes(damaged)
        refused(path)
