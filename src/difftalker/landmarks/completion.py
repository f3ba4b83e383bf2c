"""Landmark completion: LF-Trans, BM-Trans, AM-Trans (Section 2.3) and the audio network (2.2).

Shape letters: B batch, F neighbouring video frames, W features in a window, C their width,
P points in, Q points out, D width of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import CompletionConfig
from difftalker.face.landmarks import CONTOUR, LOWER, MOUTH, POINTS, UPPER
from difftalker.landmarks.least_squares import LeastSquares, openings
from difftalker.landmarks.opening_net import OpeningNet


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
        """(B, F, D) -> (B, F, D)."""
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

    LF-Trans, BM-Trans and AM-Trans are of this class (Section 2.3). ``audio`` adds one token.
    """

    def __init__(
        self, config: CompletionConfig, points: int, queries: int, *, neighbours: bool = False
    ) -> None:
        super().__init__()
        width = config.width
        # The mean face; inputs are deviations from it.
        self.mean: Tensor
        self.register_buffer("mean", torch.zeros(points, 2))
        self.coordinates = nn.Sequential(nn.Linear(2, width), nn.GELU(), nn.Linear(width, width))
        # Deviations do not say which point they belong to: a learned embedding does.
        self.identity = nn.Parameter(torch.randn(points, width) * _NAMES)
        self.layers = nn.ModuleList(_SelfAttention(config) for _ in range(config.layers))
        self.queries = nn.Parameter(torch.randn(queries, width) * _NAMES)
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
        x = (self.coordinates((points - self.mean) * _ENLARGED) + self.identity).flatten(0, 1)
        if audio is not None:
            x = torch.cat([x, audio.reshape(batch * frames, 1, -1)], 1)
        for layer in self.layers:
            x = layer(x)
        y = self.cross(self.queries.expand(len(x), -1, -1), x)
        if self.over_time is not None:
            y = y.unflatten(0, (batch, frames)).transpose(1, 2).flatten(0, 1)
            y = self.over_time(y).unflatten(0, (batch, -1)).transpose(1, 2).flatten(0, 1)
        out: Tensor = self.head(y).unflatten(0, (batch, frames)) / _ENLARGED
        return out


class CompletionNet(nn.Module):
    """Predicts the lower landmarks from the upper ones and the audio (Section 2.3)."""

    def __init__(self, config: CompletionConfig) -> None:
        super().__init__()
        self.config = config
        self.audio_net = AudioNet(config)
        self.lf_trans = PointTransformer(config, len(UPPER), len(CONTOUR), neighbours=True)
        self.bm_trans = PointTransformer(
            config, len(UPPER) + len(CONTOUR), len(MOUTH), neighbours=True
        )
        moved = len(LOWER) if config.audio_moves_contour else len(MOUTH)
        if config.audio_offsets:
            self.am_trans = PointTransformer(config, moved, moved, neighbours=True)
        # The mean lower points, relative to the mean of the upper ones.
        self.mean_lower: Tensor
        self.register_buffer("mean_lower", torch.zeros(len(LOWER), 2))
        self.least_squares = (
            LeastSquares(config, moved if config.audio_offsets else 0)
            if config.least_squares
            else None
        )
        uses_opening = config.least_squares and config.audio_offsets and config.opening_from_speech
        self.opening = OpeningNet(config) if uses_opening else None

    @property
    def reach(self) -> int:
        """Receptive field: frames on either side that a frame's result depends on."""
        return 3 * self.config.neighbours  # LF-Trans, then BM-Trans, then AM-Trans

    @torch.no_grad()
    def fit(self, clips: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Fit mean face, least squares and opening network to clips.

        Each clip is a pair of points (F, 68, 2), crop units, and windows (F, W, C). What was fitted
        before, to other speakers, is known, and changes as far as these clips have reason for.
        """
        points = torch.cat([one for one, _ in clips])
        upper, lower = points[:, list(UPPER)], points[:, list(LOWER)]
        given, lower = (upper - _anchor(upper)) * _SPREAD, lower - _anchor(upper)
        self.mean_lower.copy_(lower.mean(0))
        mean, neutral = given.mean(0), self.mean_lower * _SPREAD
        self.lf_trans.mean.copy_(mean)
        self.bm_trans.mean.copy_(torch.cat([mean, neutral[: len(CONTOUR)]]))
        if self.config.audio_offsets:
            self.am_trans.mean.copy_(neutral[-len(self.am_trans.mean) :])
        if self.least_squares is not None:
            sizes = [len(one) for one, _ in clips]
            seen, wanted = (given - mean).split(sizes), (lower * _SPREAD - neutral).split(sizes)
            windows, predicted = [heard for _, heard in clips], None
            if self.opening is not None:
                real = [openings(one + neutral, neutral) for one in wanted]
                self.opening.fit(windows, real, anew=not self.least_squares.known)
                predicted = [self.opening(one[None])[0] for one in windows]
            self.least_squares.fit(seen, wanted, windows, (mean, neutral), predicted)

    def neutral_face(self, upper: Tensor) -> Tensor:
        """The mean lower face (B, 31, 2), placed by the upper points (B, 37, 2); crop units."""
        anchor = _anchor(upper).to(self.mean_lower.device)
        return self.mean_lower + anchor

    def forward(self, upper: Tensor, windows: Tensor) -> Completion:
        """Upper points (B, F, 37, 2) in crop units, windows (B, F, W, C) -> completed points."""
        anchor = _anchor(upper)
        given = (upper - anchor) * _SPREAD
        start = self._start(given)
        audio = self.audio_net(windows)
        contour = start[:, :, : len(CONTOUR)] + self.lf_trans(given)
        heard = None if self.config.audio_offsets else audio
        mouth = start[:, :, len(CONTOUR) :] + self.bm_trans(torch.cat([given, contour], 2), heard)
        lower = torch.cat([contour, mouth], 2)
        if self.config.audio_offsets:
            lower = self._with_offsets(lower, audio, windows)
        contour, mouth, lower = (p / _SPREAD + anchor for p in (contour, mouth, lower))
        points = upper.new_empty((*upper.shape[:2], POINTS, 2))
        points[:, :, list(UPPER)] = upper
        points[:, :, list(LOWER)] = lower.to(upper.dtype)
        return Completion(points=points, base_contour=contour, base_mouth=mouth)

    def _start(self, given: Tensor) -> Tensor:
        """The start of LF-Trans and BM-Trans: mean face or least squares, (B, F, 31, 2)."""
        start = (self.mean_lower * _SPREAD).expand(*given.shape[:2], -1, -1)
        if self.least_squares is None:
            return start
        return start + self.least_squares.before_speech(given - self.lf_trans.mean)

    def _with_offsets(self, lower: Tensor, audio: Tensor, windows: Tensor) -> Tensor:
        """Add the offsets of AM-Trans to those lower points (B, F, 31, 2) that speech moves."""
        still = lower.shape[2] - len(self.am_trans.mean)
        offsets = self.am_trans(lower[:, :, still:], audio)
        if self.least_squares is not None:
            moves = self.least_squares.speech(windows)
            predicted = None if self.opening is None else self.opening(windows)
            lower = self.least_squares.calibrated(
                lower + nnf.pad(moves, (0, 0, still, 0)), self.mean_lower * _SPREAD, predicted
            )
        return lower + nnf.pad(offsets, (0, 0, still, 0))


_NAMES = 0.5
"""Standard deviation of the initial embeddings of points and queries."""
_SPREAD = 4.0
"""Scale of inputs: points lie within a quarter of the crop around their mean."""
_ENLARGED = 10.0
"""Scale of deviations from the mean face, which are some hundredths of that."""


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
