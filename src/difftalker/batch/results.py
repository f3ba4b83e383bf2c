"""``results.jsonl``: how each job of a batch ended; of several lines of a name the last counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from filelock import FileLock

from difftalker.batch.places import Folder
from difftalker.batch.work import WORK

RESULTS = "results.jsonl"


class Results:
    """The lines of a folder of results."""

    def __init__(self, folder: Folder, shard: tuple[int, int] = (0, 1)) -> None:
        """In a store each ``shard`` has a file of its own: nothing can be added to one there."""
        self._folder, local = folder, folder.local
        part, whole = shard
        self.name = RESULTS if local or whole == 1 else f"results-{part}-of-{whole}.jsonl"
        self._lines = [] if local else folder.read(self.name).decode().splitlines()
        self._known = {one["name"]: one["state"] for one in self.records() if one.get("name")}

    def records(self) -> list[dict[str, Any]]:
        """All lines; one that a kill cut off is left out."""
        text = self._folder.read(self.name).decode("utf-8", errors="replace")
        found = []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return [one for one in found if isinstance(one, dict)]

    def says_done(self, name: str) -> bool:
        """Whether a job of this name is known to be done."""
        return self._known.get(name) == "done"

    def add(self, *records: Mapping[str, Any]) -> None:
        """Add lines.

        Raises:
            PlaceError: they cannot be written.
        """
        if not records:
            return
        line = "\n".join(json.dumps(dict(record)) for record in records)
        self._known |= {one["name"]: one["state"] for one in records if one.get("name")}
        local = self._folder.local
        if local is None:
            self._lines.append(line)
            self._folder.write(self.name, "".join(f"{one}\n" for one in self._lines).encode())
            return
        (local / WORK).mkdir(exist_ok=True)
        with FileLock(local / WORK / "results.lock"), (local / RESULTS).open("ab+") as file:
            file.seek(0, 2)
            if file.tell():  # a line that a kill cut off ends here
                file.seek(-1, 2)
                line = line if file.read(1) == b"\n" else f"\n{line}"
            file.write(f"{line}\n".encode())
