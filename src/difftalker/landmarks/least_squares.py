"""The linear part of landmark completion: least squares from the upper points and the speech.

Minutes of footage are little for a transformer and plenty for a linear map. The map is fitted in
closed form, in seconds. LF-, BM- and AM-Trans learn its residual.

Points are deviations from the mean face, (..., 37, 2) above and (..., 31, 2) below, in any unit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from difftalker.config import CompletionConfig
from difftalker.face.landmarks import ABOVE_GAP, BELOW_GAP, LOWER, UPPER
from difftalker.face.lips import OUTER_FOLLOWS
from difftalker.landmarks.opening_net import STRIDE, thin_windows

PENALTY = 0.1
"""Ridge penalty on the change of coefficients, in mean variances of each group of inputs."""
OTHER_SPEECH = 0.3
"""Weight of examples that pair a face with another clip's speech, in the fit of the lips' opening:
in dubbing the lips have to follow the new speech, not the upper face."""
FITTED_SHARE = 0.5
"""Share of the opening fitted to face and speech; the other part is predicted by ``OpeningNet``."""
TURNS = 0.03
"""Standard deviation of the rotation (rad) and scale that are added to the footage's."""
KNOWN_FRAMES = 30_000
"""How many frames the maps count for that are known of others, beside those of the footage."""
KNOTS = 33
"""Knots of the calibration curve from fitted openings to real ones."""


class LeastSquares(nn.Module):
    """Linear maps from upper points and speech to lower points, fitted in closed form."""

    def __init__(self, config: CompletionConfig, moved: int) -> None:
        """``moved`` is the number of lower points, counted from the end, that speech moves."""
        super().__init__()
        self.moved = moved
        inputs = len(range(0, config.window, STRIDE)) * config.feature_dim if moved else 0
        self.from_upper: Tensor
        self.from_speech: Tensor
        self.mean_speech: Tensor
        self.fitted: Tensor
        self.real: Tensor
        self.register_buffer("from_upper", torch.zeros(2 * len(LOWER), 2 * len(UPPER)))
        self.register_buffer("from_speech", torch.zeros(2 * moved, inputs))
        self.register_buffer("mean_speech", torch.zeros(inputs))
        self.register_buffer("fitted", torch.linspace(0, 1, KNOTS))
        self.register_buffer("real", torch.linspace(0, 1, KNOTS))

    def before_speech(self, upper: Tensor) -> Tensor:
        """Predict lower points from upper ones alone; (B, F, 37, 2) -> (B, F, 31, 2)."""
        lower: Tensor = nnf.linear(upper.flatten(2), self.from_upper).unflatten(2, (-1, 2))
        return lower

    def speech(self, windows: Tensor) -> Tensor:
        """Predict the offsets by speech; (B, F, W, C) -> (B, F, moved, 2)."""
        speech = _flat(windows) - self.mean_speech
        offsets: Tensor = nnf.linear(speech, self.from_speech).unflatten(2, (-1, 2))
        return offsets

    def calibrated(self, lower: Tensor, mean: Tensor, predicted: Tensor | None = None) -> Tensor:
        """Calibrate the lip openings of absolute lower points (B, F, 31, 2).

        ``predicted`` (B, F) is the opening by ``OpeningNet``, ``mean`` (31, 2) the mean lower face.
        A fit regresses to the mean: its lips neither open as wide as real ones nor shut. The
        curve maps the quantiles of its openings to those of real ones.
        """
        wide = openings(lower, mean)
        meant = _meant(wide, predicted).contiguous()
        place = torch.searchsorted(self.fitted, meant.detach()).clamp(1, KNOTS - 1)
        low, high = self.fitted[place - 1], self.fitted[place]
        share = (meant - low) / (high - low)
        wanted = torch.lerp(self.real[place - 1], self.real[place], share).clamp(min=self.real[0])
        change = 0.5 * (wanted - wide)[..., None, None] * _down(mean)
        return lower + change * _FOLLOW.to(change)[:, None]

    @torch.no_grad()
    def fit(
        self,
        upper: Sequence[Tensor],
        lower: Sequence[Tensor],
        windows: Sequence[Tensor],
        mean: tuple[Tensor, Tensor],
        predicted: Sequence[Tensor] | None = None,
    ) -> None:
        """Fit to clips of upper (F, 37, 2) and lower points (F, 31, 2) and windows (F, W, C).

        ``mean`` is the mean face, (37, 2) and (31, 2), around the middle of the upper points;
        ``predicted`` are the openings (F,) by ``OpeningNet``. Maps that are known change no more
        than the footage has reason for.
        """
        frames = sum(map(len, windows))
        penalty = PENALTY * (max(1.0, KNOWN_FRAMES / frames) if self.known else 1.0)
        if self.moved:
            total = torch.stack([_flat(w).sum(0) for w in windows]).sum(0)
            self.mean_speech.copy_(total / frames)
        turned = [_turned(points, frames) for points in mean]
        seen, wanted = ([*group, more] for group, more in zip((upper, lower), turned, strict=True))
        above = [one.flatten(1) for one in seen]
        sizes = [above[0].shape[1]]
        missing = [
            (w - self.before_speech(u[None])[0]).flatten(1)
            for u, w in zip(seen, wanted, strict=True)
        ]
        change = _ridge(*_products(above, missing), sizes, penalty).T
        if not self.moved:
            self.from_upper += change
            return
        heard = [_flat(w) - self.mean_speech for w in windows]
        heard.append(heard[0].new_zeros(len(turned[0]), len(self.mean_speech)))
        both = [torch.cat(pair, 1) for pair in zip(above, heard, strict=True)]
        sizes.append(len(self.mean_speech))
        rows = slice(-2 * self.moved, None)
        lips = _lip_basis(self.moved).to(self.from_upper)
        unsaid = [
            (m[:, rows] - h @ self.from_speech.T) @ lips.T
            for m, h in zip(missing, heard, strict=True)
        ]
        inside, across = _products(both, unsaid)
        found = _ridge(inside, across, sizes, penalty)
        # Faces paired with another clip's speech: the two groups of inputs are uncorrelated.
        seen_at, heard_at = slice(sizes[0]), slice(sizes[0], None)
        for block in (seen_at, heard_at):
            inside[block, block] *= 1 + OTHER_SPEECH
        across[heard_at] *= 1 + OTHER_SPEECH
        gaps = _gap_rows(self.moved)
        found[:, gaps] = _ridge(inside, across[:, gaps], sizes, penalty)
        maps = torch.linalg.solve(lips, found.T)
        change[rows] = maps[:, seen_at]
        self.from_upper += change
        self.from_speech += maps[:, heard_at]
        self._fit_openings(upper, lower, windows, mean[1], predicted)

    @property
    def known(self) -> bool:
        """Whether maps were fitted before."""
        return bool(self.from_upper.any())

    def _fit_openings(
        self,
        upper: Sequence[Tensor],
        lower: Sequence[Tensor],
        windows: Sequence[Tensor],
        mean_lower: Tensor,
        predicted: Sequence[Tensor] | None,
    ) -> None:
        fitted: list[Tensor] = []
        real: list[Tensor] = []
        for i, (u, w, true) in enumerate(zip(upper, windows, lower, strict=True)):
            made = self.before_speech(u[None])
            made[:, :, -self.moved :] += self.speech(w[None])
            wide = openings(made[0] + mean_lower, mean_lower)
            fitted.append(_meant(wide, predicted[i] if predicted else None))
            real.append(openings(true + mean_lower, mean_lower))
        at = torch.linspace(0, 1, KNOTS, device=mean_lower.device)
        # Knots that coincide would divide by zero.
        apart = torch.arange(KNOTS, device=mean_lower.device) * 1e-4
        self.fitted.copy_(torch.quantile(torch.cat(fitted), at) + apart)
        self.real.copy_(torch.quantile(torch.cat(real), at) + apart)


def _turned(points: Tensor, frames: int) -> Tensor:
    """Rows that add rotation and scale of the mean face (P, 2) to a fit; (2, P, 2).

    The mouth of a head that turns in the picture turns with it, even where no footage shows that.
    """
    turning = torch.stack([-points[:, 1], points[:, 0]], 1)
    rows: Tensor = torch.stack([turning, points]) * (TURNS * float(frames) ** 0.5)
    return rows


_ABOVE = [LOWER.index(point) for point in ABOVE_GAP]
_BELOW = [LOWER.index(point) for point in BELOW_GAP]
_FOLLOW = torch.zeros(len(LOWER))
"""(31,): movement of each lower point as the lips open by 1; outer lips follow the inner ones."""
_FOLLOW[_BELOW], _FOLLOW[_ABOVE] = 1.0, -1.0
for _outer, _inner, _share in OUTER_FOLLOWS:
    _FOLLOW[LOWER.index(_outer)] = _share * _FOLLOW[LOWER.index(_inner)]


def _gaps(lower: Tensor) -> Tensor:
    """From the inner upper lip to the lower one; (..., 31, 2) -> (..., 3, 2)."""
    return lower[..., _BELOW, :] - lower[..., _ABOVE, :]


def _gap_rows(moved: int) -> list[int]:
    """Indices of those coordinates of ``_lip_basis`` that are gaps between the lips."""
    first = 2 * (len(LOWER) - moved)
    return [2 * point + axis - first for point in _BELOW for axis in (0, 1)]


def _lip_basis(moved: int) -> Tensor:
    """(2 moved, 2 moved): a basis in which inner lips are midpoints and gaps."""
    basis, first = torch.eye(2 * moved), 2 * (len(LOWER) - moved)
    for above, below in zip(_ABOVE, _BELOW, strict=True):
        for axis in (0, 1):
            up, down = (2 * point + axis - first for point in (above, below))
            basis[up, [up, down]] = 0.5
            basis[down, up] = -1.0
    return basis


def openings(lower: Tensor, mean: Tensor) -> Tensor:
    """Signed opening (...,) of lips (..., 31, 2) along the mean face's (31, 2); below 0 crossed."""
    return (_gaps(lower) * _down(mean)).sum(-1).mean(-1)


def _down(mean: Tensor) -> Tensor:
    """(2,): unit vector from the upper to the lower lip of the mean face."""
    return nnf.normalize(_gaps(mean).mean(-2), dim=-1)


def _meant(wide: Tensor, predicted: Tensor | None) -> Tensor:
    """Mix the fitted openings with those predicted from speech, where there are any."""
    return wide if predicted is None else torch.lerp(predicted.to(wide), wide, FITTED_SHARE)


def _flat(windows: Tensor) -> Tensor:
    """Flatten windows (..., W, C) to one vector each."""
    return thin_windows(windows).flatten(-2)


def _products(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of x^T x and x^T y over clips (F, I) and (F, O)."""
    inside = inputs[0].new_zeros(inputs[0].shape[1], inputs[0].shape[1])
    across = inputs[0].new_zeros(inputs[0].shape[1], targets[0].shape[1])
    for x, y in zip(inputs, targets, strict=True):
        inside.addmm_(x.T, x)
        across.addmm_(x.T, y)
    return inside, across


def _ridge(inside: Tensor, across: Tensor, sizes: Sequence[int], penalty: float) -> Tensor:
    """Solve a ridge regression; ``penalty`` is in mean variances of each of the input groups."""
    variances = inside.diagonal().split(list(sizes))
    added = torch.cat([v.mean().expand_as(v) for v in variances]) * penalty
    tiny = torch.finfo(inside.dtype).tiny ** 0.5
    found: Tensor = torch.linalg.solve(inside + torch.diag(added + tiny), across)
    return found
