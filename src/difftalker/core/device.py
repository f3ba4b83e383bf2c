"""The device that computes: which one, and with how many threads."""

from __future__ import annotations

from difftalker.errors import DiffTalkerError, UsageError


def pick_device(wanted: str = "auto") -> str:
    """The torch device to compute on: ``auto`` is CUDA where it is, else MPS, else the CPU.

    Raises:
        UsageError: no device is called so.
        DiffTalkerError: this machine has no such device.
    """
    import torch

    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return next(name for name, works in there.items() if works)
    if wanted not in there:
        raise UsageError(f"no device is called {wanted!r}", wanted=" or ".join(("auto", *there)))
    if not there[wanted]:
        raise DiffTalkerError(
            f"torch finds no {wanted} device on this machine",
            wanted=" or ".join(name for name, works in there.items() if works),
            fix="leave --device out",
        )
    return wanted


def use_threads(count: int) -> None:
    """How many threads of the CPU torch computes with; 0 leaves the choice to torch."""
    import torch

    if count:
        torch.set_num_threads(count)
