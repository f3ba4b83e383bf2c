"""Upper points and speech in, all 68 points out: Section 2.3 in use.

A completer is a replaceable part of an avatar: anything with these two methods can take its place.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from difftalker.core.jobs import Progress, no_progress
from difftalker.face.landmarks import LOWER, UPPER
from difftalker.landmarks.completion import CompletionNet
from difftalker.landmarks.edits import NO_CUTS, Cuts, Points
from difftalker.landmarks.silence_hold import hold_silence
from difftalker.speech.speech import Speech, Times
from difftalker.speech.windows import Floats, WindowStream

PIECE_FRAMES = 128
"""Frames completed at once: few enough for little memory, many against their neighbours."""


class Completer(abc.ABC):
    """What completes landmarks."""

    @abc.abstractmethod
    def complete(
        self,
        upper_crop: Points,
        times_s: Times,
        speech: Speech,
        *,
        found: NDArray[np.bool_] | None = None,
        cuts: Cuts = NO_CUTS,
        progress: Progress = no_progress,
    ) -> Points:
        """All points (frames, 68, 2) for upper ones (frames, 37, 2), crop units, at these times.

        ``found`` (frames,) says where there is a face, by default everywhere; at ``cuts`` a shot
        begins.

        Raises:
            MediaError: the speech cannot be encoded.
        """

    @abc.abstractmethod
    def neutral(self, points_crop: Points) -> Points:
        """Points (68, 2), crop units, with the mean lower face under these upper ones."""


class TransformerCompleter(Completer):
    """LF-Trans, BM-Trans and AM-Trans, and a mouth that is held where nothing is said."""

    def __init__(self, net: CompletionNet, device: str = "cpu") -> None:
        self._net, self._device = net, device

    def complete(
        self,
        upper_crop: Points,
        times_s: Times,
        speech: Speech,
        *,
        found: NDArray[np.bool_] | None = None,
        cuts: Cuts = NO_CUTS,
        progress: Progress = no_progress,
    ) -> Points:
        """All points (frames, 68, 2); see :meth:`Completer.complete`."""
        pieces = []
        windows = _sliding(speech.windows(times_s), times_s)
        for piece in complete_in_pieces(
            self._net, upper_crop, windows, frames=PIECE_FRAMES, device=self._device
        ):
            pieces.append(piece)
            progress("complete", sum(map(len, pieces)), len(times_s))
        points = np.concatenate(pieces)
        if not self._net.config.hold_in_silence:
            return points
        seen = np.ones(len(times_s), bool) if found is None else found
        return hold_silence(points, times_s, seen, speech.silent(times_s), cuts)

    def neutral(self, points_crop: Points) -> Points:
        """Points (68, 2); see :meth:`Completer.neutral`."""
        points = points_crop.copy()
        mean = self._net.neutral_face(torch.from_numpy(points[None, list(UPPER)]))
        points[list(LOWER)] = mean[0].cpu().numpy()
        return points


def complete_in_pieces(
    net: CompletionNet,
    upper_crop: Points,
    windows: Callable[[int, int], Floats],
    *,
    frames: int,
    device: str = "cpu",
) -> Iterator[Points]:
    """Complete upper points (F, 37, 2), so many ``frames`` at once, as (n, 68, 2).

    ``windows(low, high)`` gives the speech (n, W, features) around neighbouring frames; both rise
    from call to call. The network is given as many frames on either side as it reaches. In pieces,
    as attention over time grows with the square of its length.
    """
    upper = torch.from_numpy(upper_crop)
    for start in range(0, len(upper), frames):
        stop = min(start + frames, len(upper))
        low, high = max(0, start - net.reach), min(len(upper), stop + net.reach)
        with torch.inference_mode():
            out = net(
                upper[None, low:high].to(device),
                torch.from_numpy(windows(low, high)[None]).to(device),
            )
        yield out.points[0, start - low : stop - low].float().cpu().numpy()


def _sliding(stream: WindowStream, times_s: Times) -> Callable[[int, int], Floats]:
    """The windows of a range of frames; those before it are let go."""
    held, first = stream.take(times_s[:0]), 0

    def windows(low: int, high: int) -> Floats:
        nonlocal held, first
        taken = first + len(held)
        held = np.concatenate([held[low - first :], stream.take(times_s[taken:high])])
        first = low
        return held

    return windows
