"""What a server is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from difftalker.errors import UsageError
from difftalker.media.limits import Limits

GB = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that the person who starts a server decides.

    Raises:
        UsageError: a value makes no sense.
    """

    folder: Path
    """Where state and files lie."""
    host: str = "127.0.0.1"
    port: int = 8765
    hosts: tuple[str, ...] = ()
    """Names, besides ``host`` and those of this machine, by which clients may call the server."""
    origins: tuple[str, ...] = ()
    """Other sites whose pages may call the server, such as ``https://studio.example``."""
    avatars: tuple[Path, ...] = ()
    """Folders of avatars that everybody may use, besides the packaged ones."""
    upload_gb: float = 4.0
    """The largest upload, 10^9 bytes."""
    stored_gb: float = 50.0
    """What the uploads of one user may take in all, 10^9 bytes."""
    free_gb: float = 2.0
    """What uploads leave free on the disk, 10^9 bytes."""
    queued: int = 100
    """Most jobs of one user that wait or run at a time."""
    jobs: int = 1
    """How many jobs compute at a time."""
    job_hours: float = 48.0
    """A job that takes longer is ended."""
    live_sessions: int = 1
    """Most live sessions at a time."""
    live_minutes: float = 60.0
    """A live session that takes longer is ended."""
    private_webhooks: bool = False
    """Whether webhooks may go to private addresses, this machine among them."""
    voice: str = ""
    """Text to speech: empty, ``hibari``, or the address of an OpenAI-compatible service."""
    voice_key: str = ""
    """The key of that service."""
    device: str = "auto"
    threads: int = 0
    """CPU threads of a job; 0: all."""
    limits: Limits = field(default_factory=Limits)
    """What media is refused as too large."""

    def __post_init__(self) -> None:
        for name in ("upload_gb", "stored_gb", "queued", "jobs", "job_hours", "live_minutes"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} is {getattr(self, name)}", wanted="more than 0")
        for origin in self.origins:
            if "://" not in origin or origin.rstrip("/").count("/") != 2:
                raise UsageError(f"the origin {origin!r:.80}", wanted="one like https://host:port")

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
