"""Time of a training step in the precision that is chosen by itself, against float32.

    python scripts/measure_precision.py [--steps 6] [--batch 8]
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python scripts/measure_precision.py

Trains the packaged avatar's synthesis on the packaged footage, in turns with what
``core.device.autocast`` chooses and with float32, and prints the median time of a frame of both and
their ratio. On a processor without fast bfloat16 both are the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

from difftalker import config as configs
from difftalker.core.device import has_fast_bfloat16
from difftalker.data.prepare import PrepareConfig, prepare
from difftalker.media.video import VideoWriter, probe_video, read_frames
from difftalker.packaged import samples
from difftalker.training.options import TrainOptions
from difftalker.training.run import Run
from difftalker.training.trainer import Trainer


def trainers(folder: Path, batch: int) -> dict[str, Trainer]:
    """The same stage twice: in the precision that is chosen, and in float32."""
    chosen = configs.preset("tiny")
    stage = replace(chosen.training.synthesis, batch=batch, steps=10_000)
    training = replace(chosen.training, synthesis=stage, voices=0, align_sound=False)
    config = replace(chosen, training=training)
    info = probe_video(samples.footage())
    with VideoWriter.like(info, folder / "clip.mp4", audio=samples.speech()) as writer:
        for frame in read_frames(info.path):
            writer.write(frame.image, frame.pts)
    prepare([folder / "clip.mp4"], folder / "data", PrepareConfig(size_px=config.model.size_px))
    made = {}
    for name, allowed in (("chosen", True), ("float32", False)):
        one = replace(config, training=replace(config.training, autocast=allowed))
        options = TrainOptions(
            dataset=folder / "data",
            run=folder / name,
            stages=("synthesis",),
            start=samples.AVATAR,
        )
        made[name] = Run(one, options).trainer("synthesis")
    return made


def main() -> None:
    """Print the times."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=6, help="of each, after one that is not timed")
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spent: dict[str, list[float]] = {"chosen": [], "float32": []}
        both = trainers(Path(folder), options.batch)
        for step in range(options.steps + 1):
            for name, trainer in both.items():
                batch = trainer.batches.batch(step)
                began = time.perf_counter()
                trainer.one_step(batch)
                if step:
                    spent[name].append((time.perf_counter() - began) / options.batch)
    kind = "bfloat16" if has_fast_bfloat16("cpu") else "float32"
    times = {name: median(each) for name, each in spent.items()}
    print(f"chosen ({kind}) {1000 * times['chosen']:.0f} ms a frame")
    print(f"float32 {1000 * times['float32']:.0f} ms a frame")
    print(f"ratio {times['chosen'] / times['float32']:.3f}")


if __name__ == "__main__":
    main()
