"""Marks of a video, read by `difftalker verify` in a process of its own."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from difftalker.errors import DiffTalkerError
from difftalker.media.limits import Limits
from difftalker.server.problems import Problem, refusal

LONGEST_S = 600.0
_OPTIONS = {
    "pixels": "--max-pixels",
    "duration_s": "--max-duration",
    "frames": "--max-frames",
    "decoded_gb": "--max-decoded",
}
_RUN = "import sys; n = int(sys.argv[1]); words = sys.argv[2:2 + n]; sys.path[:] = sys.argv[2 + n:]"
_RUN += "; from difftalker.cli import main; sys.exit(main(words))"


async def verify(path: Path, name: str, limits: Limits) -> dict[str, Any]:
    """What `difftalker verify --json` says of a file; ``name`` stands for it in errors.

    Raises:
        Problem: the file cannot be read, or it takes too long.
    """
    words = ["verify", str(path), "--json"]
    for one in fields(Limits):
        words += [_OPTIONS[one.name], str(getattr(limits, one.name))]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-c", _RUN, str(len(words)), *words, *sys.path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(LONGEST_S):
            said, _ = await process.communicate()
    except TimeoutError:
        raise refusal(503, "the file takes too long to be read", fix="cut it") from None
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    try:
        told: dict[str, Any] = json.loads(said)
    except ValueError:
        raise refusal(503, "the process that reads marks ended by itself") from None
    if "error" in told:
        parts = (told["error"][key].replace(str(path), name) for key in ("found", "wanted", "fix"))
        found, wanted, fix = parts
        raise Problem(422, DiffTalkerError(found, wanted=wanted, fix=fix))
    told.pop("file", None)
    return told
