"""What a training can show before its end.

RUN/preview/       the best avatar so far
RUN/preview.mp4    footage that was held out, dubbed by it with its own sound
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from difftalker.data.footage import Part
from difftalker.dubbing.avatar import load
from difftalker.errors import DiffTalkerError
from difftalker.evaluation.held_out import PIECE_S, cut_piece
from difftalker.training.run import Run
from difftalker.training.stages import TABLE
from difftalker.training.task import Log, Task

logger = logging.getLogger(__name__)

EVERY_S = 8.5 * 60
"""Between previews, and before the first: it can be watched after ten minutes."""


class Preview:
    """Writes previews while the light network is trained."""

    def __init__(
        self,
        run: Run,
        save: Callable[[Path], None],
        parts: Sequence[Part],
        *,
        face: str | int | Path,
        began: float,
    ) -> None:
        """``save`` writes an avatar's folder, ``began`` is when all of it did, ``time.monotonic``.

        Without ``parts`` there is nothing to dub.
        """
        self._run, self._save, self._parts, self._face = run, save, parts, face
        self._last, self._best = began, float("-inf")

    def __call__(self, stage: str, task: Task, numbers: Log) -> None:
        """Called after each validation, with the averaged weights in the task's networks."""
        found, now = numbers.get("psnr_lower", float("-inf")), time.monotonic()
        if stage != "light" or found < self._best or now - self._last < EVERY_S:
            return
        sources, folder = self._run.sources, self._run.options.run
        with sources.with_early({"light": TABLE["light"].artefact(task, sources)}):
            self._save(folder / "preview")
        self._best, self._last = found, now
        shown = self._dubbed(folder) if self._parts else "no video was held out to show it on"
        logger.warning("%s is an avatar already (%.1f dB); %s", folder / "preview", found, shown)

    def _dubbed(self, folder: Path) -> str:
        """Dub some of what was held out; returns what to look at."""
        path, first = folder / "preview.mp4", self._parts[0]
        part = Part(
            footage=first.footage,
            start_s=first.start_s,
            stop_s=min(first.stop_s, first.start_s + PIECE_S),
            whole=first.whole and first.stop_s - first.start_s <= PIECE_S,
        )
        try:
            with tempfile.TemporaryDirectory(prefix="difftalker-") as scratch:
                clip = cut_piece(part, Path(scratch), lead_s=0)
                avatar = load(folder / "preview", device=self._run.options.device)
                avatar.dub(clip, clip, face=self._face).save(path)
        except DiffTalkerError as error:
            return f"no preview of it: {error}"
        return f"watch {path}"
