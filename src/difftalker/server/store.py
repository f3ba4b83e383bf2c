"""The server's state: one SQLite file, which a kill at any moment leaves whole."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from difftalker.errors import DiffTalkerError

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
ACTIVE = ("queued", "running")
VERSION = 1
"""The version of the tables; a file of a later one is refused."""

_TABLES = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE tokens (hash TEXT PRIMARY KEY, user TEXT NOT NULL);
CREATE TABLE uploads (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, name TEXT NOT NULL, file TEXT NOT NULL,
    bytes INTEGER NOT NULL, sha256 TEXT NOT NULL, made REAL NOT NULL);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, user TEXT NOT NULL,
    kind TEXT NOT NULL, request TEXT NOT NULL, state TEXT NOT NULL, version INTEGER NOT NULL,
    progress TEXT, error TEXT, result TEXT, made REAL NOT NULL, started REAL, ended REAL);
CREATE INDEX jobs_of_user ON jobs (user, number);
CREATE INDEX jobs_in_state ON jobs (state);
CREATE TABLE avatars (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, job TEXT NOT NULL, made REAL NOT NULL);
CREATE TABLE keys (
    user TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, job TEXT NOT NULL,
    PRIMARY KEY (user, key));
CREATE TABLE turns (user TEXT PRIMARY KEY, served REAL NOT NULL);
CREATE TABLE paces (kind TEXT, stage TEXT, unit_s REAL, PRIMARY KEY (kind, stage));
CREATE TABLE calls (
    id TEXT PRIMARY KEY, user TEXT NOT NULL, url TEXT NOT NULL, job TEXT NOT NULL,
    tries INTEGER NOT NULL, due REAL NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file that somebody sent."""

    id: str
    user: str
    name: str
    """What the sender calls it; never a path of ours."""
    file: str
    """Its name in the folder of uploads."""
    bytes: int
    sha256: str
    made: float


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job, as it is now."""

    number: int
    id: str
    user: str
    kind: str
    request: dict[str, Any]
    state: State
    version: int
    """Rises with every change."""
    progress: dict[str, Any] | None
    error: dict[str, Any] | None
    result: dict[str, Any] | None
    made: float
    started: float | None
    ended: float | None


@dataclass(frozen=True, kw_only=True)
class Call:
    """A webhook that is to be called."""

    id: str
    user: str
    url: str
    job: str
    tries: int
    due: float


class Store:
    """All state. Calls are short, and safe from any thread."""

    def __init__(self, path: Path) -> None:
        """Open or make the file.

        Raises:
            DiffTalkerError: it is none of ours, or one of a later version.
        """
        self._lock = threading.RLock()
        try:
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._open(path)
        except sqlite3.DatabaseError as error:
            raise DiffTalkerError(
                f"{path} cannot be opened: {error}",
                wanted="the state of a server",
                fix="choose another --folder",
            ) from error

    def _open(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise DiffTalkerError(
                f"{path} has version {version}",
                wanted=f"{VERSION} or less",
                fix="start it with a newer DiffTalker",
            )
        if not version:
            self._db.executescript(f"BEGIN;{_TABLES}PRAGMA user_version={VERSION};COMMIT")
            self._db.execute("INSERT INTO facts VALUES ('secret', ?)", (secrets.token_hex(32),))

    def close(self) -> None:
        """Let the file go."""
        with self._lock:
            self._db.close()

    def check(self) -> None:
        """Raise sqlite3.Error where the file cannot be read."""
        self._rows("SELECT 1 FROM facts")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # Tokens

    def new_token(self, user: str) -> str:
        """A token for a user; only its hash is kept."""
        token = f"dt_{secrets.token_urlsafe(32)}"
        with self._writing() as db:
            db.execute("INSERT INTO tokens VALUES (?, ?)", (_hash(token), user))
        return token

    def drop_tokens(self, user: str) -> int:
        """Make a user's tokens worthless; how many there were."""
        with self._writing() as db:
            return db.execute("DELETE FROM tokens WHERE user = ?", (user,)).rowcount

    def has_tokens(self) -> bool:
        """Whether anybody has one: then everybody needs one."""
        return bool(self._rows("SELECT 1 FROM tokens LIMIT 1"))

    def user_of(self, token: str) -> str | None:
        """Whose token it is."""
        found = self._rows("SELECT user FROM tokens WHERE hash = ?", (_hash(token),))
        return found[0]["user"] if found else None

    def secret_of(self, user: str) -> bytes:
        """The 32 bytes that a user's webhooks are signed with."""
        (row,) = self._rows("SELECT value FROM facts WHERE name = 'secret'")
        return hmac.digest(bytes.fromhex(row["value"]), user.encode(), "sha256")

    # Uploads

    def add_upload(self, upload: Upload) -> None:
        """Keep a file that has come whole."""
        values = [getattr(upload, one.name) for one in fields(Upload)]
        with self._writing() as db:
            db.execute("INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def upload(self, user: str, name: str) -> Upload | None:
        """A user's file."""
        found = self._rows("SELECT * FROM uploads WHERE id = ? AND user = ?", (name, user))
        return Upload(**found[0]) if found else None

    def uploads(self, user: str | None = None) -> list[Upload]:
        """A user's files, the newest first; of None: all."""
        query = "SELECT * FROM uploads WHERE user = ? OR ? IS NULL ORDER BY made DESC"
        return [Upload(**row) for row in self._rows(query, (user, user))]

    def stored_bytes(self, user: str) -> int:
        """What a user's files take."""
        (row,) = self._rows("SELECT TOTAL(bytes) AS n FROM uploads WHERE user = ?", (user,))
        return int(row["n"])

    def drop_upload(self, name: str) -> None:
        """Forget a file."""
        with self._writing() as db:
            db.execute("DELETE FROM uploads WHERE id = ?", (name,))

    # Jobs

    def add_job(self, user: str, kind: str, request: dict[str, Any], key: str = "") -> JobRow:
        """Queue a job; ``key`` makes a second call with it find the first one's job."""
        name = secrets.token_hex(12)
        with self._writing() as db:
            values = (name, user, kind, json.dumps(request), "queued", 1, time.time())
            db.execute(
                "INSERT INTO jobs (id, user, kind, request, state, version, made)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            if key:
                row = (user, key, _hash(json.dumps(request, sort_keys=True)), name)
                db.execute("INSERT INTO keys VALUES (?, ?, ?, ?)", row)
        return self.found_job(name)

    def job_of_key(
        self, user: str, key: str, request: dict[str, Any]
    ) -> tuple[JobRow, bool] | None:
        """The job that was made with a key, and whether from the same request."""
        found = self._rows("SELECT * FROM keys WHERE user = ? AND key = ?", (user, key))
        if not found:
            return None
        same = found[0]["request"] == _hash(json.dumps(request, sort_keys=True))
        return self.found_job(found[0]["job"]), same

    def job(self, user: str, name: str) -> JobRow | None:
        """A user's job."""
        found = self._rows("SELECT * FROM jobs WHERE id = ? AND user = ?", (name, user))
        return _job(found[0]) if found else None

    def find_job(self, name: str) -> JobRow | None:
        """Anybody's job."""
        found = self._rows("SELECT * FROM jobs WHERE id = ?", (name,))
        return _job(found[0]) if found else None

    def found_job(self, name: str) -> JobRow:
        """A job that is known to exist."""
        job = self.find_job(name)
        assert job is not None
        return job

    def versions(self, user: str, *, limit: int, before: int | None) -> list[tuple[str, int]]:
        """Names and versions of a user's jobs, the newest first, before one number."""
        query = "SELECT id, version FROM jobs WHERE user = ? AND number < ? ORDER BY number DESC"
        return [(*row,) for row in self._rows(f"{query} LIMIT ?", (user, before or 1 << 62, limit))]

    def jobs_in(self, state: State) -> list[JobRow]:
        """All jobs in a state, the oldest first."""
        query = "SELECT * FROM jobs WHERE state = ? ORDER BY number"
        return [_job(row) for row in self._rows(query, (state,))]

    def count_active(self, user: str) -> int:
        """How many of a user's jobs wait or run."""
        query = "SELECT COUNT(*) AS n FROM jobs WHERE user = ? AND state IN ('queued', 'running')"
        return int(self._rows(query, (user,))[0]["n"])

    def counts(self) -> dict[str, int]:
        """How many jobs there are in each state."""
        rows = self._rows("SELECT state, COUNT(*) AS n FROM jobs GROUP BY state")
        return {row["state"]: row["n"] for row in rows}

    def next_job(self) -> JobRow | None:
        """The job whose turn it is, now running: the oldest of whom was served least lately.

        Running ones of a server that was killed come first; ``requeue`` made them queued again.
        """
        query = """
            SELECT jobs.* FROM jobs LEFT JOIN turns USING (user) WHERE state = 'queued'
            ORDER BY started IS NULL, COALESCE(turns.served, 0), number LIMIT 1"""
        with self._writing() as db:
            row = db.execute(query).fetchone()
            if row is None:
                return None
            now = time.time()
            db.execute("INSERT OR REPLACE INTO turns VALUES (?, ?)", (row["user"], now))
            db.execute(
                "UPDATE jobs SET state = 'running', started = COALESCE(started, ?),"
                " version = version + 1 WHERE id = ?",
                (now, row["id"]),
            )
        return self.found_job(row["id"])

    def requeue(self) -> list[JobRow]:
        """Queue what ran when the last server ended."""
        running = self.jobs_in("running")
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET state = 'queued', version = version + 1 WHERE state = 'running'"
            )
        return running

    def set_progress(self, name: str, progress: dict[str, Any]) -> None:
        """Say how far a job is."""
        with self._writing() as db:
            db.execute(
                "UPDATE jobs SET progress = ?, version = version + 1 WHERE id = ?",
                (json.dumps(progress), name),
            )

    def end_job(
        self,
        name: str,
        state: State,
        *,
        error: dict[str, Any] | None = None,
        result: dict[str, Any] | None = None,
    ) -> bool:
        """End a job that waits or runs, and queue its webhook; whether it did."""
        with self._writing() as db:
            done = db.execute(
                "UPDATE jobs SET state = ?, error = ?, result = ?, ended = ?,"
                " version = version + 1 WHERE id = ? AND state IN ('queued', 'running')",
                (state, _text(error), _text(result), time.time(), name),
            )
            if done.rowcount and (job := self.found_job(name)).request.get("webhook"):
                call = f"msg_{secrets.token_hex(12)}"
                row = (call, job.user, job.request["webhook"], name, 0, time.time())
                db.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?)", row)
            return done.rowcount > 0

    def drop_job(self, name: str) -> None:
        """Forget a job."""
        with self._writing() as db:
            db.execute("DELETE FROM jobs WHERE id = ?", (name,))
            db.execute("DELETE FROM keys WHERE job = ?", (name,))

    # How long stages take, for estimates

    def pace(self, kind: str, stage: str) -> float | None:
        """Seconds that one unit of a stage took lately."""
        found = self._rows("SELECT unit_s FROM paces WHERE kind = ? AND stage = ?", (kind, stage))
        return found[0]["unit_s"] if found else None

    def set_pace(self, kind: str, stage: str, unit_s: float) -> None:
        """Remember it."""
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO paces VALUES (?, ?, ?)", (kind, stage, unit_s))

    # Avatars that were trained here

    def add_avatar(self, name: str, user: str, job: str) -> None:
        """Keep an avatar that has been trained."""
        with self._writing() as db:
            row = (name, user, job, time.time())
            db.execute("INSERT OR REPLACE INTO avatars VALUES (?, ?, ?, ?)", row)

    def avatars(self, user: str) -> list[str]:
        """Names of a user's avatars, the newest first."""
        query = "SELECT id FROM avatars WHERE user = ? ORDER BY made DESC"
        return [row["id"] for row in self._rows(query, (user,))]

    def drop_avatar(self, name: str) -> None:
        """Forget an avatar."""
        with self._writing() as db:
            db.execute("DELETE FROM avatars WHERE id = ?", (name,))

    # Webhooks

    def calls(self) -> list[Call]:
        """Those that are still to be called, the next one first."""
        return [Call(**row) for row in self._rows("SELECT * FROM calls ORDER BY due")]

    def put_off(self, call: Call, due: float) -> None:
        """Call it again later."""
        with self._writing() as db:
            db.execute("UPDATE calls SET tries = tries + 1, due = ? WHERE id = ?", (due, call.id))

    def drop_call(self, call: Call) -> None:
        """It has been called, or never will be."""
        with self._writing() as db:
            db.execute("DELETE FROM calls WHERE id = ?", (call.id,))


def _job(row: sqlite3.Row) -> JobRow:
    values = dict(row)
    for name in ("request", "progress", "error", "result"):
        values[name] = json.loads(values[name]) if values[name] else None
    return JobRow(**values)


def _text(value: dict[str, Any] | None) -> str | None:
    return None if value is None else json.dumps(value)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
