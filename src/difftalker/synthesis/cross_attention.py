"""Cross-attention from the prior's decoder to the landmark branch (Section 2.4).

Shape letters: B frames, D channels of a level, G channels of the branch, H W the level's size, E
width of the timestep's embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import SynthesisConfig


class WindowCrossAttention(nn.Module):
    """Decoder features attend to landmark features within windows; the output is zero at the start.

    A learned bias starts as one that falls with distance, as geometry is local (windows and learned
    relative bias: Liu et al., "Swin Transformer", 2021).
    """

    def __init__(
        self, config: SynthesisConfig, channels: int, guide_channels: int, embedding: int
    ) -> None:
        super().__init__()
        self.heads, self.window = config.heads, config.window
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.norm_guide = nn.GroupNorm(_groups(guide_channels), guide_channels)
        self.when = nn.Linear(embedding, channels)
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(guide_channels, 2 * channels)
        self.out = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels),
        )
        for last in (self.out, self.mlp[-1]):
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.zeros_(last.bias)  # type: ignore[arg-type]
        self.bias = nn.Parameter(_distance_bias(config.heads, config.window))

    def keys_values(self, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Guide (B, G, H, W) -> keys and values, (windows, heads, places, D / heads) each."""
        tokens = to_windows(self.norm_guide(guide), self._side(guide))
        k, v = (self._split(y) for y in self.kv(tokens).chunk(2, -1))
        return k, v

    def forward(self, x: Tensor, guide: tuple[Tensor, Tensor], embedding: Tensor) -> Tensor:
        """(B, D, H, W), keys and values, (B, E) -> (B, D, H, W)."""
        side = self._side(x)
        now = self.when(nnf.silu(embedding))[:, :, None, None]
        queries = self._split(self.q(to_windows(self.norm(x) + now, side)))
        k, v = guide
        # With an axis for the windows torch takes its fast attention, without one it does not.
        bias = self._bias_of(side).to(queries.dtype)[None]
        seen = nnf.scaled_dot_product_attention(queries, k, v, attn_mask=bias)
        y = self.out(seen.transpose(1, 2).flatten(2))
        tokens = to_windows(x, side)
        everywhere = now.flatten(1).repeat_interleave(len(tokens) // len(x), 0)[:, None]
        y = y + self.mlp(tokens + y + everywhere)
        return x + from_windows(y, side, x.shape[-2:])

    def _side(self, x: Tensor) -> int:
        """The largest side up to the window's at which windows fill the map."""
        height, width = x.shape[-2:]
        sides = range(min(self.window, height, width), 0, -1)
        return next(s for s in sides if height % s == 0 and width % s == 0)

    def _split(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self.heads, -1))
        return heads.transpose(1, 2)

    def _bias_of(self, side: int) -> Tensor:
        """(heads, side^2, side^2) from the table of relative places."""
        place = torch.arange(side, device=self.bias.device)
        gap = place[:, None] - place[None] + self.window - 1
        table = self.bias[:, gap[:, None, :, None], gap[None, :, None, :]]
        return table.flatten(3, 4).flatten(1, 2)


def to_windows(x: Tensor, side: int) -> Tensor:
    """(B, D, H, W) -> (B * windows, side * side, D)."""
    cut: Tensor = x.unflatten(3, (-1, side)).unflatten(2, (-1, side))
    return cut.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(0, 2)


def from_windows(tokens: Tensor, side: int, size: tuple[int, ...]) -> Tensor:
    """The inverse of :func:`to_windows` for a map of (H, W) = ``size``."""
    rows, columns = size[0] // side, size[1] // side
    cut: Tensor = tokens.unflatten(0, (-1, rows, columns)).unflatten(3, (side, side))
    # Channels stay last in memory, as convolutions want them.
    return cut.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _distance_bias(heads: int, window: int) -> Tensor:
    """(heads, 2 window - 1, 2 window - 1): Gaussians of growing width about a place's own."""
    gap = torch.arange(2 * window - 1) - (window - 1)
    squared = (gap[:, None] ** 2 + gap[None] ** 2).float()
    widths = 0.5 * 2.0 ** torch.arange(heads)
    return -squared / (2 * widths[:, None, None] ** 2)


def _groups(channels: int) -> int:
    return next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0)
