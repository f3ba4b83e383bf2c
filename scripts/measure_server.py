"""What a server holds: kills, load, requests of any kind, live sessions.

    python scripts/measure_server.py kills [--kills 20] [--jobs 6]
    python scripts/measure_server.py load [--clients 50]
    python scripts/measure_server.py requests [--count 5000] [--uploads 200]
    python scripts/measure_server.py live [--seconds 30]

Each starts `difftalker serve` in a folder of its own, prints what it found, and exits with 1 where
something was wrong. ``kills`` uses the smallest avatar there is, untrained and made on the spot,
the others `--avatar`, by default the packaged one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from difftalker.packaged import samples
from server_fuzz import fuzz
from server_process import Started

DUB = {"kind": "dub", "video": "sample-footage", "audio": "sample-speech"}


def main() -> None:
    """Measure one thing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    kinds = parser.add_subparsers(required=True)
    for run, numbers in (
        (kills, {"--kills": 20, "--jobs": 6, "--seed": 0}),
        (load, {"--clients": 50}),
        (requests, {"--count": 5000, "--uploads": 200}),
        (live, {"--seconds": 30}),
    ):
        one = kinds.add_parser(run.__name__)
        for name, number in numbers.items():
            one.add_argument(name, type=int, default=number)
        one.add_argument("--avatar", default=samples.AVATAR)
        one.set_defaults(run=run)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        sys.exit(not options.run(options, Path(scratch)))


def kills(options: argparse.Namespace, scratch: Path) -> bool:
    """SIGKILL a server at random moments while it works through a queue."""
    from media_matrix import make_avatar

    make_avatar(scratch / "small")
    request = {**DUB, "avatar": "small", "renderer": "diffusion"}
    server = Started(scratch / "alone", "--avatar", str(scratch / "small"))
    began = time.monotonic()
    wanted = [_bytes(server, server.job(**request, seed=seed)) for seed in range(options.jobs)]
    whole_s = time.monotonic() - began
    server.stop()
    server = Started(scratch / "killed", "--avatar", str(scratch / "small"))
    chance = random.Random(options.seed)
    jobs = [server.job(**request, seed=seed) for seed in range(options.jobs)]
    for number in range(1, options.kills + 1):
        wait_s = chance.uniform(0, 2 * whole_s / options.jobs)
        time.sleep(wait_s)
        states = [server.see(job)["state"] for job in jobs]
        server.kill()
        print(f"kill {number} after {wait_s:.1f} s: {', '.join(states)}", flush=True)
        server.start()
    same = [_bytes(server, job) == content for job, content in zip(jobs, wanted, strict=True)]
    server.stop()
    print(f"{options.kills} kills, {sum(same)} of {len(same)} jobs ended with the same bytes")
    return all(same)


def _bytes(server: Started, job: str) -> bytes:
    ended = server.end_of(job)
    if ended["state"] != "succeeded":
        sys.exit(f"a job ended otherwise: {ended['state']} {ended['error']}")
    return server.http.get(f"/v1/jobs/{job}/result").content


def load(options: argparse.Namespace, scratch: Path) -> bool:
    """Clients that poll and upload, beside one job that runs."""
    server = Started(scratch / "server")
    request = {**DUB, "avatar": options.avatar}
    server.end_of(server.job(**request))  # loads all that is loaded once
    alone_s = _seconds(server, server.job(**request, seed=1))
    over, waits = threading.Event(), list[float]()
    clients = [
        threading.Thread(target=_poll, args=(server.url, number, over, waits))
        for number in range(options.clients)
    ]
    job = server.job(**request, seed=1)
    for client in clients:
        client.start()
    beside_s = _seconds(server, job)
    over.set()
    for client in clients:
        client.join()
    server.stop()
    p50, p95 = np.quantile(waits, (0.5, 0.95)) * 1000
    slower = beside_s / alone_s - 1
    print(f"{options.clients} clients, {len(waits)} GET: p50 {p50:.0f} ms, p95 {p95:.0f} ms")
    print(f"the job: {alone_s:.1f} s alone, {beside_s:.1f} s beside them ({100 * slower:+.0f} %)")
    return bool(p95 < 100 and slower < 0.1)


def _seconds(server: Started, job: str) -> float:
    seconds: float = server.end_of(job)["result"]["seconds"]
    return seconds


def _poll(url: str, number: int, over: threading.Event, waits: list[float]) -> None:
    """A client: it looks at the jobs twice a second, and uploads a little now and then."""
    chance = random.Random(number)
    with httpx2.Client(base_url=url, timeout=60) as http:
        while not over.is_set():
            began = time.monotonic()
            http.get("/v1/jobs", params={"limit": 20}).raise_for_status()
            waits.append(time.monotonic() - began)
            if chance.random() < 0.05:
                http.post("/v1/uploads", params={"name": "a.wav"}, content=b"x" * 200_000)
            over.wait(chance.uniform(0.4, 0.6))


def requests(options: argparse.Namespace, scratch: Path) -> bool:
    """Requests made from the description, and uploads that mean harm."""
    server = Started(scratch / "server", "--upload-gb", "0.01", "--queued", "100000")
    description = server.http.get("/v1/openapi.json").json()
    operations = sum(len(methods) for methods in description["paths"].values())
    made = fuzz(server.http, description, examples=-(-options.count // operations))
    print(f"{made.requests} requests, {len(made.failures)} failures; {made.statuses}")
    for line in made.failures[:10]:
        print(f"  {line}")
    chance, wrong = random.Random(0), 0
    names = [
        "../../x",
        "/etc/passwd",
        "a\x00b",
        "..\\x",
        "x.html",
        "x.svg",
        "%2e%2e/x",
        "\u202e.mp4",
    ]
    for _ in range(options.uploads):
        name = chance.choice(names) + chance.choice(["", ".mp4", ".wav", "/..", " "])
        size = chance.choice([0, 1, 1000, 100_000, 10_000_001])
        content = chance.randbytes(size)
        answer = server.http.post("/v1/uploads", params={"name": name}, content=content)
        wrong += answer.status_code >= 500 and answer.status_code != 507
    outside = [path for path in scratch.iterdir() if path.name not in ("server", "log")]
    print(f"{options.uploads} hostile uploads, {wrong} errors of the server; outside: {outside}")
    for job in server.http.get("/v1/jobs", params={"limit": 1000}).json():
        server.http.delete(f"/v1/jobs/{job['id']}")
    server.stop()
    return not (made.failures or wrong or outside)


def live(options: argparse.Namespace, scratch: Path) -> bool:
    """A session over the loopback: from sound in to its frame out, and an interruption."""
    server = Started(scratch / "server")
    try:
        answered_ms, stopped_ms = asyncio.run(_converse(server, options))
    finally:
        server.stop()
    print(f"sound in to frame out: p95 {answered_ms:.0f} ms; interruption {stopped_ms:.0f} ms")
    return answered_ms <= 350 and stopped_ms <= 100


async def _converse(server: Started, options: argparse.Namespace) -> tuple[float, float]:
    from websockets.asyncio.client import connect

    from difftalker.media.audio import read_audio

    said = read_audio(samples.speech())
    pcm = np.rint(np.clip(said, -1, 1) * 32767).astype("<i2")
    url = server.url.replace("http", "ws") + f"/v1/live?avatar={options.avatar}"
    async with connect(f"{url}&video=sample-footage", max_size=None) as socket:
        ready = json.loads(await socket.recv())
        if ready["type"] != "ready":
            sys.exit(f"no session: {ready}")
        listener = asyncio.create_task(_listen(socket))
        began, block = time.monotonic(), 640
        for number in range(options.seconds * 25):
            start = number * block % (len(pcm) - block)
            await socket.send(pcm[start : start + block].tobytes())
            await asyncio.sleep(max(0.0, began + (number + 1) * 0.04 - time.monotonic()))
        asked = time.monotonic()
        await socket.send(json.dumps({"type": "interrupt"}))
        await socket.send(json.dumps({"type": "end"}))
        heard = await listener
    stats = heard["stats"]
    print(f"{stats}")
    return stats["sound_to_frame_p95_ms"], 1000 * (heard["silent_s"] - asked)


async def _listen(socket: Any) -> dict[str, Any]:
    """The session's own figures, and when the interruption was answered."""
    silent_s = 0.0
    async for message in socket:
        if isinstance(message, bytes):
            continue
        told = json.loads(message)
        if told["type"] == "interrupted":
            silent_s = time.monotonic()
        elif told["type"] == "ended":
            return {"stats": told["stats"], "silent_s": silent_s}
    sys.exit("the session ended without its figures")


if __name__ == "__main__":
    main()
