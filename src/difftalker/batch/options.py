"""How a batch is carried out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How a batch is carried out: which part of its lines, by whom, and how often it is tried."""

    shard: tuple[int, int] = (0, 1)
    """Which part of the lines, of how many."""
    retries: int = 0
    """How many times a failed job is tried again."""
    avatars: int = 4
    """How many avatars stay loaded."""
    ray: str = ""
    """Address of a Ray cluster, ``auto`` or ``local``; empty: one job after the other here."""
    workers: int = 0
    """Workers on Ray; 0: one a GPU, or where there is none, a core."""
    threads: int = 0
    """Threads of the CPU that a job computes with; 0: all, on Ray one."""
    part_s: float = 8.0
    """Length of the parts that a long video is painted in on Ray, seconds."""
    deaths: int = 5
    """How many workers may die at one piece of work on Ray before its job counts as failed."""
