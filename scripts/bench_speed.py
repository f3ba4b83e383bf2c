"""Speed of whole dubs, of rendering alone and of live sessions, beside networks of other tools.

    python scripts/bench_speed.py [--isa avx2] [--threads N] [--seconds S] [--json FILE]

All on the same frames, processor and threads, in one run; ratios first, as machines differ. The
other networks have random weights: Wav2Lip's generator at 96 pixels (Prajwal et al., "A Lip Sync
Expert Is All You Need", 2020) and one step of a U-Net of MuseTalk's size (Zhang et al., "MuseTalk",
2024), written here from the papers' descriptions. Both render alone: detection, decoding and
encoding come on top of them, as they do of ours.

``--isa avx2`` limits the networks to what most processors have.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ISA = {"avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}}
BATCH = 16
"""Frames that are rendered at once, as in a dub."""


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", choices=sorted(ISA))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each measurement, at least")
    parser.add_argument("--avatar", default="grid-s1")
    parser.add_argument("--musetalk", action="store_true", help="3.4 GB of random weights, too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = ISA.get(options.isa, {})
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        # They are read when torch is loaded.
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    figures = measure(options)
    if options.json:
        what = {"isa": options.isa or "all", "threads": options.threads, "processor": processor()}
        options.json.write_text(json.dumps({**what, "figures": figures}, indent=1) + "\n")
    print(table(figures))


def processor() -> str:
    """The name of this machine's processor."""
    cpus = Path("/proc/cpuinfo")
    lines = cpus.read_text().splitlines() if cpus.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Frames a second and milliseconds a frame, by what was measured."""
    import torch

    from difftalker.dubbing.avatar import load

    torch.set_num_threads(options.threads)
    avatar = load(options.avatar)
    figures: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        figures["Wav2Lip's generator, 96 px"] = timed(wav2lip(), options.seconds, BATCH)
        if options.musetalk:
            figures["MuseTalk's U-Net, one step"] = timed(musetalk(), options.seconds, 1)
    for renderer in ("light", "diffusion"):
        figures[f"rendering, {renderer}"] = timed(
            rendering(avatar, renderer), options.seconds, BATCH
        )
        figures[f"whole dub, {renderer}"] = dub(avatar, renderer)
    figures["live frame"] = live(avatar, options.seconds)
    return figures


def timed(work: Callable[[], object], seconds: float, frames: int) -> dict[str, float]:
    """The median of calls for so many seconds, after one."""
    work()
    spent: list[float] = []
    while sum(spent) < seconds or len(spent) < 3:
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    each_s = sorted(spent)[len(spent) // 2] / frames
    return {"fps": 1 / each_s, "ms": 1000 * each_s}


def rendering(avatar: Any, renderer: str) -> Callable[[], object]:
    """Masked crops and landmarks of the packaged footage to new lower faces."""
    import numpy as np

    from difftalker.dubbing.footage import locate
    from difftalker.face.crop import cut
    from difftalker.media.video import read_frames
    from difftalker.packaged import samples

    size = avatar.config.size_px
    located = locate(samples.footage(), size)
    framing = located.framing
    images = [
        frame.image for frame, _ in zip(read_frames(samples.footage()), range(BATCH), strict=False)
    ]
    crops = np.stack([cut(image, framing.crop, i, size) for i, image in enumerate(images)])
    boxes, points = framing.boxes[:BATCH], framing.points_crop[:BATCH]
    speech = avatar.speech(samples.speech())
    windows = avatar.windows(speech, located.track.times_s)
    heard = windows.take(located.track.times_s[:BATCH]) if windows else None
    made = avatar.renderer(avatar.rendering(renderer))
    return lambda: made.render(crops, boxes, points, heard)


def dub(avatar: Any, renderer: str) -> dict[str, float]:
    """The packaged footage from file to file, the better of two."""
    from difftalker.packaged import samples

    with tempfile.TemporaryDirectory() as folder:
        results = [
            avatar.dub(samples.footage(), samples.speech(), renderer=renderer).save(
                Path(folder) / f"{i}.mp4"
            )
            for i in range(2)
        ]
    fps = max(result.frames_per_second for result in results)
    return {"fps": fps, "ms": 1000 / fps}


def live(avatar: Any, seconds: float) -> dict[str, float]:
    """Frames of a live session over the packaged footage, as fast as they come, two in work."""
    import numpy as np

    from difftalker.dubbing.live import LiveSession
    from difftalker.dubbing.live_clock import two_threads
    from difftalker.dubbing.live_stage import open_stage
    from difftalker.media.audio import read_audio
    from difftalker.packaged import samples

    session = LiveSession(avatar, open_stage(avatar, samples.footage()))
    sound, spent = read_audio(samples.speech()), list[float]()
    session.push(sound)
    with two_threads() as threads:
        frame = session.complete()
        while sum(spent) < seconds or len(spent) < 50:
            if session.waiting_s < 1:
                session.push(sound)
            began = time.perf_counter()
            coming = threads.completing.submit(session.complete)
            threads.rendering.submit(session.render, frame).result()
            frame = coming.result()
            spent.append(time.perf_counter() - began)
    p50, p95 = np.quantile(spent, (0.5, 0.95))
    return {"fps": 1 / float(np.mean(spent)), "ms": 1000 * float(p50), "p95_ms": 1000 * float(p95)}


def table(figures: dict[str, dict[str, float]]) -> str:
    """The figures, Wav2Lip's generator as the unit."""
    unit = figures["Wav2Lip's generator, 96 px"]["fps"]
    lines = [f"{'':30s}{'times Wav2Lip':>14s}{'frames/s':>10s}{'ms':>8s}"]
    for name, one in figures.items():
        late = f"  p95 {one['p95_ms']:.0f}" if "p95_ms" in one else ""
        lines.append(f"{name:30s}{one['fps'] / unit:14.2f}{one['fps']:10.1f}{one['ms']:8.1f}{late}")
    return "\n".join(lines)


# The others


def wav2lip() -> Callable[[], object]:
    """Wav2Lip's generator: face and reference of 96 x 96 and 80 x 16 log-mels to a face."""
    import torch
    from torch import Tensor, nn

    class Conv(nn.Module):
        def __init__(
            self, a: int, b: int, k: int, stride: Any = 1, pad: int = 1, res: bool = False
        ) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(a, b, k, stride, pad), nn.BatchNorm2d(b))
            self.res = res

        def forward(self, x: Tensor) -> Tensor:
            y = self.block(x)
            return torch.relu(y + x if self.res else y)

    class Up(nn.Module):
        def __init__(self, a: int, b: int, stride: int = 2, pad: int = 1) -> None:
            super().__init__()
            more = 1 if stride > 1 else 0
            conv = nn.ConvTranspose2d(a, b, 3, stride, pad, more)
            self.block = nn.Sequential(conv, nn.BatchNorm2d(b), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.block(x)
            return out

    def same(width: int, count: int) -> list[nn.Module]:
        return [Conv(width, width, 3, res=True) for _ in range(count)]

    face = nn.ModuleList(
        [
            nn.Sequential(Conv(6, 16, 7, 1, 3)),
            nn.Sequential(Conv(16, 32, 3, 2), *same(32, 2)),
            nn.Sequential(Conv(32, 64, 3, 2), *same(64, 3)),
            nn.Sequential(Conv(64, 128, 3, 2), *same(128, 2)),
            nn.Sequential(Conv(128, 256, 3, 2), *same(256, 2)),
            nn.Sequential(Conv(256, 512, 3, 2), *same(512, 1)),
            nn.Sequential(Conv(512, 512, 3, 1, 0), Conv(512, 512, 1, 1, 0)),
        ]
    )
    audio = nn.Sequential(
        Conv(1, 32, 3), *same(32, 2),
        Conv(32, 64, 3, (3, 1)), *same(64, 2),
        Conv(64, 128, 3, 3), *same(128, 2),
        Conv(128, 256, 3, (3, 2)), *same(256, 1),
        Conv(256, 512, 3, 1, 0), Conv(512, 512, 1, 1, 0),
    )  # fmt: skip
    decoder = nn.ModuleList(
        [
            nn.Sequential(Conv(512, 512, 1, 1, 0)),
            nn.Sequential(Up(1024, 512, 1, 0), *same(512, 1)),
            nn.Sequential(Up(1024, 512), *same(512, 2)),
            nn.Sequential(Up(768, 384), *same(384, 2)),
            nn.Sequential(Up(512, 256), *same(256, 2)),
            nn.Sequential(Up(320, 128), *same(128, 2)),
            nn.Sequential(Up(160, 64), *same(64, 2)),
        ]
    )
    last = nn.Sequential(Conv(80, 32, 3), nn.Conv2d(32, 3, 1), nn.Sigmoid())
    for part in (face, audio, decoder, last):
        part.eval()
        part.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    faces = torch.rand(BATCH, 6, 96, 96).to(memory_format=torch.channels_last)
    mels = torch.rand(BATCH, 1, 80, 16)

    def run() -> Tensor:
        skips, x = [], faces
        for block in face:
            x = block(x)
            skips.append(x)
        x = audio(mels)
        for block in decoder:
            x = torch.cat([block(x), skips.pop()], 1)
        out: Tensor = last(x)
        return out

    return run


def musetalk() -> Callable[[], object]:
    """One step of a U-Net of Stable Diffusion's size on 32 x 32 latents, speech as its prompt."""
    import torch
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    net = UNet2DConditionModel(
        sample_size=32, in_channels=8, out_channels=4, cross_attention_dim=384, attention_head_dim=8
    ).eval()
    latents, prompt, step = torch.rand(1, 8, 32, 32), torch.rand(1, 50, 384), torch.zeros(1)
    return lambda: net(latents, step, prompt).sample


if __name__ == "__main__":
    main()
