"""Head motion and blinks of a speaker, fitted to footage in closed form.

    upper points = mean face + sum_k y_k(t) direction_k + closure(t) lids

The directions are principal ones of the upper points' movement with blinks taken out. Each y_k is a
critically damped oscillator pushed by white noise: the continuous AR(2) process whose covariance is
Matern's with nu = 3/2 (Hartikainen and Sarkka, "Kalman filtering and smoothing solutions to
temporal Gaussian process regression models", 2010). It is smooth, stationary, so it never drifts,
and as fast at every frame rate. Blinks are events: a Poisson process with a refractory time, whose
rate, depths and shape are those of the footage.

Speech moves none of it: how heads nod with what is said is not modelled.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from difftalker.errors import AvatarError
from difftalker.face.landmarks import UPPER

DIRECTIONS = 8
"""Principal directions; on GRID they hold 98 % of the upper points' variance, the rest is noise."""
LAG_S = 0.2
"""Time over which movement is measured, seconds; over less, the detector's noise dominates."""
SHUT = 0.5
"""Share of its usual opening below which an eye is in a blink."""
LONGEST_S = 0.4
"""Longest blink, seconds; longer closures are looks down (blinks take 0.1 to 0.4 s)."""
FEWEST_BLINKS = 5
"""Fewest blinks that are measured; with fewer, the defaults below apply."""
BLINKS_HZ = 26 / 60
"""Bentivoglio et al., "Analysis of blink rate patterns in normal subjects" (1997): conversation."""
REFRACTORY_S = 0.5
DEPTH = 0.9
"""Default depth of a blink: 1 is a shut eye."""
SHAPE_S = np.arange(-5, 16) * 0.04
"""Times from a blink's deepest point at which its shape is stored, seconds."""
CLOSING_S, REOPENING_S = 0.08, 0.16
"""Default times to and from a blink's deepest point, seconds: lids fall about twice as fast as they
rise."""
STEPS_HZ = 50
"""Steps a second of the simulated process; frames are interpolated between them."""

LIDS = ((37, 41), (38, 40), (43, 47), (44, 46))
"""Points of the upper lids, and those of the lower lids below them."""

Floats = NDArray[np.floating]
_UPPER_LID, _LOWER_LID = ([UPPER.index(pair[side]) for pair in LIDS] for side in (0, 1))
_KNOTS = 9


def eye_opening(upper: Floats) -> Floats:
    """(..., 37, 2) -> (...): mean distance of the lids, in the unit of the points."""
    gaps = upper[..., _UPPER_LID, :] - upper[..., _LOWER_LID, :]
    opening: Floats = np.linalg.norm(gaps, axis=-1).mean(-1)
    return opening


class HeadMotion(nn.Module):
    """Samples the upper points of a head that sways and blinks; it is fitted, not trained."""

    def __init__(self) -> None:
        super().__init__()
        points = len(UPPER)
        self.mean: Tensor
        self.directions: Tensor
        self.spread: Tensor
        self.pace: Tensor
        self.lids: Tensor
        self.blinks_hz: Tensor
        self.refractory_s: Tensor
        self.depths: Tensor
        self.shape: Tensor
        self.register_buffer("mean", torch.zeros(points, 2))
        # Directions of length 1; the spread, crop units, and pace, 1/s, along each.
        self.register_buffer("directions", torch.zeros(DIRECTIONS, points, 2))
        self.register_buffer("spread", torch.zeros(DIRECTIONS))
        self.register_buffer("pace", torch.ones(DIRECTIONS))
        # Movement of the points as the eyes shut, and quantiles of the depths of blinks.
        self.register_buffer("lids", torch.zeros(points, 2))
        self.register_buffer("blinks_hz", torch.tensor(BLINKS_HZ))
        self.register_buffer("refractory_s", torch.tensor(REFRACTORY_S))
        self.register_buffer("depths", torch.full((_KNOTS,), DEPTH))
        self.register_buffer("shape", torch.from_numpy(_usual_shape()).float())

    def fit(self, clips: Sequence[tuple[Floats, float]]) -> None:
        """Fit to clips: upper points (F, 37, 2) in a crop that stands still, and their frame rate.

        Raises:
            ValueError: there is no frame.
        """
        clips = [(points.astype(np.float64), fps) for points, fps in clips if len(points)]
        if not clips:
            raise ValueError("no frame to fit the movement of a head to")
        closures = _closures([points for points, _ in clips])
        blinks = _measured(closures, [fps for _, fps in clips])
        lids = _lids_of([points for points, _ in clips], closures, measured=blinks is not None)
        rest = [p - c[:, None, None] * lids for (p, _), c in zip(clips, closures, strict=True)]
        mean = np.concatenate(rest).mean(0)
        self._fit_directions([(one - mean, fps) for one, (_, fps) in zip(rest, clips, strict=True)])
        self._take(mean=mean, lids=lids)
        if blinks is not None:
            self._take(**vars(blinks))

    def sample(self, frames: int, fps: float, seed: int = 0) -> NDArray[np.float32]:
        """Upper points (frames, 37, 2), crop units; see ``stream``."""
        empty = np.zeros((0, len(UPPER), 2), np.float32)
        return np.concatenate([empty, *self.stream(frames, fps, seed)])

    def stream(
        self, frames: int, fps: float, seed: int = 0, *, piece: int = 256
    ) -> Iterator[NDArray[np.float32]]:
        """Yield the points of ``sample`` in pieces of ``piece`` frames, bit for bit the same.

        A seed gives the same movement at every frame rate.

        Raises:
            AvatarError: the numbers of the model are not finite.
        """
        held = {name: one.double().cpu().numpy() for name, one in self.named_buffers()}
        if not all(np.isfinite(one).all() for one in held.values()):
            raise AvatarError(
                "the avatar's model of head movement holds numbers that are not finite",
                fix="train the avatar again, or take its folder anew from where it came",
            )
        sway = _Sway(held["spread"], held["pace"], np.random.default_rng([seed, 0]))
        blinks = _Blinks(held, np.random.default_rng([seed, 1]))
        for start in range(0, frames, piece):
            times_s = np.arange(start, min(start + piece, frames)) / fps
            points = held["mean"] + blinks.at(times_s)[:, None, None] * held["lids"]
            # One by one: a matrix product rounds differently for pieces of another length.
            for y, direction in zip(sway.at(times_s).T, held["directions"], strict=True):
                points = points + y[:, None, None] * direction
            yield points.astype(np.float32)

    def _fit_directions(self, clips: Sequence[tuple[Floats, float]]) -> None:
        """Directions, spread and pace of deviations (F, 37, 2) from the mean face."""
        flat = [one.reshape(len(one), -1) for one, _ in clips]
        every = np.concatenate(flat)
        variances, axes = np.linalg.eigh(every.T @ every / len(every))
        spread = np.sqrt(np.maximum(variances[::-1][:DIRECTIONS], 0))
        axes = axes[:, ::-1][:, :DIRECTIONS]
        paths = [(one @ axes, fps) for one, (_, fps) in zip(flat, clips, strict=True)]
        pace = _pace(_correlation(paths, spread))
        self._take(directions=axes.T.reshape(-1, len(UPPER), 2), spread=spread, pace=pace)

    @torch.no_grad()
    def _take(self, **found: Floats) -> None:
        for name, value in found.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.from_numpy(np.array(value, np.float64, order="C")))


@dataclass(frozen=True, kw_only=True)
class _BlinksFound:
    """Statistics of the blinks in footage that shows enough of them."""

    blinks_hz: Floats
    refractory_s: Floats
    depths: Floats
    shape: Floats


class _Sway:
    """Samples the directions' processes at rising times, in constant memory."""

    def __init__(self, spread: Floats, pace: Floats, rng: np.random.Generator) -> None:
        self._rng, pace = rng, np.clip(pace, 1e-2, 1e2)
        self._carry, self._push = _transition(spread, pace, 1 / STEPS_HZ)
        speeds = np.stack([spread, spread * pace], 1)
        self._state = speeds * rng.standard_normal(speeds.shape)
        self._step, self._last = 0, self._state[:, 0]
        self._next()

    def at(self, times_s: Floats) -> Floats:
        """(n,) seconds -> (n, directions), interpolated linearly between steps."""
        out = np.empty((len(times_s), len(self._last)))
        for row, place in zip(out, times_s * STEPS_HZ, strict=True):
            while self._step < place:
                self._next()
            share = place - (self._step - 1)
            row[:] = (1 - share) * self._last + share * self._state[:, 0]
        return out

    def _next(self) -> None:
        self._last = self._state[:, 0]
        noise = self._rng.standard_normal(self._state.shape)
        carried = self._carry @ self._state[:, :, None] + self._push @ noise[:, :, None]
        self._state = carried[:, :, 0]
        self._step += 1


class _Blinks:
    """Samples how far the eyes are shut, 0 to 1, at rising times."""

    def __init__(self, held: dict[str, Floats], rng: np.random.Generator) -> None:
        self._rng, self._depths, self._shape = rng, held["depths"], held["shape"]
        # An avatar may come from anywhere: no rate may make this endless.
        self._refractory_s = float(np.clip(held["refractory_s"], 0.1, 60))
        mean_s = 1 / float(np.clip(held["blinks_hz"], 1e-3, 5))
        self._more_s = max(mean_s - self._refractory_s, 1e-3)
        self._near: list[tuple[float, float]] = []
        self._next_s = self._wait()

    def at(self, times_s: Floats) -> Floats:
        """(n,) -> (n,)."""
        return np.array([self._one(float(time_s)) for time_s in times_s])

    def _one(self, time_s: float) -> float:
        while self._next_s + SHAPE_S[0] <= time_s:
            depth = np.interp(self._rng.random(), np.linspace(0, 1, _KNOTS), self._depths)
            self._near.append((self._next_s, float(depth)))
            self._next_s += self._wait()
        self._near = [blink for blink in self._near if time_s <= blink[0] + SHAPE_S[-1]]
        shut = [d * np.interp(time_s - at_s, SHAPE_S, self._shape) for at_s, d in self._near]
        return float(np.clip(max(map(float, shut), default=0.0), 0, 1))

    def _wait(self) -> float:
        return self._refractory_s + float(self._rng.exponential(self._more_s))


def _transition(spread: Floats, pace: Floats, step_s: float) -> tuple[Floats, Floats]:
    """Transition of place and speed over a step, and the noise's factor; (directions, 2, 2) each.

    Exact: exp(A dt) of A = [[0, 1], [-pace^2, -2 pace]], and a root of the noise covariance
    of the stationary process.
    """
    a = pace * step_s
    carry = np.stack([1 + a, step_s + 0 * a, -pace * a, 1 - a], -1).reshape(-1, 2, 2)
    carry *= np.exp(-a)[:, None, None]
    still = np.zeros_like(carry)
    still[:, 0, 0], still[:, 1, 1] = 1, pace**2
    added = still - carry @ still @ carry.transpose(0, 2, 1)
    return carry, np.asarray(np.linalg.cholesky(added) * spread[:, None, None])


def _correlation(paths: Sequence[tuple[Floats, float]], spread: Floats) -> Floats:
    """(directions,): correlation of places ``LAG_S`` apart, from the movement in that time."""
    moved, count = np.zeros(len(spread)), 0
    for path, fps in paths:
        lag = max(1, round(LAG_S * fps))
        steps = path[lag:] - path[:-lag]
        # At low frame rates the lag is longer; the movement is scaled as for short times.
        moved, count = moved + (steps**2).sum(0) * (LAG_S * fps / lag) ** 2, count + len(steps)
    found: Floats = 1 - moved / max(count, 1) / (2 * np.maximum(spread, 1e-9) ** 2)
    return found


def _pace(correlation: Floats) -> Floats:
    """The pace p at which (1 + p lag) exp(-p lag) is that correlation, 1/s."""
    grid = np.geomspace(0.1, 30, 400)
    there = (1 + grid * LAG_S) * np.exp(-grid * LAG_S)
    pace: Floats = np.interp(-correlation, -there, grid)
    return pace


def _closures(clips: Sequence[Floats]) -> list[Floats]:
    """How far the eyes are shut, (F,) for each clip: 0 at their usual opening, 1 shut."""
    openings = [eye_opening(points) for points in clips]
    usual = max(float(np.median([np.median(one) for one in openings])), 1e-6)
    return [np.clip(1 - one / usual, 0, 1) for one in openings]


def _lids_of(clips: Sequence[Floats], closures: Sequence[Floats], *, measured: bool) -> Floats:
    """Movement of the upper points from open to shut eyes, (37, 2)."""
    mean = np.concatenate(clips).mean(0)
    if not measured:
        lids = np.zeros_like(mean)
        lids[_UPPER_LID] = mean[_LOWER_LID] - mean[_UPPER_LID]
        return np.asarray(lids)
    moved = np.concatenate([one - one.mean(0) for one in clips])
    shut = np.concatenate([one - one.mean() for one in closures])
    slope: Floats = np.tensordot(shut, moved, 1) / (shut**2).sum()
    return slope


def _measured(closures: Sequence[Floats], rates: Sequence[float]) -> _BlinksFound | None:
    """Measure the blinks; None where there are too few."""
    gaps_s: list[float] = []
    depths: list[float] = []
    shapes: list[Floats] = []
    for closure, fps in zip(closures, rates, strict=True):
        peaks = _peaks(closure, fps)
        gaps_s += (np.diff(peaks) / fps).tolist()
        depths += closure[peaks].tolist()
        times_s = np.arange(len(closure)) / fps
        for peak in peaks:
            at = times_s[peak] + SHAPE_S
            seen = np.interp(at, times_s, closure, left=np.nan, right=np.nan)
            shapes.append(seen / closure[peak])
    if len(depths) < FEWEST_BLINKS:
        return None
    seconds = sum(len(one) / fps for one, fps in zip(closures, rates, strict=True))
    every_s = seconds / len(depths)
    soonest_s = float(np.quantile(gaps_s, 0.02)) if len(gaps_s) else REFRACTORY_S
    return _BlinksFound(
        blinks_hz=np.array(1 / every_s),
        refractory_s=np.array(min(soonest_s, every_s)),
        depths=np.quantile(depths, np.linspace(0, 1, _KNOTS)),
        shape=_typical(np.stack(shapes)),
    )


def _peaks(closure: Floats, fps: float) -> NDArray[np.int64]:
    """Frames at which blinks are deepest; blinks cut off by a clip do not count."""
    edges = np.flatnonzero(np.diff(np.r_[0, closure > SHUT, 0]))
    spans = zip(edges[::2], edges[1::2], strict=True)
    whole = [
        (low, high)
        for low, high in spans
        if low > 0 and high < len(closure) and high - low <= LONGEST_S * fps
    ]
    return np.array([low + closure[low:high].argmax() for low, high in whole], np.int64)


def _typical(shapes: Floats) -> Floats:
    """The median of shapes (n, times) with gaps, 0 to 1; it starts and ends open."""
    seen = np.isfinite(shapes).any(0)
    middle = np.where(seen, np.nanmedian(np.where(seen, shapes, 0), 0), 0)
    deepest = int(np.argmin(np.abs(SHAPE_S)))
    # Neighbouring blinks would lift the tails.
    middle[:deepest] = np.minimum.accumulate(middle[:deepest][::-1])[::-1]
    middle[deepest:] = np.minimum.accumulate(middle[deepest:])
    low = np.interp(SHAPE_S, [SHAPE_S[0], 0, SHAPE_S[-1]], [middle[0], 0, middle[-1]])
    typical: Floats = np.clip(middle - low, 0, 1)
    return typical


def _usual_shape() -> Floats:
    """A blink's shape where none is measured."""
    widths = np.where(SHAPE_S < 0, CLOSING_S, REOPENING_S)
    shape: Floats = np.exp(-((SHAPE_S / widths) ** 2))
    return shape
