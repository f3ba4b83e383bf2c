"""The paper's scale on one processor: time and memory of a training step and a dub at 512 pixels.

    python scripts/measure_sd15.py CLIP [--folder DIR] [--steps 20]

Writes a model of Stable Diffusion 1.5's architecture in the diffusers layout, with random weights
(4 GB), trains the preset ``sd15`` on the clip for one step of completion and of synthesis, and dubs
its first two frames. Prints seconds and the most memory of each part. With ``--base`` another model
takes the place of the random one: a folder, or a hub's id.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from difftalker.media.video import VideoWriter, probe_video, read_frames

SETTINGS = {
    "model.completion.features": "mel",
    "model.completion.feature_dim": "80",
    "training.landmarks.steps": "1",
    "training.landmarks.batch": "1",
    "training.synthesis.steps": "1",
    "training.synthesis.batch": "1",
    "training.decoder.steps": "0",
    "training.light.steps": "0",
    "training.live.steps": "0",
    "training.validation_clips": "1",
    "training.span_frames": "5",
    "training.voices": "0",
    "training.align_sound": "false",
    "training.latent_stride": "25",
}
FRAMES = 2
LEARNED = 10
"""Frames to learn from: every tenth is rendered when the step is validated, three times."""


def write_base_model(folder: Path) -> None:
    """Stable Diffusion 1.5 with random weights (Rombach et al. 2022; its published sizes)."""
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler

    torch.manual_seed(0)
    unet: Any = UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280, 1280),
        attention_head_dim=8,
        cross_attention_dim=768,
    )
    print(f"U-Net: {sum(p.numel() for p in unet.parameters()) / 1e6:.0f} million parameters")
    unet.save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
        scaling_factor=0.18215,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(
        prediction_type="epsilon", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
    ).save_pretrained(folder / "scheduler")


def write_start(clip: Path, output: Path, frames: int) -> None:
    """The first frames of a clip, with its sound."""
    info = probe_video(clip)
    writer = VideoWriter(
        output,
        width=info.width,
        height=info.height,
        fps=info.fps,
        time_base=info.time_base,
        audio=clip,
    )
    with writer:
        for frame in islice(read_frames(clip), frames):
            writer.write(frame.image, frame.pts)


def measured(what: str, *words: str) -> None:
    """Run a command of difftalker; print its time and the most memory that it held."""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "difftalker", *words])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{what} failed: {child.returncode}")
    seconds = time.monotonic() - began
    print(f"{what}: {seconds:.0f} s, {usage.ru_maxrss / 1e6:.1f} GB", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("clip", type=Path)
    parser.add_argument("--folder", type=Path, help="where all is kept; else a temporary one")
    parser.add_argument("--base", default="", help="a model in the diffusers layout, or a hub's id")
    parser.add_argument("--steps", type=int, default=20, help="steps of denoising in the dub")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="difftalker-") as scratch:
        folder = options.folder or Path(scratch)
        base, data, avatar = options.base or folder / "base", folder / "data", folder / "avatar"
        if not options.base and not Path(base).is_dir():
            # In a process of its own: the most memory of a child counts from that of its parent.
            child = multiprocessing.get_context("spawn").Process(
                target=write_base_model, args=(folder / "base",)
            )
            child.start()
            child.join()
            if child.exitcode:
                raise SystemExit(f"writing the model failed: {child.exitcode}")
        write_start(options.clip, folder / "learned.mp4", LEARNED)
        prepare = ("prepare", str(folder / "learned.mp4"), "--size", "512", "--features", "mel")
        measured("preparing the clip", *prepare, "--output", str(data))
        settings = {"model.base_model": str(base), **SETTINGS}
        sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        train = ("train", str(data), "--preset", "sd15", "--start", "none", "--consent", "measured")
        measured("training, one step of each stage", *train, *sets, "--output", str(avatar))
        write_start(options.clip, folder / "start.mp4", FRAMES)
        start, more = str(folder / "start.mp4"), ("--steps", str(options.steps), "--any-face")
        out = ("--output", str(folder / "out.mp4"))
        dub = ("dub", start, start, "--avatar", str(avatar), "--renderer", "diffusion", *more, *out)
        measured(f"dub of {FRAMES} frames, {options.steps} steps of denoising", *dub)


if __name__ == "__main__":
    main()
