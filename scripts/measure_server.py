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
import struct
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np

from difftalker.packaged import samples
from server_fuzz import Fuzzed, fuzz
from server_process import Started

SOUND_HZ, BLOCK = 16_000, 640
MARK = 12_321
"""A sample that begins each block of sound; the number of the block follows."""
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
    http = HTTPConnection(url.partition("://")[2], timeout=60)
    while not over.is_set():
        began = time.monotonic()
        _ask(http, "GET", "/v1/jobs?limit=20")
        waits.append(time.monotonic() - began)
        if chance.random() < 0.05:
            _ask(http, "POST", "/v1/uploads?name=a.wav", b"x" * 200_000)
        over.wait(chance.uniform(0.4, 0.6))
    http.close()


def _ask(http: HTTPConnection, method: str, path: str, body: bytes | None = None) -> None:
    """A request by a client that takes little of the machine itself."""
    http.request(method, path, body)
    answer = http.getresponse()
    answer.read()
    assert answer.status < 400


def requests(options: argparse.Namespace, scratch: Path) -> bool:
    """Requests made from the description, and uploads that mean harm."""
    server = Started(scratch / "server", "--upload-gb", "0.01", "--queued", "100000")
    description = server.http.get("/v1/openapi.json").json()
    operations = sum(len(methods) for methods in description["paths"].values())
    made, seed = Fuzzed(), 0
    while made.requests < options.count:  # some operations have few different requests
        fuzz(
            server.http, description, examples=-(-options.count // operations), seed=seed, into=made
        )
        seed += 1
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
    """A session over the loopback: from sound in to its frame out, and interruptions."""
    server = Started(scratch / "server")
    try:
        heard, sent_s, asked_s = asyncio.run(_converse(server, options))
    finally:
        server.stop()
    answered = np.array(heard.delays_s(sent_s)) * 1000
    stopped = (np.array(heard.silent_s) - asked_s) * 1000
    print(f"the session's own figures: {heard.stats}")
    print(
        f"{len(answered)} blocks: sound in to frame out, ms: p50 {np.median(answered):.0f}, ",
        end="",
    )
    print(f"p95 {np.quantile(answered, 0.95):.0f}")
    print(
        f"{len(stopped)} interruptions, ms: p50 {np.median(stopped):.0f}, most {stopped.max():.0f}"
    )
    return bool(np.quantile(answered, 0.95) <= 350 and stopped.max() <= 100)


class Heard:
    """What came from a session, with when it came."""

    def __init__(self) -> None:
        self.sound = bytearray()
        self.frames: list[tuple[float, float]] = []
        """On the session's clock, and when it came, seconds."""
        self.silent_s: list[float] = []
        """When interruptions were answered."""
        self.stats: dict[str, Any] = {}

    async def listen(self, socket: Any) -> None:
        """Until the session has ended."""
        async for message in socket:
            now_s = time.monotonic()
            if isinstance(message, bytes):
                if message[0] == 1:
                    self.frames.append((struct.unpack("<d", message[1:9])[0], now_s))
                else:
                    self.sound += message[9:]
                continue
            told = json.loads(message)
            if told["type"] == "interrupted":
                self.silent_s.append(now_s)
            elif told["type"] == "ended":
                self.stats = told["stats"]
                return

    def delays_s(self, sent_s: list[float]) -> list[float]:
        """From when a block was sent to when the frame came that it is heard with."""
        samples = np.frombuffer(bytes(self.sound), "<i2")
        times_s = np.array([time_s for time_s, _ in self.frames])
        delays = []
        for place in np.flatnonzero(samples[:-1] == MARK):
            number = int(samples[place + 1])
            frame = int(np.searchsorted(times_s, place / SOUND_HZ + 1e-6)) - 1
            if 0 <= number < len(sent_s) and frame >= 0:
                delays.append(self.frames[frame][1] - sent_s[number])
        return delays


async def _converse(
    server: Started, options: argparse.Namespace
) -> tuple[Heard, list[float], list[float]]:
    """Speak in real time, and interrupt: what came back, and when blocks and those were sent."""
    from websockets.asyncio.client import connect

    from difftalker.media.audio import read_audio

    pcm = np.rint(np.clip(read_audio(samples.speech()), -1, 1) * 32767).astype("<i2")
    pcm[pcm == MARK] += 1
    url = server.url.replace("http", "ws") + f"/v1/live?avatar={options.avatar}"
    heard, sent_s, asked_s = Heard(), list[float](), list[float]()
    async with connect(f"{url}&video=sample-footage", max_size=None) as socket:
        ready = json.loads(await socket.recv())
        if ready["type"] != "ready":
            sys.exit(f"no session: {ready}")
        listener = asyncio.create_task(heard.listen(socket))
        began, chance = time.monotonic(), random.Random(0)
        for number in range(options.seconds * 25):
            block = np.take(pcm, range(number * BLOCK, (number + 1) * BLOCK), mode="wrap")
            block[:2] = MARK, number  # told again when it comes back
            sent_s.append(time.monotonic())
            await socket.send(block.tobytes())
            if number % 50 == 49:
                await asyncio.sleep(chance.uniform(0, 0.08))
                asked_s.append(time.monotonic())
                await socket.send(json.dumps({"type": "interrupt"}))
            await asyncio.sleep(max(0.0, began + (number + 1) * 0.04 - time.monotonic()))
        await socket.send(json.dumps({"type": "end"}))
        await listener
    return heard, sent_s, asked_s


if __name__ == "__main__":
    main()
