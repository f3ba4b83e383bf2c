"""Batches on Ray: what is lost when workers die, and that none of it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from difftalker.batch import cluster
from difftalker.batch.cluster import Piece, RayError
from difftalker.batch.lines import Names, read_lines
from difftalker.batch.options import BatchOptions
from difftalker.batch.run import run_batch
from difftalker.batch.worker import Answer, Worker
from difftalker.core.jobs import Event, never
from difftalker.dubbing import jobs as dubs
from measure_batch import ray_workers

Talk = Callable[..., dict[str, Any]]
Jobs = Callable[..., Path]


class Pool:
    """Workers in this process, one of which dies where the test says so, its work done or not."""

    def __init__(self, worker: Worker, dies: Callable[[Piece], bool]) -> None:
        self.worker, self.dies = worker, dies
        self.idle, self.busy = [0], dict[int, Piece]()
        self.given = Counter[str]()

    def give(self, piece: Piece) -> None:
        self.busy[self.idle.pop()] = piece
        self.given[piece.kind] += 1

    def ended(self, wait_s: float) -> list[tuple[Piece, Answer | None, Any]]:
        [(name, piece)] = self.busy.items()
        self.busy.clear()
        self.idle.append(name)
        if self.dies(piece):
            return [(piece, None, None)]
        words: dict[str, tuple[Any, ...]] = {
            "open": (),
            "paint": (piece.job.opened, piece.part),
            "join": ([piece.job.opened, *piece.job.painted],),
        }
        answer, made = getattr(self.worker, piece.kind)(piece.job.task, *words[piece.kind])
        return [(piece, answer, made)]


def carried_out(
    path: Path, out: Path, dies: Callable[[Piece], bool], **options: Any
) -> tuple[list[Any], Counter[str]]:
    names = Names()
    todo = [names.of(line) for line in read_lines(path.read_text())]
    out.mkdir(exist_ok=True)
    pool: Any = Pool(Worker(str(out), 1, 4, 1.0), dies)
    queue = cluster._Queue(pool, todo, BatchOptions(**options))
    return list(queue.results(never)), pool.given


@pytest.fixture
def long_dub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The line of a dub of three seconds, whose face is not searched for."""
    from synthetic import debug_avatar, located, pictures, still_track, write_footage, write_tone

    video = write_footage(tmp_path / "video.mp4", pictures(72))
    audio = write_tone(tmp_path / "audio.wav", 2.8)
    (tmp_path / "avatar").mkdir()
    monkeypatch.setattr("difftalker.dubbing.avatar.load", lambda *_, **__: debug_avatar())
    monkeypatch.setattr(
        "difftalker.dubbing.engine.locate", lambda *_, **__: located(video, still_track(72))
    )
    own = {"video": str(video), "audio": str(audio), "avatar": str(tmp_path / "avatar")}
    return {"job": "dub", **own, "report": "report.json"}


def test_a_long_dub_in_parts_is_that_of_one_process_whoever_dies(
    long_dub: dict[str, Any], jobs: Jobs, tmp_path: Path
) -> None:
    path, deaths = jobs(long_dub), Counter[str]()

    def dies(piece: Piece) -> bool:
        """Once at each kind of work."""
        deaths[piece.kind] += 1
        return deaths[piece.kind] == 1

    [result], given = carried_out(path, tmp_path / "parts", dies)
    assert result.state == "done", result.error
    # 72 frames in parts of 25 at most: 16, 16, 16 and 24.
    assert given["paint"] == 2 * 4 + 1, "all parts again once the join had died"
    run_batch(path, tmp_path / "whole")
    names = set(result.task.outputs.values())
    assert len(names) == 2
    for name in names:
        one, other = ((tmp_path / way / name).read_bytes() for way in ("parts", "whole"))
        if name.endswith(".mp4"):
            assert one == other
        assert one
    assert {p.name for p in (tmp_path / "parts").iterdir()} == names


def test_a_piece_that_kills_every_worker_fails_alone(
    talk: Talk, jobs: Jobs, tmp_path: Path
) -> None:
    results, given = carried_out(
        jobs(talk(1), talk(2)), tmp_path / "out", lambda piece: piece.job.task.line == 1, deaths=3
    )
    assert [(one.task.line, one.state) for one in results] == [(1, "failed"), (2, "done")]
    assert results[0].error["found"] == "3 workers died at it"
    assert given["open"] == 4


def test_a_failure_on_a_worker_is_a_result_with_its_reason(
    talk: Talk, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise OSError("no disk")

    monkeypatch.setattr(dubs.TalkJob, "run", broken)
    [result], given = carried_out(jobs(talk(1)), tmp_path / "out", lambda _: False, retries=2)
    assert (result.state, result.attempts, given["open"]) == ("failed", 3, 3)
    assert "no disk" in result.error["message"]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_a_worker_that_is_killed_loses_nothing(talk: Talk, jobs: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    path, killed = jobs(*[talk(n) for n in range(8)]), list[int]()

    def kill(event: Event) -> None:
        if event.done == 2 and not killed:
            killed.append(ray_workers()[0])
            os.kill(killed[0], signal.SIGKILL)

    summary = run_batch(path, tmp_path / "ray", BatchOptions(ray="local", workers=2), kill)
    assert killed
    assert (summary.done, summary.failed) == (8, [])
    run_batch(path, tmp_path / "alone", BatchOptions(threads=1))
    names = {p.name for p in (tmp_path / "alone").glob("*.mp4")}
    assert len(names) == 8
    for name in names:
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
    lines = (tmp_path / "ray" / "results.jsonl").read_text().splitlines()
    assert len(lines) == 8


def test_a_cluster_that_is_not_there_is_one_line(talk: Talk, jobs: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.raises(RayError, match="auto cannot be reached"):
        run_batch(jobs(talk(1)), tmp_path / "out", BatchOptions(ray="auto"))


def test_nothing_that_listens_is_one_line_at_once(talk: Talk, jobs: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        _, port = free.getsockname()
    with pytest.raises(RayError, match=r"cannot be reached: .*refused"):
        run_batch(jobs(talk(1)), tmp_path / "out", BatchOptions(ray=f"127.0.0.1:{port}"))


def test_a_cluster_lets_in_whoever_has_its_token(talk: Talk, jobs: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        _, port = free.getsockname()
    own = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "ab" * 32}
    head = ["-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1"]
    head += [f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"]
    words = ["-m", "difftalker", "batch", str(jobs(talk(1))), "-o", str(tmp_path / "out")]
    batch = [sys.executable, *words, "--ray", f"127.0.0.1:{port}"]
    cluster = subprocess.Popen([sys.executable, *head], env=own, stdout=subprocess.DEVNULL)
    try:
        listening = until(lambda: socket.create_connection(("127.0.0.1", port)), 60)
        listening.close()
        other = {**own, "RAY_AUTH_TOKEN": "cd" * 32}
        refused = subprocess.run(batch, env=other, check=False, capture_output=True, text=True)
        done = subprocess.run(batch, env=own, check=False, capture_output=True, text=True)
    finally:
        cluster.terminate()
        cluster.wait()
    assert refused.returncode == 1
    assert "RAY_AUTH_TOKEN" in refused.stderr
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*.mp4"))) == 1


def until(attempt: Callable[[], Any], seconds: float) -> Any:
    """What an attempt gives as soon as the system lets it."""
    ends = time.monotonic() + seconds
    while True:
        try:
            return attempt()
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.1)
