"""Batches: jobs lost and done twice when workers die, speed in parts, shards, starts, training.

    python scripts/measure_batch.py kills [--jobs 40] [--kills 3]
    python scripts/measure_batch.py parts [FOOTAGE] [--seconds 60] [--every 1] [--renderer NAME]
    python scripts/measure_batch.py shards [--jobs 40]
    python scripts/measure_batch.py start [--jobs 10000]
    python scripts/measure_batch.py processes [--steps 20]
    python scripts/measure_batch.py memory

``kills``, ``shards`` and ``start`` speak with an untrained avatar of the smallest size, ``parts``
dubs with a packaged one. Ray is started on this machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from difftalker.batch.lines import Names, read_lines
from difftalker.batch.options import BatchOptions
from difftalker.batch.places import Folder
from difftalker.batch.results import Results
from difftalker.batch.run import run_batch
from difftalker.batch.work import Result
from difftalker.face.draw import CHANNELS
from difftalker.packaged import samples


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(required=True)
    for measure, jobs in ((kills, 40), (shards, 40), (start, 10_000)):
        kind = kinds.add_parser(measure.__name__)
        kind.add_argument("--jobs", type=int, default=jobs)
        kind.add_argument("--kills", type=int, default=3)
        kind.set_defaults(run=measure)
    kind = kinds.add_parser("parts")
    kind.add_argument("footage", type=Path, nargs="?", default=samples.footage())
    kind.add_argument("--seconds", type=float, default=60.0)
    kind.add_argument("--every", type=int, default=1, help="take each n-th frame, for less work")
    kind.add_argument("--renderer", default="auto")
    kind.set_defaults(run=parts)
    kind = kinds.add_parser("processes")
    kind.add_argument("--steps", type=int, default=20)
    kind.set_defaults(run=processes)
    kinds.add_parser("memory").set_defaults(run=memory)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.run(Path(folder), options)


def kills(folder: Path, options: argparse.Namespace) -> None:
    """Jobs on two workers of Ray, one of which is killed now and then."""
    jobs = _talks(folder, options.jobs)
    over, killed = threading.Event(), list[int]()

    def killer() -> None:
        choose = random.Random(0)
        while not over.is_set() and len(killed) < options.kills:
            done = (folder / "ray").is_dir() and len(list((folder / "ray").glob("*.mp4")))
            workers = ray_workers()
            if workers and done >= (len(killed) + 1) * options.jobs // (options.kills + 2):
                killed.append(choose.choice(workers))
                os.kill(killed[-1], signal.SIGKILL)
            over.wait(0.2)

    thread = threading.Thread(target=killer)
    thread.start()
    summary = run_batch(jobs, folder / "ray", BatchOptions(ray="local", workers=2))
    over.set()
    thread.join()
    run_batch(jobs, folder / "alone", BatchOptions(threads=1))
    names = sorted(path.name for path in (folder / "alone").glob("*.mp4"))
    there = {path.name for path in (folder / "ray").glob("*.mp4")}
    lines = [json.loads(line) for line in (folder / "ray/results.jsonl").read_text().splitlines()]
    twice = Counter(line["name"] for line in lines if line["state"] == "done")
    same = sum(
        name in there
        and (folder / "ray" / name).read_bytes() == (folder / "alone" / name).read_bytes()
        for name in names
    )
    print(f"{options.jobs} jobs, workers killed {len(killed)}, failed {len(summary.failed)}")
    print(f"lost {options.jobs - len(there)}, done twice {sum(n > 1 for n in twice.values())}")
    print(f"bytes equal to those of one process: {same} of {len(names)}")


def parts(folder: Path, options: argparse.Namespace) -> None:
    """One long video by one worker and by two, one thread each."""
    line: dict[str, Any] = {"job": "dub"}
    line |= {"video": str(_looped(options.footage, options.seconds, options.every, folder))}
    line |= {"audio": str(samples.speech()), "avatar": samples.AVATAR, "any_face": True}
    line |= {"renderer": options.renderer}
    (folder / "jobs.jsonl").write_text(json.dumps(line) + "\n")
    ways = {
        "one worker": BatchOptions(ray="local", workers=1, threads=1),
        "two workers": BatchOptions(ray="local", workers=2, threads=1),
        "one process": BatchOptions(threads=1),
    }
    made, seconds = list[bytes](), dict[str, float]()
    for way, how in ways.items():
        out = folder / way.replace(" ", "-")
        run_batch(folder / "jobs.jsonl", out, how)
        [result] = [json.loads(text) for text in (out / "results.jsonl").read_text().splitlines()]
        if result["error"]:
            raise SystemExit(result["error"]["message"])
        made.append((out / result["outputs"]["output"]).read_bytes())
        seconds[way] = result["seconds"]
        faster = seconds["one worker"] / seconds[way]
        same = made[0] == made[-1]
        print(f"{way}: {seconds[way]:.0f} s, {faster:.2f} x; same bytes: {same}", flush=True)


def shards(folder: Path, options: argparse.Namespace) -> None:
    """Three shards of one file, side by side in processes, into one folder."""
    jobs = _talks(folder, options.jobs)
    command = [sys.executable, "-m", "difftalker", "batch", str(jobs), "-o", str(folder / "out")]
    running = [
        subprocess.Popen([*command, "--threads", "1", "--shard", f"{part}/3"]) for part in range(3)
    ]
    codes = [process.wait() for process in running]
    lines = (folder / "out/results.jsonl").read_text().splitlines()
    times = Counter(json.loads(line)["name"] for line in lines)
    done = len(list((folder / "out").glob("*.mp4")))
    print(f"{options.jobs} jobs in 3 shards: exit codes {codes}, results {done}")
    print(
        f"jobs done once: {sum(n == 1 for n in times.values())}, more often: "
        f"{sum(n > 1 for n in times.values())}"
    )


def start(folder: Path, options: argparse.Namespace) -> None:
    """A batch all of whose jobs are done."""
    jobs, out = _talks(folder, options.jobs), Folder(str(folder / "out"))
    names, done = Names(), list[dict[str, Any]]()
    for line in read_lines(jobs.read_text()):
        task = names.of(line)
        (folder / "out" / task.outputs["output"]).write_bytes(b"done")
        done.append(Result(task=task, state="done").record())
    Results(out).add(*done)
    command = [sys.executable, "-m", "difftalker", "batch", str(jobs), "-o", str(folder / "out")]
    began = time.monotonic()
    subprocess.run(command, check=True)
    print(f"a batch over {options.jobs} done jobs: {time.monotonic() - began:.1f} s, all of it")


def processes(folder: Path, options: argparse.Namespace) -> None:
    """Training by two processes with gloo and by one, at the preset debug."""
    from helpers import write_dataset

    data = write_dataset(folder / "data")
    words = ["train", str(data), "--preset", "debug", "--start", "none", "--threads", "1"]
    stages = ("landmarks", "autoencoder", "prior", "synthesis")
    for stage in stages:
        words += ["--stage", stage, "--set", f"training.{stage}.steps={options.steps}"]
        words += ["--set", f"training.{stage}.parts=2"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    torchrun += ["-m", "--", "difftalker"]  # after -- torchrun takes no option for its own
    for way, launcher in (("one", ["-m", "difftalker"]), ("two", torchrun)):
        command = [sys.executable, *launcher, *words]
        subprocess.run([*command, "--output", str(folder / way)], check=True)
    for stage in stages:
        one, two = (_losses(folder / f"{way}-run" / stage) for way in ("one", "two"))
        most = max(abs(a - b) for a, b in zip(one, two, strict=True))
        print(f"{stage}: losses over {len(one)} steps differ by {most:.1e} at most")


SD15 = {
    "unet": {"sample_size": 64, "cross_attention_dim": 768},
    "vae": {
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "sample_size": 512,
    },
}
"""The networks of Stable Diffusion 1.5, as diffusers describes them; what is left out is its
default."""


def memory(folder: Path, options: argparse.Namespace) -> None:
    """Memory of a step of the stage ``synthesis``: by arithmetic, and measured on a small twin.

    The arithmetic runs the step on torch's device ``meta``, which has sizes and no numbers.
    """
    import torch

    from difftalker import config as configs
    from difftalker.dubbing.networks import build
    from difftalker.training.task import recompute

    for preset, device in (("tiny", "cpu"), ("tiny", "meta"), ("base", "meta"), ("sd15", "meta")):
        model = replace(configs.preset(preset).model, base_model="")
        with torch.device(device):
            net = build(model, SD15 if preset == "sd15" else None).synthesis.train()
        every = sum(p.numel() for p in net.parameters())
        trained = sum(p.numel() for p in net.parameters() if p.requires_grad)
        # Weights of all; gradients, two moments and the average of what is trained.
        fixed = 4 * every + 16 * trained
        side = model.size_px // 8
        sizes = []
        for again in (False, True):
            if again:
                recompute(net)
            with torch.device(device):
                shown = torch.zeros(1, len(CHANNELS), model.size_px, model.size_px)
                known = torch.zeros(1, net.prior.unet.config.in_channels, side, side)
                sizes.append(_kept(net, shown, known))
        print(
            f"{preset} on {device}: {every / 1e6:.0f} M parameters, {trained / 1e6:.0f} M trained,"
            f" {fixed / 1e9:.1f} GB, and features of an example: {sizes[0] / 1e6:.0f} MB,"
            f" recomputed {sizes[1] / 1e6:.0f} MB"
        )


def ray_workers() -> list[int]:
    """Processes of a cluster that this process began, which hold a worker of ours."""
    words, above = dict[int, bytes](), dict[int, int]()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # one that has ended
            words[int(folder.name)] = (folder / "cmdline").read_bytes()
            after_name = (folder / "stat").read_text().rpartition(")")[2].split()
            above[int(folder.name)] = int(after_name[1])

    def is_ours(process: int) -> bool:
        return process == os.getpid() or (process in above and is_ours(above[process]))

    return sorted(
        one for one, said in words.items() if said[:11] == b"ray::Worker" and is_ours(one)
    )


def _kept(net: Any, maps: Any, known: Any) -> int:
    """Bytes of the tensors that a pass keeps for its gradients, weights apart."""
    import torch

    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    places: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        place = tensor.untyped_storage()  # held, so that no other takes its address
        if place._cdata not in weights:
            places[place._cdata] = place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        steps = torch.zeros(len(known), dtype=torch.long, device=known.device)
        made = net(known, steps, net.guide(known, maps=maps))
    assert made.requires_grad
    return sum(place.nbytes() for place in places.values())


def _talks(folder: Path, count: int) -> Path:
    """A file of so many short talks of an untrained avatar, by seeds."""
    from helpers_networks import write_untrained
    from synthetic import write_tone

    avatar = write_untrained(folder / "avatar", ("light", "live"))
    audio = write_tone(folder / "speech.wav", 0.4)
    own = {"job": "talk", "audio": str(audio), "avatar": str(avatar), "renderer": "light"}
    jobs = folder / "jobs.jsonl"
    jobs.write_text("".join(json.dumps({**own, "seed": seed}) + "\n" for seed in range(count)))
    return jobs


def _looped(footage: Path, seconds: float, every: int, folder: Path) -> Path:
    """The footage again and again, until it lasts so long: a video with cuts."""
    from difftalker.media.video import VideoWriter, probe_video, read_frames

    info, path = probe_video(footage), folder / "long.mp4"
    step = round(every / (info.fps * info.time_base))
    wanted = round(seconds * float(info.fps) / every)
    again = itertools.chain.from_iterable(read_frames(footage) for _ in itertools.count())
    with VideoWriter.like(info, path) as writer:
        for number, frame in enumerate(itertools.islice(again, 0, every * wanted, every)):
            writer.write(frame.image, number * step)
    return path


def _losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


if __name__ == "__main__":
    main()
