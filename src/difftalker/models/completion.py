"""Landmark completion: LF-Trans, BM-Trans, AM-Trans (Section 2.3) and the audio network (2.2).

Shape letters: B batch, F neighbouring video frames, W features in a window, C their width,
P points in, Q points out, D width of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import CompletionConfig
from difftalker.face.landmarks import CONTOUR, LOWER, MOUTH, POINTS, UPPER


@dataclass(frozen=True)
class Completion:
    """Completed landmarks, crop units."""

    points: Tensor
    """(B, F, 68, 2): the upper points as given, contour and mouth as predicted."""
    base_contour: Tensor
    """(B, F, 11, 2): LF-Trans alone, before audio."""
    base_mouth: Tensor
    """(B, F, 20, 2): BM-Trans alone, before audio."""


class AudioNet(nn.Module):
    """Temporal convolutions over a window of features, as in AD-NeRF (Section 2.2)."""

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        width = config.audio_dim
        self.project = nn.Linear(config.feature_dim, width)
        self.convolve = nn.Sequential(
            *(
                layer
                for _ in range(_halvings(config.window))
                for layer in (nn.Conv1d(width, width, 3, stride=2, padding=1), nn.LeakyReLU(0.02))
            )
        )
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.LeakyReLU(0.02), nn.Linear(width, config.width)
        )
        self.drop = nn.Dropout(config.dropout)
        self.attend = NeighbourAttention(config) if config.neighbours else None

    def forward(self, windows: Tensor) -> Tensor:
        """(B, F, W, C) -> (B, F, D)."""
        batch, frames, _, _ = windows.shape
        x = self.drop(self.project(nnf.layer_norm(windows, windows.shape[-1:])))
        x = self.convolve(x.flatten(0, 1).transpose(1, 2)).mean(2)
        x = self.head(x).unflatten(0, (batch, frames))
        out: Tensor = x if self.attend is None else self.attend(x)
        return out


class NeighbourAttention(nn.Module):
    """Self-attention of a sequence over the frames next to each; (B, F, D) -> (B, F, D).

    Reach and bias depend on the distance in frames alone, so a piece of a sequence with
    ``neighbours`` frames more on either side gives the same as the whole.
    """

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        self.reach, self.heads = config.neighbours, config.heads
        self.norm = nn.LayerNorm(config.width)
        self.qkv = nn.Linear(config.width, 3 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.bias = nn.Parameter(torch.zeros(config.heads, 2 * config.neighbours + 1))
        self.mlp = _mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        q, k, v = (_split(y, self.heads) for y in self.qkv(self.norm(x)).chunk(3, -1))
        y = nnf.scaled_dot_product_attention(q, k, v, attn_mask=self._mask(x.shape[1]).to(q.dtype))
        x = x + self.out(_join(y))
        out: Tensor = x + self.mlp(x)
        return out

    def _mask(self, frames: int) -> Tensor:
        place = torch.arange(frames, device=self.bias.device)
        distance = place[None] - place[:, None]
        near = self.bias[:, (distance + self.reach).clamp(0, 2 * self.reach)]
        return near.masked_fill(distance.abs() > self.reach, float("-inf"))


class PointTransformer(nn.Module):
    """Coordinate MLP, self-attention, cross-attention from learned queries, coordinate MLP.

    One of these is LF-Trans, BM-Trans or AM-Trans; ``audio`` gives it one more token to look at.
    """

    def __init__(
        self, config: CompletionConfig, points: int, queries: int, *, neighbours: bool = False
    ) -> None:
        super().__init__()
        width = config.width
        # Where the points stand on average, if they are seen from there.
        self.mean: Tensor | None
        self.register_buffer("mean", torch.zeros(points, 2) if config.from_mean else None)
        self.coordinates = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        # Seen from the mean face no place tells which point it is: then its name has to.
        spread = 0.5 if config.from_mean else 0.02
        self.identity = nn.Parameter(torch.randn(points, width) * spread)
        self.layers = nn.ModuleList(_SelfAttention(config) for _ in range(config.layers))
        self.queries = nn.Parameter(torch.randn(queries, width) * spread)
        self.cross = _CrossAttention(config)
        self.over_time = NeighbourAttention(config) if neighbours and config.neighbours else None
        self.head = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, 2)
        )
        nn.init.zeros_(self.head[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.head[-1].bias)  # type: ignore[arg-type]

    def forward(self, points: Tensor, audio: Tensor | None = None) -> Tensor:
        """(B, F, P, 2) and audio (B, F, D) -> (B, F, Q, 2)."""
        batch, frames = points.shape[:2]
        if self.mean is not None:
            points = (points - self.mean) * _ENLARGED
        x = (self.coordinates(points) + self.identity).flatten(0, 1)
        if audio is not None:
            x = torch.cat([x, audio.reshape(batch * frames, 1, -1)], 1)
        for layer in self.layers:
            x = layer(x)
        y = self.cross(self.queries.expand(len(x), -1, -1), x)
        if self.over_time is not None:
            y = y.unflatten(0, (batch, frames)).transpose(1, 2).flatten(0, 1)
            y = self.over_time(y).unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)
        out: Tensor = self.head(y).unflatten(0, (batch, frames))
        return out


class CompletionNet(nn.Module):
    """The lower landmarks from the upper ones and the audio."""

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_net = AudioNet(config)
        self.lf_trans = PointTransformer(config, len(UPPER), len(CONTOUR), neighbours=True)
        self.bm_trans = PointTransformer(
            config, len(UPPER) + len(CONTOUR), len(MOUTH), neighbours=True
        )
        if config.audio_offsets:
            moved = len(LOWER) if config.audio_moves_contour else len(MOUTH)
            self.am_trans = PointTransformer(config, moved, moved, neighbours=True)
        # Where the lower points stand on average, seen from the mean of the upper ones.
        self.mean_lower: Tensor
        self.register_buffer("mean_lower", torch.zeros(len(LOWER), 2))

    @property
    def reach(self) -> int:
        """Frames on either side that a frame's result depends on."""
        return 3 * self.config.neighbours  # LF-Trans, then BM-Trans, then AM-Trans

    @torch.no_grad()
    def set_mean(self, points: Tensor) -> None:
        """Take the mean face from (N, 68, 2) training points."""
        upper = points[:, list(UPPER)]
        lower = points[:, list(LOWER)] - _anchor(upper)
        self.mean_lower.copy_(lower.mean(0))
        if self.config.from_mean:
            self._set_inputs((upper - _anchor(upper)).mean(0) * _SPREAD, self.mean_lower * _SPREAD)

    def _set_inputs(self, upper: Tensor, lower: Tensor) -> None:
        """Tell each transformer the mean of the points that it sees."""
        moved = lower if self.config.audio_moves_contour else lower[len(CONTOUR) :]
        for net, mean in (
            (self.lf_trans, upper),
            (self.bm_trans, torch.cat([upper, lower[: len(CONTOUR)]])),
            (getattr(self, "am_trans", None), moved),
        ):
            if net is not None and net.mean is not None:
                net.mean.copy_(mean)

    def resting(self, upper: Tensor) -> Tensor:
        """The mean lower face, where the upper points (B, 37, 2) put it; (B, 31, 2)."""
        anchor = _anchor(upper).to(self.mean_lower.device)
        return self.mean_lower + anchor

    def forward(self, upper: Tensor, windows: Tensor) -> Completion:
        """Upper points (B, F, 37, 2) in crop units, windows (B, F, W, C) -> completed points."""
        anchor = _anchor(upper)
        given = (upper - anchor) * _SPREAD
        mean = self.mean_lower * _SPREAD
        audio = self.audio_net(windows)
        contour = mean[: len(CONTOUR)] + self.lf_trans(given)
        heard = None if self.config.audio_offsets else audio
        mouth = mean[len(CONTOUR) :] + self.bm_trans(torch.cat([given, contour], 2), heard)
        lower = torch.cat([contour, mouth], 2)
        if self.config.audio_offsets:
            lower = lower + self._offsets(lower, audio)
        contour, mouth, lower = (p / _SPREAD + anchor for p in (contour, mouth, lower))
        points = upper.new_empty((*upper.shape[:2], POINTS, 2))
        points[:, :, list(UPPER)] = upper
        points[:, :, list(LOWER)] = lower.to(upper.dtype)
        return Completion(points=points, base_contour=contour, base_mouth=mouth)

    def _offsets(self, lower: Tensor, audio: Tensor) -> Tensor:
        """AM-Trans; (B, F, 31, 2) -> (B, F, 31, 2), zero on the contour where audio leaves it."""
        if self.config.audio_moves_contour:
            return self.am_trans(lower, audio)  # type: ignore[no-any-return]
        offsets = self.am_trans(lower[:, :, len(CONTOUR) :], audio)
        return nnf.pad(offsets, (0, 0, len(CONTOUR), 0))


_SPREAD = 4.0
"""Points seen from their middle lie within a quarter of the crop; the networks see about 1."""
_ENLARGED = 10.0
"""Points seen from the mean face lie within some hundredths of that; the networks see about 1."""


def _anchor(upper: Tensor) -> Tensor:
    return upper.mean(-2, keepdim=True)


def _halvings(window: int) -> int:
    return max(1, window.bit_length() - 1)


def _split(x: Tensor, heads: int) -> Tensor:
    parts: Tensor = x.unflatten(-1, (heads, -1))
    return parts.transpose(1, 2)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _mlp(config: CompletionConfig) -> nn.Sequential:
    width = config.width
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, 2 * width),
        nn.GELU(),
        nn.Linear(2 * width, width),
        nn.Dropout(config.dropout),
    )


class _CrossAttention(nn.Module):
    """Pre-norm attention and MLP; queries (N, Q, D) over tokens (N, P, D)."""

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.norm_q, self.norm_kv = nn.LayerNorm(config.width), nn.LayerNorm(config.width)
        self.q = nn.Linear(config.width, config.width)
        self.kv = nn.Linear(config.width, 2 * config.width)
        self.out = nn.Linear(config.width, config.width)
        self.mlp = _mlp(config)

    def forward(self, queries: Tensor, tokens: Tensor) -> Tensor:
        k, v = (_split(y, self.heads) for y in self.kv(self.norm_kv(tokens)).chunk(2, -1))
        q = _split(self.q(self.norm_q(queries)), self.heads)
        x = queries + self.out(_join(nnf.scaled_dot_product_attention(q, k, v)))
        out: Tensor = x + self.mlp(x)
        return out


class _SelfAttention(_CrossAttention):
    def forward(self, queries: Tensor, tokens: Tensor | None = None) -> Tensor:
        return super().forward(queries, queries if tokens is None else tokens)
