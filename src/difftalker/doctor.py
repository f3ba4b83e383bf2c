"""What this machine can do: whether everything that DiffTalker needs is there."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version

from difftalker.errors import DiffTalkerError
from difftalker.packaged import samples
from difftalker.store import assets
from difftalker.store import avatars as avatar

SYSTEM_LIBRARIES = ("libGL.so.1", "libEGL.so.1", "libGLESv2.so.2", "libglib-2.0.so.0")
"""What the wheels of OpenCV and MediaPipe expect of a Linux system."""
SYSTEM_FIX = "run `apt-get install libgl1 libegl1 libgles2 libglib2.0-0`, or your system's like"

_MISSING_LIBRARY = re.compile(r"(lib[\w.+-]*\.so[\w.]*): cannot open shared object file")


def missing_library(error: BaseException) -> DiffTalkerError | None:
    """What to print where the failure of an import is a missing system library."""
    found = _MISSING_LIBRARY.search(str(error))
    if found is None:
        return None
    return DiffTalkerError(
        f"the system library {found[1]} is missing",
        wanted="the libraries that OpenCV and MediaPipe use",
        fix=SYSTEM_FIX,
    )


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    needed: bool
    """Whether DiffTalker does not work without it."""
    found: str
    fix: str
    """What to do about it; empty where all is well."""


def examine() -> list[Check]:
    """Look at everything that DiffTalker needs or gains from; downloads nothing."""
    reinstall = "run `make demo`, or `pip install` DiffTalker anew"
    weights = [
        _tried(f"weights {name}", partial(_cached, name), "python -m difftalker.store.assets")
        for name in assets.ASSETS
    ]
    avatars = [
        _tried(f"avatar {name}", partial(_avatar, name), reinstall)
        for name in avatar.packaged() or [samples.AVATAR]
    ]
    return [
        _tried("python", _python, "install Python 3.11 or newer"),
        _tried("torch", _torch, reinstall),
        _tried("cuda", _cuda, "only a machine with an NVIDIA GPU has it", needed=False),
        _tried("mps", _mps, "only a Mac has it", needed=False),
        _tried("bfloat16", _bfloat16, "slower without, not worse", needed=False),
        _tried("diffusers", partial(_imported, "diffusers"), reinstall),
        _tried("video and sound", _encoders, reinstall),
        _tried("system libraries", _libraries, SYSTEM_FIX),
        _tried("opencv", partial(_imported, "cv2", "opencv-contrib-python"), reinstall),
        _tried("mediapipe", partial(_imported, "mediapipe"), reinstall),
        *weights,
        _tried("face detector", _detector, "mend what is missing above"),
        *avatars,
        _tried("samples", _samples, reinstall, needed=False),
    ]


def _tried(name: str, look: Callable[[], str], fix: str, *, needed: bool = True) -> Check:
    """Run one look; whatever it raises is what was found."""
    try:
        return Check(name=name, ok=True, needed=needed, found=look(), fix="")
    except DiffTalkerError as error:
        return Check(name=name, ok=False, needed=needed, found=error.found, fix=error.fix or fix)
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        mended = missing_library(error)
        fix = mended.fix if mended else fix
        return Check(name=name, ok=False, needed=needed, found=lines[0], fix=fix)


class _Absent(Exception):
    """What was looked for is not there."""


def _python() -> str:
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _torch() -> str:
    import torch

    return f"{torch.__version__}, {torch.get_num_threads()} threads on {os.cpu_count()} cores"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        raise _Absent("no CUDA device")
    return torch.cuda.get_device_name()


def _mps() -> str:
    import torch

    if not torch.backends.mps.is_available():
        raise _Absent("no MPS device")
    return "Apple GPU"


def _bfloat16() -> str:
    from difftalker.core.device import has_fast_bfloat16, pick_device

    device = pick_device()
    if not has_fast_bfloat16(device):
        raise _Absent(
            f"not fast on this {device}: dubbing and training compute in float32, and by default"
            " the light network renders"
        )
    return (
        f"fast on this {device}: dubbing and training compute in it where it is safe, and the"
        " diffusion renders by default"
    )


def _imported(module: str, distribution: str = "") -> str:
    import_module(module)
    return version(distribution or module)


def _encoders() -> str:
    import av

    for name in ("libx264", "aac"):
        av.codec.Codec(name, "w")
    return f"PyAV {av.__version__} with H.264 and AAC"


def _libraries() -> str:
    if sys.platform != "linux":
        return "brought by the wheels"
    import ctypes

    missing = []
    for name in SYSTEM_LIBRARIES:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    if missing:
        raise _Absent(f"missing: {', '.join(missing)}")
    return ", ".join(SYSTEM_LIBRARIES)


def _cached(name: str) -> str:
    if not assets.is_cached(name):
        raise _Absent(f"not in {assets.cache_dir()}, or altered")
    return f"{assets.ASSETS[name].description}, in {assets.cache_dir()}"


def _detector() -> str:
    """Start the face detector for real, on a black picture."""
    if not assets.is_cached("face_landmarker"):
        raise _Absent("its weights are not there")
    import numpy as np

    from difftalker.face.detect.detector import FaceDetector
    from difftalker.media.video import Frame

    with FaceDetector() as detector:
        detector.detect(Frame(np.zeros((64, 64, 3), np.uint8), 0, 0.0))
    return "starts"


def _avatar(name: str) -> str:
    files = avatar.read(name)
    return f"preset {files.config.preset}, all files as they were packaged"


def _samples() -> str:
    return f"{samples.footage().name}, {samples.speech().name}"
