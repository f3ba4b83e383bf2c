"""A server in a process of its own, for tests and measurements: started, asked, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

ROOT = Path(__file__).parents[1]
READY_S = 600.0
"""A busy machine may take so long to load the libraries."""


class Started:
    """A server in a process of its own."""

    def __init__(self, folder: Path, *words: str) -> None:
        """Start it with the options ``words``, state and files in a folder; wait until it is."""
        self.folder, self._words = folder, words
        self.start()

    def start(self) -> None:
        """Start it, again after ``kill``."""
        command = [sys.executable, "-m", "difftalker", "serve", "--folder", str(self.folder)]
        self._log = (self.folder.parent / "log").open("ab")
        seen = (self.folder.parent / "log").stat().st_size
        paths = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        self._process = subprocess.Popen(
            [*command, "--port", "0", "--threads", "1", *self._words],
            stderr=self._log,
            env=os.environ | {"PYTHONPATH": paths},
        )
        self.url = self._said(seen)
        self.http = httpx2.Client(base_url=self.url, timeout=60)

    def _said(self, seen: int) -> str:
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            text = (self.folder.parent / "log").read_bytes()[seen:].decode()
            if "the studio is at " in text:
                return text.partition("the studio is at ")[2].split()[0].rstrip("/")
            assert self._process.poll() is None, text
            time.sleep(0.05)
        raise TimeoutError("the server did not start")

    def kill(self) -> None:
        """End it without any warning."""
        self.http.close()
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def stop(self) -> None:
        """End it in order."""
        self.http.close()
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(60) in (0, 130)
        self._log.close()

    def send(self, path: Path) -> str:
        """Upload a file; its name there."""
        answer = self.http.post(
            "/v1/uploads", params={"name": path.name}, content=path.read_bytes()
        )
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def job(self, **request: Any) -> str:
        """Queue a job; its name."""
        answer = self.http.post("/v1/jobs", json=request)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    def see(self, job: str) -> dict[str, Any]:
        """A job as it is now."""
        seen: dict[str, Any] = self.http.get(f"/v1/jobs/{job}").json()
        return seen

    def until(self, job: str, good: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """A job as soon as something holds of it."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            if good(seen := self.see(job)):
                return seen
            time.sleep(0.05)
        raise TimeoutError(f"still {seen}")

    def end_of(self, job: str) -> dict[str, Any]:
        """A job once it has ended."""
        return self.until(job, lambda seen: seen["state"] not in ("queued", "running"))
