"""Where the time of a dubbing goes: milliseconds of one core a frame, part by part.

    python scripts/measure_speed.py [--footage FILE] [--speech FILE] [--avatar NAME]
        [--renderer diffusion|light] [--steps N]

CPU time and not that of a clock, of networks on one thread: so a machine that is busy with other
things gives nearly the same numbers. On two idle cores a frame takes a little more than half of the
sum, as the parts run beside each other. Footage and speech are by default the packaged ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import torch

from difftalker.config import RENDERERS
from difftalker.dubbing.avatar import Avatar, load
from difftalker.dubbing.engine import Rendering
from difftalker.dubbing.footage import locate
from difftalker.face.compose.blend import Blender
from difftalker.face.compose.light import Light, Skin
from difftalker.face.crop import cut
from difftalker.face.detect.detector import FaceDetector
from difftalker.face.detect.tracklets import Tracker
from difftalker.media import limits
from difftalker.media.video import VideoWriter, read_frames
from difftalker.media.worker import pictures
from difftalker.packaged import samples
from difftalker.synthesis.autoencoder import Autoencoder
from difftalker.synthesis.net import SynthesisNet
from difftalker.synthesis.renderer import DiffusionRenderer, LightRenderer

PARTS: dict[str, list[tuple[Any, str]]] = {
    "follow faces": [(Tracker, "update")],
    "match the light": [(Light, "update"), (Skin, "of")],
    "autoencoder's encoder": [(Autoencoder, "encode")],
    "landmark branch": [(SynthesisNet, "guide")],
    "denoising, all steps": [(SynthesisNet, "forward")],
    "autoencoder's decoder": [(DiffusionRenderer, "_decoded")],
    "light network, what stays": [(LightRenderer, "scene")],
    "light network, what moves": [(LightRenderer, "generate")],
    "lay into the frame": [(Blender, "blend")],
    "hand to the video's encoder": [(VideoWriter, "write")],
}
"""Functions that one thread carries out, by what they are for."""


def main() -> None:
    """Dub once and print a line for each part."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--footage", type=Path, default=samples.footage())
    parser.add_argument("--speech", type=Path, default=samples.speech())
    parser.add_argument("--avatar", default=samples.AVATAR)
    parser.add_argument("--renderer", default="auto", choices=("auto", *RENDERERS))
    parser.add_argument("--steps", type=int, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    avatar = load(options.avatar)
    with FaceDetector():
        pass  # what is loaded once is no part of a frame
    way = avatar.rendering(options.renderer, steps=options.steps)
    spent, frames = measure(avatar, options.footage, options.speech, way)
    total = sum(spent.values())
    for part, seconds in [*spent.items(), ("all", total)]:
        print(f"{part:32s}{1000 * seconds / frames:8.1f} ms")


def measure(
    avatar: Avatar, footage: Path, speech: Path, way: Rendering
) -> tuple[dict[str, float], int]:
    """Seconds of one core for each part, and the number of frames."""
    within: dict[str, float] = defaultdict(float)
    spent: dict[str, float] = {}
    decoded = _cpu_s(lambda: [None for _ in pictures.frames(footage, limits.current())])
    spent["decode, two passes"] = 2 * decoded
    with tempfile.TemporaryDirectory() as folder, _watched(within):
        size, mask = avatar.config.size_px, avatar.config.mask
        located = locate(footage, size, mask=mask)  # once before, for what is loaded
        within.clear()
        found = _cpu_s(lambda: locate(footage, size, mask=mask))
        spent["find faces"] = found - sum(within.values())
        spent |= within
        within.clear()
        spent["encode and complete"] = _cpu_s(lambda: avatar.complete(located, speech))
        points = avatar.complete(located, speech)
        job = avatar.dub(footage, speech, located=located, landmarks=points, **way.options())
        rendered = _cpu_s(lambda: job.save(Path(folder) / "out.mp4"))
        spent |= {part: within[part] for part in PARTS if part in within}
        first = next(read_frames(footage)).image
        spent["cut"] = len(located) * _cpu_s(lambda: cut(first, located.framing.crop, 0, size))
        spent["the rest, x264 above all"] = rendered - sum(within.values()) - spent["cut"]
    return spent, len(located)


def _cpu_s(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def _watched(within: dict[str, float]) -> ExitStack:
    """Let the functions of ``PARTS`` add their thread's CPU time to ``within``."""
    stack = ExitStack()
    for part, functions in PARTS.items():
        for owner, name in functions:
            stack.enter_context(patch.object(owner, name, _timed(owner, name, part, within)))
    return stack


def _timed(owner: Any, name: str, part: str, within: dict[str, float]) -> Any:
    kind, work = owner.__dict__[name], getattr(owner, name)
    bound = isinstance(kind, classmethod)

    def timed(*args: Any, **options: Any) -> Any:
        began = time.thread_time()
        try:
            return work(*args, **options)
        finally:
            within[part] += time.thread_time() - began

    return staticmethod(timed) if bound else timed


if __name__ == "__main__":
    main()
