"""The lines of a batch: a job each, named by all that its result depends on.

A line is the record of a job (``Job.to_json``). What it says of outputs chooses which are made, and
how their names end; where they go is the batch's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, get_args

from difftalker.batch.places import PlaceError, fetched, is_remote, local, mark_of
from difftalker.core.hashing import sha256_of
from difftalker.core.jobs import Job
from difftalker.errors import DiffTalkerError, UsageError
from difftalker.face.detect.people import Place
from difftalker.jobs import JOBS, read_job
from difftalker.store.avatars import folder_of, packaged

AVATARS = "avatars"
"""Where fetched avatars lie within a scratch folder."""

_AVATARS = {"avatar", "start"}
"""Fields that may hold the name of a packaged avatar."""
_WORDS = {"face": get_args(Place), "start": ("none",)}
"""Fields that may hold a word in place of a path, and these."""
_ASIDE = {"keep_journal", "limits", "run_folder", "command"}
"""Fields that change nothing in a result."""

Stamp = tuple[str, int, int]


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a batch."""

    number: int
    """From 1 on."""
    record: Any
    """JSON, or the text where it is none."""

    @cached_property
    def job(self) -> Job:
        """The job that it holds.

        Raises:
            UsageError: it is no job.
        """
        if not isinstance(self.record, dict):
            raise UsageError(
                f"line {self.number} is {self.record!r:.80}", wanted="a job, as a JSON object"
            )
        record = self.record
        if "job" not in record:  # requests to a server call it ``kind``
            record = {"job" if key == "kind" else key: each for key, each in record.items()}
        kind = JOBS.get(str(record.get("job")))
        if kind is None or "output" in record:
            return read_job(record)
        lossless = kind.suffix == ".mp4" and record.get("lossless") is True
        return read_job({**record, "output": f"out{'.mkv' if lossless else kind.suffix}"})


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job of a batch, with the name that its results have."""

    line: int
    name: str
    job: Job
    base: Path
    """The folder that the job's paths start at."""

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Fields of the job, and the names of what is written for them; the main one is last."""
        asked = {field: getattr(self.job, field) for field in self.job.outputs}
        names = {}
        for field, value in reversed(asked.items()):
            if value:
                what = "" if field == "output" else f".{field.removesuffix('_out')}"
                names[field] = f"{self.name}{what}{_suffix(value)}"
        return names

    def is_done(self, names: set[str]) -> bool:
        """Whether all of its results are among those names."""
        return names.issuperset(self.outputs.values())

    def placed(self, stage: Path, scratch: Path) -> Job:
        """The same job on this machine: inputs fetched to ``scratch``, outputs into ``stage``.

        Raises:
            PlaceError: an input cannot be fetched.
        """
        values: dict[str, Any] = {f: str(stage / name) for f, name in self.outputs.items()}
        for field in self.job.inputs:
            values[field] = _each(getattr(self.job, field), partial(self._here, scratch, field))
        return replace(self.job, **values)

    def _here(self, scratch: Path, field: str, value: str) -> str:
        """What a field says, as it is said on this machine."""
        if is_remote(value):
            return str(fetched(value, scratch / AVATARS if field in _AVATARS else scratch))
        path = self.base / local(value)
        is_name = _is_word(field, value) or (field in _AVATARS and value in packaged())
        return value if is_name or not path.exists() else str(path)


class Names:
    """Names jobs by their content; hashes of files are kept, as long as those do not change."""

    def __init__(self, memo: Path | None = None) -> None:
        """``memo`` is where hashes are kept from one batch to the next."""
        self._memo, self._hashes = memo, dict[Stamp, str]()
        self._contents = dict[tuple[str, str], str]()
        if memo is not None and memo.is_file():
            for text in memo.read_text(encoding="utf-8", errors="replace").splitlines():
                match _json(text):  # a line that a kill cut off is text
                    case [str(path), int(size), int(changed), str(digest)]:
                        self._hashes[path, size, changed] = digest

    def of(self, line: Line) -> Task:
        """The task of a line.

        Raises:
            UsageError: the line is no job.
            DiffTalkerError: an input is missing.
        """
        job = line.job
        record = {key: value for key, value in job.to_json().items() if key not in _ASIDE}
        for field in job.outputs:
            record[field] = _suffix(record[field]) if record[field] else None
        for field in job.inputs:
            record[field] = _each(record[field], partial(self._content, field))
        text = json.dumps(record, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return Task(line=line.number, name=name, job=job, base=Path.cwd())

    def _content(self, field: str, value: str) -> str:
        """What a field means: a hash of what it names, or the word that it holds."""
        if (field, value) not in self._contents:
            try:
                self._contents[field, value] = self._read(field, value)
            except OSError as error:
                raise PlaceError(f"{value} cannot be read: {error.strerror}") from error
        return self._contents[field, value]

    def _read(self, field: str, value: str) -> str:
        if is_remote(value):
            return mark_of(value)
        if _is_word(field, value):
            return value
        path = folder_of(value) if field in _AVATARS else local(value)
        if not path.exists():
            raise PlaceError(f"no such file: {value}", fix="check the path")
        if path.is_file():
            return self._hash(path)
        within = sorted(one for one in path.rglob("*") if one.is_file())
        return repr([(str(one.relative_to(path)), self._hash(one)) for one in within])

    def _hash(self, path: Path) -> str:
        found = path.stat()
        stamp = (str(path.absolute()), found.st_size, found.st_mtime_ns)
        if stamp not in self._hashes:
            self._hashes[stamp] = sha256_of(path)
            if self._memo is not None:
                with self._memo.open("a", encoding="utf-8") as file:
                    file.write(json.dumps([*stamp, self._hashes[stamp]]) + "\n")
        return self._hashes[stamp]


def read_lines(text: str) -> Iterator[Line]:
    """The lines of a batch, each once; empty ones are passed over."""
    seen = {""}
    for number, one in enumerate(map(str.strip, text.splitlines()), 1):
        if one not in seen:
            seen.add(one)
            yield Line(number=number, record=_json(one))


def parse_shard(text: str) -> tuple[int, int]:
    """``i/n`` as two numbers.

    Raises:
        UsageError: it is no such text, or i is not below n.
    """
    part, slash, whole = text.partition("/")
    if slash and part.isdecimal() and whole.isdecimal() and int(part) < int(whole):
        return int(part), int(whole)
    raise UsageError(f"--shard {text}", wanted="i/n with i from 0 to n - 1, such as 0/3")


def of_shard(lines: Sequence[Line], shard: tuple[int, int]) -> list[Line]:
    """The lines that belong to a shard: each belongs to one."""
    part, whole = shard
    return list(lines[part::whole])


def failure_of(error: DiffTalkerError) -> dict[str, str]:
    """A failure as results have it."""
    facts = {"kind": type(error).__name__, "message": str(error), "found": error.found}
    return {**facts, "wanted": error.wanted, "fix": error.fix}


def _each(value: Any, change: Any) -> Any:
    """A value, or each of several, changed; nothing stays nothing."""
    if isinstance(value, list | tuple):
        return tuple(change(one) for one in value)
    return change(value) if value else value


def _json(text: str) -> Any:
    """A line as JSON, or as text where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _is_word(field: str, value: str) -> bool:
    """Whether a field holds no path: a word, or which face by its number."""
    return value in _WORDS.get(field, ()) or (field == "face" and value.isdecimal())


def _suffix(path: str) -> str:
    """How a name ends: that of ``.json`` alone too."""
    name = path.rpartition("/")[2]
    return f".{name.rpartition('.')[2]}" if "." in name else ""
