"""What the training loop trains: a model and its loss, and the batches that it learns from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Log = dict[str, float]


class Task(Protocol):
    """A model and its loss."""

    name: str
    examples: int
    """How many examples there are to draw from."""

    @property
    def model(self) -> nn.Module:
        """Its trainable parameters are trained; the rest is left alone."""
        ...

    def batch(self, indices: NDArray[np.int64], generator: torch.Generator) -> dict[str, Tensor]:
        """The examples at ``indices``, on the device; may be called in several threads."""
        ...

    def loss(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Named losses; ``loss`` is the one to descend."""
        ...

    def describe(self, indices: NDArray[np.int64]) -> list[str]:
        """The clips that ``indices`` come from, for error messages."""
        ...

    def validate(self) -> Log:
        """Numbers on clips held out."""
        ...

    def sheet(self) -> NDArray[np.uint8] | None:
        """A picture (H, W, 3) of what the model makes now."""
        ...


@runtime_checkable
class Fits(Protocol):
    """A task some of whose model is fitted before the first step."""

    fitted: tuple[str, ...]
    """Beginnings of the names of frozen tensors that are fitted; checkpoints have them."""

    def fit(self) -> None:
        """Fit them; called once, at step 0."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A task that computes something from its data before its batches."""

    def prepare(self) -> None:
        """Compute it; called whenever steps begin, of a run that goes on too."""
        ...


@dataclass(frozen=True)
class Batch:
    """What one step, or a part of it, learns from."""

    indices: NDArray[np.int64]
    examples: dict[str, Tensor]
    generator: torch.Generator
    """The part's generator, in its state after the examples were drawn."""
    seed: int
    """What it was seeded with."""


def recompute(model: nn.Module) -> None:
    """Let the blocks of U-Nets and autoencoders compute their inner features again for gradients.

    They are then not kept from one pass to the other (Chen et al., 2016): less memory, more time.
    """
    again: Any = partial(checkpoint, use_reentrant=False)
    for module in model.modules():
        block: Any = module
        if hasattr(module, "gradient_checkpointing"):
            block.gradient_checkpointing, block._gradient_checkpointing_func = True, again
