"""Where landmark completion begins: least squares of the upper points and the speech.

Minutes of footage are little for a transformer and plenty for a linear map. The map is fitted in
closed form, in seconds; LF-, BM- and AM-Trans learn what it cannot say.

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
from difftalker.landmarks.opening_net import EVERY, heard

PENALTY = 0.1
"""On the coefficients, in variances of what is seen and heard (ridge regression)."""
OTHER_SPEECH = 0.3
"""Weight of faces that hear another clip, for the lips' opening: in dubbing it has to follow the
speech, however much the upper face tells of what was really said."""
FITTED_SHARE = 0.5
"""Of the opening as it is fitted to face and speech, beside that which is heard in speech alone."""
TURNS = 0.03
"""By how much heads turn (rad) and grow, beside how they do in the footage."""
ENOUGH_FRAMES = 1500
"""Below so many, maps fitted to another speaker do better than new ones: only means are new."""
KNOTS = 33
"""Of the curve from openings as they are fitted to openings as they are."""


class LeastSquares(nn.Module):
    """Lower points from upper ones, and what speech adds, in closed form."""

    def __init__(self, config: CompletionConfig, moved: int) -> None:
        """``moved``: how many of the lower points speech moves, counted from the end."""
        super().__init__()
        self.moved = moved
        inputs = len(range(0, config.window, EVERY)) * config.feature_dim if moved else 0
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
        """(B, F, 37, 2) -> (B, F, 31, 2)."""
        lower: Tensor = nnf.linear(upper.flatten(2), self.from_upper).unflatten(2, (-1, 2))
        return lower

    def speech(self, windows: Tensor) -> Tensor:
        """What speech adds; (B, F, W, C) -> (B, F, moved, 2)."""
        speech = _flat(windows) - self.mean_speech
        offsets: Tensor = nnf.linear(speech, self.from_speech).unflatten(2, (-1, 2))
        return offsets

    def opened(self, lower: Tensor, mean: Tensor, said: Tensor | None = None) -> Tensor:
        """Lower points themselves, (B, F, 31, 2), with lips as open as real ones.

        ``said`` (B, F) is the opening that is heard, ``mean`` (31, 2) the mean lower face. A fit
        keeps to the middle: it never opens so wide, nor shuts. The curve is that from quantiles of
        its openings to those of real ones.
        """
        wide = openings(lower, mean)
        meant = _meant(wide, said).contiguous()
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
        said: Sequence[Tensor] | None = None,
    ) -> None:
        """Fit to clips, (F, 37, 2), (F, 31, 2) and (F, W, C) each, and what is heard, (F,).

        ``mean`` is the mean face, (37, 2) and (31, 2), around the middle of the upper points.
        Of few frames a map that is there already takes the mean of the speech alone.
        """
        frames = sum(map(len, windows))
        keeps = self.stays(frames)
        if self.moved:
            total = torch.stack([_flat(w).sum(0) for w in windows]).sum(0)
            self.mean_speech.copy_(total / frames)
        if keeps:
            return
        turned = [_turned(points, frames) for points in mean]
        seen, wanted = (
            [one.flatten(1) for one in (*group, more)]
            for group, more in zip((upper, lower), turned, strict=True)
        )
        sizes = [seen[0].shape[1]]
        self.from_upper.copy_(_ridge(*_products(seen, wanted), sizes).T)
        if not self.moved:
            return
        both = [
            torch.cat([s, _flat(w) - self.mean_speech], 1)
            for s, w in zip(seen, windows, strict=False)
        ]
        both.append(nnf.pad(seen[-1], (0, len(self.mean_speech))))
        sizes.append(len(self.mean_speech))
        lips = _lip_basis(self.moved).to(self.from_upper)
        inside, across = _products(both, [w[:, -2 * self.moved :] @ lips.T for w in wanted])
        found = _ridge(inside, across, sizes)
        # Faces that hear another clip: what is seen and what is heard have nothing in common.
        seen_at, heard_at = slice(sizes[0]), slice(sizes[0], None)
        for block in (seen_at, heard_at):
            inside[block, block] *= 1 + OTHER_SPEECH
        across[heard_at] *= 1 + OTHER_SPEECH
        rows = _gap_rows(self.moved)
        found[:, rows] = _ridge(inside, across[:, rows], sizes)
        maps = torch.linalg.solve(lips, found.T)
        self.from_upper[-2 * self.moved :].copy_(maps[:, seen_at])
        self.from_speech.copy_(maps[:, heard_at])
        self._fit_openings(upper, lower, windows, mean[1], said)

    def stays(self, frames: int) -> bool:
        """Whether so many frames are too few to fit a map anew that is there already."""
        return frames < ENOUGH_FRAMES and bool(self.from_upper.any())

    def _fit_openings(
        self,
        upper: Sequence[Tensor],
        lower: Sequence[Tensor],
        windows: Sequence[Tensor],
        mean_lower: Tensor,
        said: Sequence[Tensor] | None,
    ) -> None:
        fitted: list[Tensor] = []
        real: list[Tensor] = []
        for i, (u, w, true) in enumerate(zip(upper, windows, lower, strict=True)):
            made = self.before_speech(u[None])
            made[:, :, -self.moved :] += self.speech(w[None])
            wide = openings(made[0] + mean_lower, mean_lower)
            fitted.append(_meant(wide, said[i] if said else None))
            real.append(openings(true + mean_lower, mean_lower))
        at = torch.linspace(0, 1, KNOTS, device=mean_lower.device)
        # Knots that coincide would divide by zero.
        apart = torch.arange(KNOTS, device=mean_lower.device) * 1e-4
        self.fitted.copy_(torch.quantile(torch.cat(fitted), at) + apart)
        self.real.copy_(torch.quantile(torch.cat(real), at) + apart)


def _turned(points: Tensor, frames: int) -> Tensor:
    """How a face (P, 2) changes as it turns and as it grows, as rows of a fit; (2, P, 2).

    A head that turns in the picture takes the mouth along, be there such footage or not.
    """
    turning = torch.stack([-points[:, 1], points[:, 0]], 1)
    rows: Tensor = torch.stack([turning, points]) * (TURNS * float(frames) ** 0.5)
    return rows


_ABOVE = [LOWER.index(point) for point in ABOVE_GAP]
_BELOW = [LOWER.index(point) for point in BELOW_GAP]
_FOLLOW = torch.zeros(len(LOWER))
"""(31,): inner lips that face each other all part by the same way, and outer ones go with them."""
_FOLLOW[_BELOW], _FOLLOW[_ABOVE] = 1.0, -1.0
for _outer, _inner, _share in OUTER_FOLLOWS:
    _FOLLOW[LOWER.index(_outer)] = _share * _FOLLOW[LOWER.index(_inner)]


def _gaps(lower: Tensor) -> Tensor:
    """From the inner upper lip to the lower one; (..., 31, 2) -> (..., 3, 2)."""
    return lower[..., _BELOW, :] - lower[..., _ABOVE, :]


def _gap_rows(moved: int) -> list[int]:
    """Which of the coordinates of ``_lip_basis`` are gaps between the lips."""
    first = 2 * (len(LOWER) - moved)
    return [2 * point + axis - first for point in _BELOW for axis in (0, 1)]


def _lip_basis(moved: int) -> Tensor:
    """(2 moved, 2 moved): coordinates to the same, but middles and gaps for the inner lips."""
    basis, first = torch.eye(2 * moved), 2 * (len(LOWER) - moved)
    for above, below in zip(_ABOVE, _BELOW, strict=True):
        for axis in (0, 1):
            up, down = (2 * point + axis - first for point in (above, below))
            basis[up, [up, down]] = 0.5
            basis[down, up] = -1.0
    return basis


def openings(lower: Tensor, mean: Tensor) -> Tensor:
    """How far lips (..., 31, 2) are apart, down the mean face (31, 2); (...,), below 0 crossed."""
    return (_gaps(lower) * _down(mean)).sum(-1).mean(-1)


def _down(mean: Tensor) -> Tensor:
    """(2,): the way from the upper lip to the lower one in the mean face."""
    return nnf.normalize(_gaps(mean).mean(-2), dim=-1)


def _meant(wide: Tensor, said: Tensor | None) -> Tensor:
    """Openings as fitted, and as heard where something is."""
    return wide if said is None else torch.lerp(said.to(wide), wide, FITTED_SHARE)


def _flat(windows: Tensor) -> Tensor:
    """Windows (..., W, C) as one vector each."""
    return heard(windows).flatten(-2)


def _products(inputs: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Sums of x^T x and x^T y over clips (F, I) and (F, O)."""
    inside = inputs[0].new_zeros(inputs[0].shape[1], inputs[0].shape[1])
    across = inputs[0].new_zeros(inputs[0].shape[1], targets[0].shape[1])
    for x, y in zip(inputs, targets, strict=True):
        inside.addmm_(x.T, x)
        across.addmm_(x.T, y)
    return inside, across


def _ridge(inside: Tensor, across: Tensor, sizes: Sequence[int]) -> Tensor:
    """Ridge regression; the inputs come in groups of these sizes, each with its own penalty."""
    variances = inside.diagonal().split(list(sizes))
    penalty = torch.cat([v.mean().expand_as(v) for v in variances]) * PENALTY
    tiny = torch.finfo(inside.dtype).tiny ** 0.5
    found: Tensor = torch.linalg.solve(inside + torch.diag(penalty + tiny), across)
    return found
