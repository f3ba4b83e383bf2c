"""The device that computes: which one, how precisely, and with how many threads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from difftalker.errors import DiffTalkerError, UsageError

if TYPE_CHECKING:
    import torch

SLOW_ISA = ("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")
"""Values of oneDNN's ``ONEDNN_MAX_CPU_ISA`` under which its bfloat16 is emulated."""


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


def has_fast_bfloat16(device: str | torch.device) -> bool:
    """Whether a device computes faster in bfloat16 than in float32.

    A CPU does where it has AVX512-BF16 or AMX instructions and the environment lets this process
    use them (``ONEDNN_MAX_CPU_ISA``, ``ATEN_CPU_CAPABILITY``). Without them bfloat16 is emulated,
    many times slower than float32.
    """
    import torch

    kind = torch.device(device).type
    if kind != "cpu":
        return kind == "cuda"
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in SLOW_ISA or not torch.backends.cpu.get_cpu_capability().startswith(
        "AVX512"
    ):
        return False
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: str | torch.device, enabled: bool = True) -> torch.autocast:
    """The context to compute in on a device: bfloat16 where that is fast, else float32.

    ``enabled`` says whether bfloat16 is allowed; False computes in float32 everywhere.
    """
    import torch

    return torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=enabled and has_fast_bfloat16(device)
    )


def use_threads(count: int) -> None:
    """How many threads of the CPU torch computes with; 0 leaves the choice to torch."""
    import torch

    if count:
        torch.set_num_threads(count)


def threads_as_here() -> Callable[[], None]:
    """What a new thread calls first, so that torch computes in it as in the thread that made it.

    A new thread otherwise takes the number that was last set anywhere in the process, by another
    job maybe. Another number of threads adds up in another order, and rounds to other bits.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return lambda: None
    return partial(torch.set_num_threads, torch.get_num_threads())
