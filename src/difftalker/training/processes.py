"""Processes that train together, as ``torchrun`` starts them; one alone is the usual case.

Each computes the gradients of its own parts of a batch, and all take the same step by their sum.
The first one, of rank 0, writes and validates.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

PATIENCE = timedelta(days=7)
"""How long the others wait for the first process, which prepares, validates and writes."""


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the processes that ``torchrun`` started for a block; does nothing without it.

    They talk by NCCL between CUDA devices, one a process, and else by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    backend = "nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Which of the processes this is, from 0 on."""
    return distributed.get_rank() if _several() else 0


def count() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if _several() else 1


def wait() -> None:
    """Wait until all processes are here."""
    if _several():
        distributed.barrier()


@contextmanager
def first_alone() -> Iterator[None]:
    """Let the first process go through a block before the others: they find what it wrote."""
    if rank():
        wait()
    yield
    if not rank():
        wait()


def share(model: nn.Module) -> None:
    """Give all processes the weights of the first."""
    if _several():
        for tensor in model.state_dict().values():
            whole = tensor.contiguous()
            distributed.broadcast(whole, 0)
            tensor.copy_(whole)


def summed(numbers: Mapping[str, float]) -> dict[str, float]:
    """The sums over all processes, by name."""
    if not _several():
        return dict(numbers)
    gathered: list[dict[str, float]] = [{} for _ in range(count())]
    distributed.all_gather_object(gathered, dict(numbers))
    total: dict[str, float] = {}
    for one in gathered:
        for name, value in one.items():
            total[name] = total.get(name, 0.0) + value
    return total


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give each parameter the sum of its gradients over all processes.

    A parameter without a gradient in all of them stays without.
    """
    if not _several() or not parameters:
        return
    known = [parameter.grad is not None for parameter in parameters]
    there = torch.tensor(known, dtype=torch.int32, device=parameters[0].device)
    distributed.all_reduce(there, distributed.ReduceOp.MAX)
    gradients = [
        _gradient(p) for p, is_there in zip(parameters, there.tolist(), strict=True) if is_there
    ]
    if not gradients:
        return
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    distributed.all_reduce(flat)
    pieces = flat.split([gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view(gradient.shape))


def _gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized()
