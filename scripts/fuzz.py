"""Hand damaged files to `difftalker dub`, and see that it never does worse than refuse them.

    python scripts/fuzz.py [--count 2000] [--start 0] [--limit-s 900] [--seed 0] [--keep FOLDER]

Small videos and sounds in many containers, a landmark track and an avatar are made on the spot and
damaged: bits flipped, bytes overwritten, cut out, doubled or spliced in from elsewhere, numbers in
headers and values in JSON replaced by unlikely ones, hashes put right again. Each is given to the
real command, in a worker process that is watched. Right is: a complete output and exit code 0, or
one line of ours, exit code 1 or 2 and no output. Counted as wrong are: a worker that a signal ended
(crash), one that took longer than --case-s (hang), anything but one line of ours or a failure that
was not foreseen (trace), and an output after a failure or a broken one after success (partial).
Exits 1 where anything was wrong; --keep saves the files that did it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import multiprocessing
import os
import random
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cache
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import av
import numpy as np

PRELOADED = ["difftalker.cli", "difftalker.dubbing.avatar", "difftalker.dubbing.previews", "torch"]
FRAMES, WIDTH, HEIGHT, FPS, RATE_HZ = 8, 64, 48, 25, 16_000

VIDEOS = (
    ("a.mp4", "libx264", "yuv420p", "aac"),
    ("b.mov", "mpeg4", "yuv420p", "pcm_s16le"),
    ("c.mkv", "ffv1", "bgr0", "flac"),
    ("d.webm", "libvpx-vp9", "yuv420p", "libopus"),
    ("e.avi", "mjpeg", "yuvj420p", "mp3"),
    ("f.ts", "mpeg2video", "yuv420p", "mp2"),
    ("g.mkv", "libx265", "yuv420p10le", "aac"),
    ("h.mp4", "libsvtav1", "yuv420p", "aac"),
    ("i.nut", "libx264", "yuv420p", "pcm_s16le"),
    ("j.flv", "libx264", "yuv420p", "aac"),
    ("k.mov", "prores_ks", "yuv422p10le", "pcm_s16le"),
    ("l.mpg", "mpeg1video", "yuv420p", "mp2"),
    ("m.ts", "libx264", "yuv420p", "mp2"),
    ("n.mkv", "libx264", "yuv420p", "pcm_s16le"),
)
SOUNDS = (
    *(("a.wav", "pcm_s16le"), ("b.flac", "flac"), ("c.mp3", "mp3"), ("d.ogg", "libopus")),
    *(("e.m4a", "aac"), ("f.mka", "pcm_s24le"), ("g.ogg", "libopus"), ("h.mka", "flac")),
)
CHAINED = ("m.ts", "g.ogg")
"""Files that are written twice over: their clocks start again in the middle."""
GAPPED, GAP_S = ("n.mkv", "h.mka"), 30
"""Files whose sound has a gap, and its length."""
UNLIKELY = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
UNLIKELY_JSON: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 2**31, 2**63, 10**30, 1e308, -1e308, 0.5, float("nan"), float("inf")),
    *(
        "",
        "\n",
        "x" * 5000,
        "../../etc/passwd",
        "\u202e",
        [],
        {},
        [[]],
        [0] * 5000,
        {"a": {"b": 1}},
    ),
)


# --- what is damaged ---------------------------------------------------------------------------


def make_seeds(folder: Path) -> None:
    """Whole files to damage: media, an avatar, tracks."""
    from difftalker import config
    from difftalker.core.hashing import sha256_of
    from difftalker.dubbing.networks import build
    from difftalker.face.crop import CropTrack
    from difftalker.landmarks.track_file import LandmarkTrack
    from difftalker.store import avatars as avatar

    for name, codec, pixels, sound in VIDEOS:
        make_media(folder / "videos" / name, (codec, pixels), sound)
    for name, sound in SOUNDS:
        make_media(folder / "sounds" / name, None, sound)
    model = config.debug().model
    networks = build(model)
    avatar.write(
        folder / "avatar",
        name="nobody",
        config=networks.resolved(model),
        architecture=networks.architecture(),
        weights=networks.state(),
        facts={},
        card="# Nobody\n",
    )
    crop = CropTrack(
        centre_px=np.full((FRAMES, 2), 24, np.float32), side_px=np.full(FRAMES, 40, np.float32)
    )
    points = np.random.default_rng(0).uniform(0.2, 0.8, (FRAMES, 68, 2)).astype(np.float32)
    track = LandmarkTrack(
        times_s=np.arange(FRAMES) / FPS,
        points_crop=points,
        found=np.ones(FRAMES, bool),
        cut=np.zeros(FRAMES, bool),
        centre_px=crop.centre_px,
        side_px=crop.side_px,
        boxes=np.tile(np.array([32, 64, 8, 56], np.int32), (FRAMES, 1)),
        size_px=model.size_px,
        frame_px=(WIDTH, HEIGHT),
        video="a.mp4",
        video_sha256=sha256_of(folder / "videos" / "a.mp4"),
        avatar="nobody",
    )
    (folder / "tracks").mkdir()
    for suffix in ("npz", "json"):
        track.save(folder / "tracks" / f"a.{suffix}")


def make_media(path: Path, picture: tuple[str, str] | None, sound: str) -> None:
    """A third of a second of moving noise and a tone."""
    path.parent.mkdir(exist_ok=True)
    rate_hz = 48_000 if sound in ("libopus", "mp2", "mp3") else RATE_HZ
    with av.open(str(path), "w") as out:
        tracks: list[Any] = []
        if picture is not None:
            video: Any = out.add_stream(picture[0], rate=FPS, options=settings(picture[0]))
            video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, picture[1]
            tracks.append(video)
        heard: Any = out.add_stream(sound, rate=rate_hz, layout="mono")
        tracks.append(heard)
        noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH + FRAMES, 3), np.uint8)
        for i in range(FRAMES if picture else 0):
            image = np.ascontiguousarray(noise[:, i : i + WIDTH])
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=video.pix_fmt)
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            out.mux(video.encode(frame))
        tone = 0.3 * np.sin(np.arange(rate_hz * FRAMES // FPS) / 20).astype(np.float32)
        for number, half in enumerate(np.split(tone, 2)):
            block = av.AudioFrame.from_ndarray(half[None], format="flt", layout="mono")
            block.sample_rate, block.time_base = rate_hz, Fraction(1, rate_hz)
            block.pts = number * (len(half) + GAP_S * rate_hz * (path.name in GAPPED))
            out.mux(heard.encode(block))
        for one in tracks:
            out.mux(one.encode(None))
    if path.name in CHAINED:
        path.write_bytes(path.read_bytes() * 2)


def settings(codec: str) -> dict[str, str]:
    """Options for key frames on the way and frames that lean on later ones, where there are any."""
    if codec == "libx265":
        return {"x265-params": "log-level=none"}
    has_b_frames = codec in ("libx264", "mpeg4", "mpeg2video", "mpeg1video")
    return {"g": "4", "bf": "1"} if has_b_frames else {}


# --- how ---------------------------------------------------------------------------------------


def damaged(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """Some bytes, changed in one to three ways."""
    whole = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3))):
        if whole:
            chance.choice(DAMAGES)(whole, other, chance)
    return bytes(whole)


def _place(data: bytearray, chance: random.Random) -> int:
    """Anywhere; half of the time near the start or the end, where headers and indexes lie."""
    near = chance.randrange(4)
    if near == 0:
        return chance.randrange(min(len(data), 600))
    if near == 1:
        return len(data) - 1 - chance.randrange(min(len(data), 600))
    return chance.randrange(len(data))


def flip_bits(data: bytearray, _: bytes, chance: random.Random) -> None:
    """Turn a few bits round."""
    for _number in range(chance.choice((1, 3, 10, 50))):
        data[_place(data, chance)] ^= 1 << chance.randrange(8)


def truncate(data: bytearray, _: bytes, chance: random.Random) -> None:
    """Cut the end off."""
    del data[_place(data, chance) :]


def splice(data: bytearray, other: bytes, chance: random.Random) -> None:
    """Put a piece of another file in, or in the place of what was there."""
    start = chance.randrange(len(other))
    piece = other[start : start + chance.choice((4, 60, 1000))]
    at = _place(data, chance)
    data[at : at + chance.choice((0, len(piece)))] = piece


def overwrite_number(data: bytearray, _: bytes, chance: random.Random) -> None:
    """Write an unlikely number over what may be a length, a count or a size."""
    order, kind = chance.choice("<>"), chance.choice("BHIQ")
    packed = struct.pack(order + kind, chance.choice(UNLIKELY) % (1 << 8 * struct.calcsize(kind)))
    at = _place(data, chance)
    data[at : at + len(packed)] = packed


def cut_out(data: bytearray, _: bytes, chance: random.Random) -> None:
    """Take a piece out."""
    at = _place(data, chance)
    del data[at : at + chance.choice((1, 8, 188, 2000))]


def double(data: bytearray, _: bytes, chance: random.Random) -> None:
    """Repeat a piece."""
    at = _place(data, chance)
    data[at:at] = data[at : at + chance.choice((8, 188, 2000))] * chance.choice((1, 5))


def blank(data: bytearray, _: bytes, chance: random.Random) -> None:
    """Fill a piece with zeros."""
    at = _place(data, chance)
    length = min(chance.choice((4, 100, 3000)), len(data) - at)
    data[at : at + length] = bytes(length)


DAMAGES: tuple[Callable[[bytearray, bytes, random.Random], None], ...] = (
    *(flip_bits, truncate, splice, overwrite_number, overwrite_number, cut_out, double, blank),
)


def edited_json(text: str, chance: random.Random) -> str:
    """JSON with a few values replaced, left out or added."""
    whole = json.loads(text)
    for _ in range(chance.choice((1, 1, 2, 4))):
        at: Any = whole
        while True:
            keys: Sequence[Any] = list(at) if isinstance(at, dict) else range(len(at))
            if not keys:
                break
            key = chance.choice(keys)
            if isinstance(at[key], dict | list) and at[key] and chance.random() < 0.85:
                at = at[key]
                continue
            _change(at, key, chance)
            break
    return json.dumps(whole)


def _change(at: Any, key: Any, chance: random.Random) -> None:
    what = chance.randrange(8)
    if what == 0:
        del at[key]
    elif what == 1 and isinstance(at, dict):
        at[chance.choice(("x", "_class_name", "__class__", "base_model", ""))] = at[key]
    elif what == 2 and type(at[key]) in (int, float):
        at[key] = at[key] * chance.choice((-1, 2, 16, 1000, 10**9))
    elif what == 3 and isinstance(at[key], list):
        at[key] = at[key] * chance.choice((0, 2, 50))
    else:
        at[key] = chance.choice(UNLIKELY_JSON)


def damage_avatar(folder: Path, chance: random.Random) -> None:
    """Damage one file of an avatar; mostly, its hashes are then those of the new files."""
    from difftalker.core.hashing import sha256_of

    config = folder / "config.json"
    chosen = chance.choice((config, config, *sorted(folder.glob("*.safetensors"))))
    if chosen == config:
        config.write_text(edited_json(config.read_text(), chance))
    else:
        data = chosen.read_bytes()
        length = 8 + int.from_bytes(data[:8], "little")
        head, body = data[:length], data[length:]
        way = chance.randrange(3)
        if way == 0:
            edited = edited_json(head[8:].decode(), chance).encode()
            chosen.write_bytes(struct.pack("<Q", len(edited)) + edited + body)
        else:
            parts = (
                (damaged(head, body, chance), body)
                if way == 1
                else (head, damaged(body, head, chance))
            )
            chosen.write_bytes(b"".join(parts))
    if chance.random() < 0.9:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, OSError):
            raw = json.loads(config.read_text())
            for name in raw["files"]:
                raw["files"][name] = sha256_of(folder / name)
            config.write_text(json.dumps(raw))


def damage_track(path: Path, chance: random.Random) -> None:
    """Damage a landmark track: its bytes, its JSON, or the arrays in it."""
    way = chance.randrange(3)
    if way == 0 or (way == 1 and path.suffix == ".npz"):
        data = path.read_bytes()
        path.write_bytes(damaged(data, data, chance))
    elif path.suffix == ".json":
        path.write_text(edited_json(path.read_text(), chance))
    else:
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = chance.choice(sorted(members))
        members[name] = damaged(members[name], members["times_s.npy"], chance)
        with zipfile.ZipFile(path, "w", chance.choice((0, 8))) as archive:
            for member, data in members.items():
                archive.writestr(member, data)


# --- the command, watched ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Case:
    """One damaged input."""

    number: int
    kind: str
    seed: int


def kind_of(number: int) -> str:
    """Which input is damaged: media more often, as they have the largest readers."""
    return (
        "video",
        "video",
        "sound",
        "video",
        "track",
        "avatar",
        "video",
        "sound",
        "track",
        "both",
    )[number % 10]


def prepared(case: Case, seeds: Path, folder: Path) -> list[str]:
    """Damage the files of a case; the words of the command."""
    chance = random.Random(case.seed)
    video = (
        folder / chance.choice(VIDEOS)[0] if case.kind in ("video", "both") else folder / "a.mp4"
    )
    sound = folder / chance.choice(SOUNDS)[0]
    track, avatar = folder / f"a.{chance.choice(('npz', 'json'))}", seeds / "avatar"
    others = [
        path.read_bytes() for path in (seeds / "videos" / "a.mp4", seeds / "sounds" / "c.mp3")
    ]
    shutil.copy(seeds / "videos" / video.name, video)
    shutil.copy(seeds / "sounds" / sound.name, sound)
    shutil.copy(seeds / "tracks" / track.name, track)
    for path in (video,) * (case.kind in ("video", "both")) + (sound,) * (
        case.kind in ("sound", "both")
    ):
        path.write_bytes(damaged(path.read_bytes(), chance.choice(others), chance))
    if case.kind == "track":
        damage_track(track, chance)
    elif case.kind == "avatar":
        avatar = folder / "avatar"
        shutil.copytree(seeds / "avatar", avatar)
        damage_avatar(avatar, chance)
    else:
        match_track(track, video)
    words = [str(video), str(sound), "--landmarks", str(track), "--avatar", str(avatar)]
    if chance.random() < 0.3 and case.kind in ("video", "both"):
        words += ["--keep-audio"]
    if case.kind == "track":
        words += ["--fit", chance.choice(("trim", "trim", "pad", "loop", "pingpong"))]
        words += ["--edit", chance.choice(("mouth=2", "smooth=0.1@0.1-", "shift=-0.05"))]
    return words


def match_track(path: Path, video: Path) -> None:
    """Let a track belong to damaged footage, so that rendering it is not refused out of hand."""
    from difftalker.core.hashing import sha256_of
    from difftalker.errors import MediaError
    from difftalker.landmarks.track_file import LandmarkTrack
    from difftalker.media.video import probe_video

    with contextlib.suppress(MediaError):
        info = probe_video(video)
        size = info.width, info.height
        track = LandmarkTrack.load(path)
        replace(track, video_sha256=sha256_of(video), frame_px=size).save(path)


def work(pipe: Connection, seeds: Path, scratch: Path) -> None:
    """Carry out cases as they come; in a child process."""
    import torch

    from difftalker.dubbing import avatar as pipeline
    from difftalker.media import decoder

    torch.set_num_threads(1)
    logging.getLogger().addHandler(logging.NullHandler())
    decoder.PATIENCE_S = 5
    whole = cache(pipeline.load)  # the avatar that is not damaged is built once
    read = pipeline.load
    pipeline.load = lambda name, **how: (
        whole(name, **how) if str(name) == str(seeds / "avatar") else read(name, **how)
    )
    while (case := pipe.recv()) is not None:
        folder = Path(tempfile.mkdtemp(dir=scratch, prefix=f"{case.number}-"))
        pipe.send(tried(case, seeds, folder))


def tried(case: Case, seeds: Path, folder: Path) -> tuple[str, str]:
    """What came of a case: a word and what was printed."""
    from difftalker import cli

    output, errors, printed = folder / "out.mkv", io.StringIO(), io.StringIO()
    try:
        words = prepared(case, seeds, folder)
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(printed):
            code = cli.main(["dub", *words, "--output", str(output)])
    except BaseException as error:
        return "trace", f"{type(error).__name__}: {error}"
    return judged(code, errors.getvalue(), output)


def judged(code: int, errors: str, output: Path) -> tuple[str, str]:
    """Whether a run ended as it may."""
    from difftalker.errors import MediaError
    from difftalker.media.video import read_frames

    lines = [line for line in errors.splitlines() if line.strip()]
    left = [path.name for path in output.parent.glob(".*") if not path.name.endswith(".dubbing")]
    if left or (code and output.exists()):
        return "partial", f"exit code {code}, and there are {left or output.name}"
    if code == 0:
        try:
            frames = sum(1 for _ in read_frames(output))
        except MediaError as error:
            return "partial", f"a broken output: {error}"
        return "dubbed", f"{frames} frames"
    last = lines[-1] if lines else ""
    is_ours = last.startswith("difftalker: ") and "an unexpected" not in last
    if code not in (1, 2) or not is_ours or "Traceback" in errors:
        return "trace", f"exit code {code}: {errors.strip()[-600:]}"
    return ("contained" if "its decoder" in last else "refused"), last


class Worker:
    """A watched process that carries out cases."""

    def __init__(self, context: ForkServerContext, seeds: Path, scratch: Path) -> None:
        self._pipe, theirs = context.Pipe()
        self._process: ForkServerProcess = context.Process(
            target=work, args=(theirs, seeds, scratch), daemon=True
        )
        self._process.start()
        theirs.close()

    def run(self, case: Case, limit_s: float) -> tuple[str, str]:
        """What came of a case; after a crash or a hang the worker is of no more use."""
        self._pipe.send(case)
        if not self._pipe.poll(limit_s):
            self._process.kill()
            return "hang", f"longer than {limit_s:g} s"
        try:
            word, text = self._pipe.recv()
        except EOFError:
            self._process.join(10)
            return "crash", f"exit code {self._process.exitcode}"
        return str(word), str(text)

    def end(self) -> None:
        """End the process, in peace where that goes."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(5)
        self._process.kill()
        self._process.join()


WRONG = ("crash", "hang", "trace", "partial")


def main() -> None:
    """Print what went wrong, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0, help="the first: to go on after a stop")
    parser.add_argument("--limit-s", type=float, default=900.0, help="stop after so long")
    parser.add_argument("--case-s", type=float, default=20.0, help="longer is a hang")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, default=None, help="one case, by its number")
    parser.add_argument("--keep", type=Path, default=None, help="folder for files that did wrong")
    options = parser.parse_args()
    os.environ["SVT_LOG"] = "0"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    began, counts = time.monotonic(), Counter[str]()
    with tempfile.TemporaryDirectory() as scratch:
        seeds, folder = Path(scratch, "seeds"), Path(scratch, "cases")
        seeds.mkdir()
        folder.mkdir()
        make_seeds(seeds)
        worker = Worker(context, seeds, folder)
        stop = options.start + options.count
        numbers = range(options.start, stop) if options.only is None else [options.only]
        for number in numbers:
            if time.monotonic() - began > options.limit_s:
                print(f"stopped after {options.limit_s:g} s: go on with --start {number}")
                break
            if number % 50 == 0:
                print(f"{number} after {time.monotonic() - began:.0f} s", flush=True)
            case = Case(number=number, kind=kind_of(number), seed=options.seed * 10**9 + number)
            word, text = worker.run(case, options.case_s)
            counts[word] += 1
            if word in WRONG or options.only is not None:
                print(f"{number} ({case.kind}): {word}: {text}", flush=True)
            for place in folder.glob(f"{number}-*"):
                if word in WRONG and options.keep:
                    shutil.copytree(place, options.keep / f"{number}-{word}", dirs_exist_ok=True)
                shutil.rmtree(place, ignore_errors=True)
            if word in ("crash", "hang"):
                worker = Worker(context, seeds, folder)
        worker.end()
    report(counts, time.monotonic() - began)


def report(counts: Counter[str], seconds: float) -> None:
    """Print the summary and end with the exit code."""
    print(
        f"{counts.total()} damaged inputs in {seconds:.0f} s: {counts['dubbed']} dubbed all the"
        f" same, {counts['refused']} refused, {counts['contained']} decoders that crashed or hung"
        " and were contained"
    )
    print("wrong: " + ", ".join(f"{word} {counts[word]}" for word in WRONG))
    sys.exit(bool(sum(counts[word] for word in WRONG)) or not counts.total())


if __name__ == "__main__":
    main()
