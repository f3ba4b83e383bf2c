"""Lip openings predicted from speech alone.

The relation is not linear. From minutes of footage a small network of temporal convolutions, like
the audio network (Section 2.2), predicts openings better than least squares.

Shape letters: B batch, F video frames, W features in a window, C their width, S features used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import CompletionConfig

STRIDE = 2
"""Stride over the features of a window: neighbours are nearly equal."""
STEPS = 800
EPOCHS = 24
"""Most passes over the footage, where it is short."""
BATCH = 256
LEARNING_RATE, KNOWN_RATE = 2e-3, 5e-4
"""Peak of the one-cycle schedule, after three tenths of the steps: anew, and of what is known."""
WEIGHT_DECAY = 0.1
DROPOUT = 0.3
SEED = 0


class OpeningNet(nn.Module):
    """Windows of speech (B, F, W, C) -> openings (B, F), in the unit of the targets of ``fit``."""

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        width, steps = config.audio_dim, len(range(0, config.window, STRIDE))
        self.project = nn.Linear(config.feature_dim, width)
        self.convolve = nn.Conv1d(width, width, 3, padding=1)
        self.join = nn.Linear(width * steps, width)
        self.head = nn.Linear(width, 1)
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.requires_grad_(False)  # fitted, and then left as it is

    def forward(self, windows: Tensor) -> Tensor:
        """(B, F, W, C) -> (B, F)."""
        wide = self._deviations(thin_windows(windows).flatten(0, 1), 0.0).unflatten(
            0, windows.shape[:2]
        )
        out: Tensor = self.mean + self.spread * wide
        return out

    def fit(
        self, windows: Sequence[Tensor], openings: Sequence[Tensor], *, anew: bool = True
    ) -> None:
        """Train on clips of windows (F, W, C) and openings (F,), with a fixed seed.

        It takes some seconds on a CPU. Not ``anew``, it goes on from what it knows of others.
        """
        speech = torch.cat([thin_windows(one).half() for one in windows])
        wide = torch.cat(list(openings))
        self.mean.copy_(wide.mean())
        self.spread.copy_(wide.std(correction=0).clamp(min=1e-6))
        wanted, batch = (wide - self.mean) / self.spread, min(BATCH, len(wide))
        steps = min(STEPS, max(1, EPOCHS * len(wide) // batch))
        with torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(SEED)
            self.requires_grad_(True)
            if anew:
                self._begin()
            peak = LEARNING_RATE if anew else KNOWN_RATE
            optimizer = torch.optim.AdamW(self.parameters(), peak, weight_decay=WEIGHT_DECAY)
            rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps + 1)
            order = torch.randperm(0)
            for _ in range(steps):
                if len(order) < batch:
                    order = torch.randperm(len(wide))
                chosen, order = order[:batch].to(wide.device), order[batch:]
                predicted = self._deviations(speech[chosen].float(), DROPOUT)
                loss = (predicted - wanted[chosen]).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rates.step()
            self.requires_grad_(False)

    def _begin(self) -> None:
        for layer in (self.project, self.convolve, self.join, self.head):
            layer.reset_parameters()
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def _deviations(self, speech: Tensor, dropout: float) -> Tensor:
        """(n, S, C) -> (n,): openings with mean 0 and deviation 1."""

        def drop(x: Tensor) -> Tensor:
            return nnf.dropout(x, dropout, training=dropout > 0)

        x = drop(self.project(drop(speech)))
        x = nnf.gelu(self.convolve(x.transpose(1, 2))).flatten(1)
        x = nnf.gelu(self.join(drop(x)))
        out: Tensor = self.head(drop(x))[:, 0]
        return out


def thin_windows(windows: Tensor) -> Tensor:
    """Thin and normalise windows (..., W, C) -> (..., S, C), as for the audio network."""
    some = windows[..., ::STRIDE, :]
    return nnf.layer_norm(some, some.shape[-1:])
